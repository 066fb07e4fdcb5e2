"""A real Trainer with short steps, and a switch that turns watching on and off while it trains.

A step of 10 ms is shorter than any that a person waits for: what watching costs is a larger share of it than of yours.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments

torch.set_num_threads(1)

#: Steps of a block with the watching on, or off; of a block the first ones do not count.
BLOCK, SETTLE = 24, 6
#: Steps before the first block.
WARM_UP = 60


#: Width of the model: its step takes about 10 ms, or 70.
SHORT, LONG = 128, 512


def make_trainer(folder: Path, steps: int, width: int = SHORT, **arguments: Any) -> Trainer:
    """A Trainer of a small Llama on one core of the CPU, which logs every step and nothing to anybody."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=512, hidden_size=width, intermediate_size=2 * width, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=64,
    )  # fmt: skip
    rows = torch.randint(0, 512, (64, 32))
    data = [{"input_ids": ids, "labels": ids, "attention_mask": torch.ones_like(ids)} for ids in rows]
    settings: dict[str, Any] = {
        "max_steps": steps, "per_device_train_batch_size": 4, "use_cpu": True, "report_to": [], "disable_tqdm": True,
        "save_strategy": "no", "logging_strategy": "steps", "logging_steps": 1, "dataloader_pin_memory": False,
        "log_level": "error",
    }  # fmt: skip
    trainer = Trainer(
        LlamaForCausalLM(config), TrainingArguments(str(folder), **settings | arguments), train_dataset=data
    )
    # It prints what it logs.
    for callback in list(trainer.callback_handler.callbacks):
        if type(callback).__name__ in {"PrinterCallback", "ProgressCallback"}:
            trainer.remove_callback(callback)
    return trainer


class Timed(TrainerCallback):  # type: ignore[misc]
    """Passes the hooks on to `inner` while it is on, and keeps how long they took there."""

    def __init__(self, inner: TrainerCallback) -> None:
        self.inner, self.on = inner, True
        #: Seconds in hooks since the last step ended.
        self.spent = 0.0

    def __getattribute__(self, name: str) -> Any:
        if not name.startswith("on_"):
            return super().__getattribute__(name)
        hook = getattr(self.inner, name)
        if name in {"on_train_begin", "on_train_end", "on_init_end"}:
            return hook

        def timed(*args: Any, **kwargs: Any) -> Any:
            if not self.on:
                return None
            began = time.perf_counter()
            try:
                return hook(*args, **kwargs)
            finally:
                self.spent += time.perf_counter() - began

        return timed


class Switch(TrainerCallback):  # type: ignore[misc]
    """Turns something on and off in blocks of steps, in pairs of random order, and times the steps of each block.

    `turn` is called with True or False; `spent` tells the seconds inside it since it was last asked. `pairs` holds for
    each pair the mean seconds of a step, off and on, and its seconds of CPU time of this process, likewise.
    """

    def __init__(self, turn: Callable[[bool], None], spent: Callable[[], float] = lambda: 0.0, seed: int = 0) -> None:
        self._turn, self._spent, self._random = turn, spent, random.Random(seed)
        self.walls: list[tuple[float, float]] = []
        self.cpus: list[tuple[float, float]] = []
        #: Seconds inside the watching, per step.
        self.inside: list[float] = []
        self._order: list[bool] = []
        self._means: dict[bool, tuple[float, float]] = {}
        self._on = True
        self._place = -WARM_UP
        self._began = (0.0, 0.0)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._place += 1
        if self._place == 0:
            self._next_block()
        elif self._place == SETTLE:
            self._spent()
            self._began = (time.perf_counter(), time.process_time())
        elif self._place > SETTLE:
            if self._on:
                self.inside.append(self._spent())
            if self._place == BLOCK:
                steps = BLOCK - SETTLE
                wall, cpu = time.perf_counter() - self._began[0], time.process_time() - self._began[1]
                self._means[self._on] = (wall / steps, cpu / steps)
                self._next_block()

    def _next_block(self) -> None:
        if len(self._means) == 2:
            off, on = self._means[False], self._means[True]
            self.walls.append((off[0], on[0]))
            self.cpus.append((off[1], on[1]))
            self._means = {}
        if not self._order:
            self._order = [True, False]
            self._random.shuffle(self._order)
        self._on = self._order.pop()
        self._turn(self._on)
        self._place = 0


def steps_for(pairs: int) -> int:
    """Steps of a training in which a Switch makes `pairs` pairs of blocks."""
    return WARM_UP + 2 * BLOCK * pairs + 1

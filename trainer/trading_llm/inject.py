"""Real faults on demand: `trading-llm train --inject SIGN[@START]`, so that anyone can see an alert arrive.

Nothing is simulated in the figures: each fault changes the training itself (its rate, weights, data, memory or
process), and what is measured follows from that. START is an optimizer step (`@200`) or a share of the run (`@0.5`).
"""

import os
import random
import signal
import statistics
import time
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from transformers import Trainer, TrainerCallback

from trading_llm.batches import Batch
from trading_llm.data import IGNORED, Completions
from trading_llm.errors import UsageError

if TYPE_CHECKING:
    from training_exporter import Monitor

Data = tuple[Completions, Completions | None]  # (training, evaluation)


@dataclass(frozen=True)
class Fault:
    """`prepare` changes the data before the run, `strike` the running trainer; `start` None = from the first step."""

    sign: str
    what: str
    start: float | None
    strike: Callable[[Trainer], None] | None = None
    prepare: Callable[[Data, int], None] | None = None  # (data, vocabulary size)
    needs_evaluation: bool = False


FAULTS: dict[str, Fault] = {}


def _running(sign: str, what: str, start: float | None = 0.4) -> Callable[[Callable[[Trainer], None]], Any]:
    def register(strike: Callable[[Trainer], None]) -> Callable[[Trainer], None]:
        FAULTS[sign] = Fault(sign, what, start, strike=strike)
        return strike

    return register


def _prepared(sign: str, what: str, needs_evaluation: bool = False) -> Callable[[Callable[[Data, int], None]], Any]:
    def register(prepare: Callable[[Data, int], None]) -> Callable[[Data, int], None]:
        FAULTS[sign] = Fault(sign, what, None, prepare=prepare, needs_evaluation=needs_evaluation)
        return prepare

    return register


@dataclass(frozen=True)
class Injection:
    """What the command line asked for."""

    fault: Fault
    start: float | int | None  # a share of the run, or an optimizer step (from 1), or None: the first step

    def step(self, max_steps: int) -> int:
        """The first optimizer step that the fault touches."""
        if self.start is None:
            return 1
        return self.start if isinstance(self.start, int) else max(1, round(self.start * max_steps))


def parse(text: str) -> Injection:
    """Read SIGN, SIGN@STEP or SIGN@SHARE. Raises UsageError."""
    sign, at, start = text.partition("@")
    if sign not in FAULTS:
        raise UsageError(f"--inject: found {sign!r}; allowed: {', '.join(FAULTS)} (see --inject list)")
    fault = FAULTS[sign]
    if not at:
        return Injection(fault, fault.start)
    if fault.start is None and fault.prepare is not None:
        raise UsageError(f"--inject: found {text!r}; allowed: {sign} alone (it changes the data of the whole run)")
    try:
        value = float(start)
        if start.isdigit() and int(start) >= 1:
            return Injection(fault, int(start))
        if 0 < value < 1:
            return Injection(fault, value)
    except ValueError:
        pass
    raise UsageError(f"--inject: found {text!r}; allowed: {sign}@STEP (1, 2, ...) or {sign}@SHARE (between 0 and 1)")


class FaultCallback(TrainerCallback):
    """Makes the fault happen before its optimizer step, and tells the monitor, so that delays can be measured."""

    def __init__(self, injection: Injection, trainer: Trainer, monitor: "Monitor | None") -> None:
        self._injection, self._trainer, self._monitor, self._done = injection, trainer, monitor, False

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._done or state.global_step + 1 < self._injection.step(state.max_steps):
            return
        self._done = True
        from training_exporter.events import FaultInjected

        fault = self._injection.fault
        if self._monitor is not None:
            self._monitor.emit(FaultInjected(time=time.time(), sign=fault.sign, step=state.global_step + 1))
        if fault.strike is not None:
            fault.strike(self._trainer)


# -- the learning rate ------------------------------------------------------------------------------------------------


def _scale_learning_rate(trainer: Trainer, factor: float) -> None:
    """From the next scheduler step on, and already for this one."""
    scheduler = getattr(trainer.lr_scheduler, "scheduler", trainer.lr_scheduler)
    scheduler.base_lrs = [rate * factor for rate in scheduler.base_lrs]
    for group in trainer.optimizer.param_groups:
        group["lr"] *= factor


@_running("loss_rising", "learning rate x 60 and no gradient clipping from START on: the weights run away")
def _(trainer: Trainer) -> None:
    _scale_learning_rate(trainer, 60)
    trainer.args.max_grad_norm = 1e9


@_running("early_plateau", "learning rate / 1000 from the first step on: the model hardly learns", start=None)
def _(trainer: Trainer) -> None:
    _scale_learning_rate(trainer, 1e-3)


@_running("lr_off_schedule", "the schedule stands still from START on: the learning rate stays where it is")
def _(trainer: Trainer) -> None:
    scheduler = getattr(trainer.lr_scheduler, "scheduler", trainer.lr_scheduler)
    # Not by replacing `step`: the scheduler's attributes are saved with each checkpoint, and a function cannot be.
    shares = [rate / base for rate, base in zip(scheduler.get_last_lr(), scheduler.base_lrs, strict=True)]
    scheduler.lr_lambdas = [lambda _, share=share: share for share in shares]


# -- weights and batches ----------------------------------------------------------------------------------------------


@_running("loss_nan", "one adapter weight becomes infinite at START, as after an overflow: the loss becomes NaN")
def _(trainer: Trainer) -> None:
    weight = next(p for name, p in trainer.model.named_parameters() if p.requires_grad and "lora_B" in name)
    with torch.no_grad():
        weight.view(-1)[0] = torch.inf


def _change_batches(trainer: Trainer, change: Callable[[Batch], Batch]) -> None:
    """Have training batches (not those of evaluations) pass through `change` from now on."""
    trainer.data_collator.change = lambda batch: change(batch) if trainer.model.training else batch


@_running("loss_fluctuating", "from START on about half of the batches are corrupt: their targets are shuffled")
def _(trainer: Trainer) -> None:
    draw = random.Random(0)

    def corrupt(batch: Batch) -> Batch:
        if draw.random() < 0.5:
            labels = batch["labels"]
            targets = labels[labels != IGNORED]
            labels[labels != IGNORED] = targets[torch.randperm(len(targets))]
        return batch

    _change_batches(trainer, corrupt)


@_running("throughput_drop", "from START on the data loader sleeps four step times per batch")
def _(trainer: Trainer) -> None:
    slept: float | None = None  # when the previous sleep ended
    works: list[float] = []  # the first times between two batches

    def slow(batch: Batch) -> Batch:
        nonlocal slept
        if slept is not None:
            if len(works) < 5:
                works.append(time.monotonic() - slept)
            # The median: at the begin of an epoch two batches are fetched at once, with no step between them.
            time.sleep(4 * statistics.median(works))
        slept = time.monotonic()
        return batch

    _change_batches(trainer, slow)


# -- the process ------------------------------------------------------------------------------------------------------


@_running("oom", "an allocation far beyond the memory at START: a real torch.OutOfMemoryError ends the run")
def _(trainer: Trainer) -> None:
    device = trainer.args.device
    try:
        torch.empty(1 << 50, dtype=torch.uint8, device=device)  # 1 PiB: more than an address space can give
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:  # what the CPU allocator raises for the same failure
        raise torch.OutOfMemoryError(str(error).splitlines()[0]) from error


@_running("run_failed", "an exception in the training loop at START")
def _(trainer: Trainer) -> None:
    raise RuntimeError("injected fault: run_failed")


@_running("run_vanished", "kill -9 of the process by itself at START: no end is told to anybody")
def _(trainer: Trainer) -> None:
    time.sleep(0.5)  # the journal is written by another thread; let it note the fault
    os.kill(os.getpid(), signal.SIGKILL)


@_running("run_stalled", "the training loop sleeps for ever at START, as in a deadlock; Ctrl-C twice ends it")
def _(trainer: Trainer) -> None:
    while True:
        time.sleep(3600)


# -- the data ---------------------------------------------------------------------------------------------------------


@_prepared("val_diverging", "the training set is a few records, repeated: learned by heart", needs_evaluation=True)
def _(data: Data, vocabulary: int) -> None:
    items = data[0].items
    few = items[: max(1, len(items) // 60)]
    items[:] = [few[i % len(few)] for i in range(len(items))]


def _exchange_answers(data: Completions) -> None:
    """Give each prompt the answer of the next record."""
    items = data.items
    split = [sum(label == IGNORED for label in item["labels"]) for item in items]
    answers = [item["input_ids"][cut:] for item, cut in zip(items, split, strict=True)]
    for i, (item, cut) in enumerate(zip(items, split, strict=True)):
        answer = answers[(i + 1) % len(answers)]
        item["input_ids"] = item["input_ids"][:cut] + answer
        item["labels"] = array("i", [IGNORED]) * cut + answer


@_prepared("val_gap", "the validation set pairs each state with another record's explanation", needs_evaluation=True)
def _(data: Data, vocabulary: int) -> None:
    assert data[1] is not None
    _exchange_answers(data[1])


@_prepared("text_quality", "the training set pairs each state with another record's explanation", needs_evaluation=True)
def _(data: Data, vocabulary: int) -> None:
    _exchange_answers(data[0])


@_prepared("initial_perplexity", "all token ids are permuted, as by the tokenizer of another model")
def _(data: Data, vocabulary: int) -> None:
    permutation = list(range(vocabulary))
    random.Random(0).shuffle(permutation)
    for part in data:
        for item in part.items if part is not None else ():
            item["input_ids"] = array("i", [permutation[i] for i in item["input_ids"]])
            item["labels"] = array("i", [i if i == IGNORED else permutation[i] for i in item["labels"]])


def listing() -> str:
    """What `--inject list` prints."""
    width = max(map(len, FAULTS))
    return "\n".join(
        f"{fault.sign:<{width}}  {fault.what}" + (f" (START: {fault.start:.0%} of the run)" if fault.start else "")
        for fault in FAULTS.values()
    )

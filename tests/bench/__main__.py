"""`make bench`: what watching costs, each figure beside what it is compared with, measured in the same run.

Absolute times depend on the machine and on what else it does; the ratios are what to read.
"""

from __future__ import annotations

import logging
import os
import pickle
import random
import statistics
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

from training_exporter import Monitor, events
from training_exporter.families import RUN_FAMILIES, collect
from training_exporter.schedule import schedule_multiplier
from training_exporter.state import RunState

STEPS = 2000
ROUNDS = 5
PEAK, SCHEDULE, WARMUP = 2e-4, "cosine", 10


def per_call(
    call: Callable[[int], object],
    calls: int = STEPS,
    rounds: int = ROUNDS,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """Median over `rounds` of the mean seconds of a call; the number of the call, from 1, goes to it."""
    means = []
    for done in range(0, rounds * calls, calls):
        began = clock()
        for n in range(done + 1, done + calls + 1):
            call(n)
        means.append((clock() - began) / calls)
    return statistics.median(means)


def started(steps: int = STEPS * ROUNDS) -> events.RunStarted:
    return events.RunStarted(
        time=0.0,
        run="bench",
        max_steps=steps,
        num_epochs=3.0,
        peak_learning_rate=PEAK,
        lr_scheduler=SCHEDULE,
        warmup_steps=WARMUP,
        vocabulary_size=32_000,
        settings={"batch_size": "8", "gpu": "NVIDIA A100-SXM4-80GB"},
    )


def step_events(n: int, steps: int = STEPS * ROUNDS) -> tuple[events.Event, events.Event]:
    """Step `n` as a live Trainer tells it: no two steps are alike."""
    noise = random.Random(n).gauss(0.0, 0.05)
    share = schedule_multiplier(SCHEDULE, n - 1, steps, WARMUP)
    assert share is not None
    return (
        events.StepEnded(
            time=float(n),
            step=n,
            epoch=3 * n / steps,
            tokens=4096 + n % 7,
            duration_seconds=0.2 + noise / 10,
            data_wait_seconds=0.01,
            forward_backward_seconds=0.12,
            optimizer_seconds=0.05,
            learning_rate=share * PEAK,
        ),
        events.LossLogged(time=float(n), step=n, loss=1.0 + 1.0 / n + noise, gradient_norm=1.0 + noise),
    )


def state_and_families() -> list[tuple[str, float]]:
    """An event through the run state, and through the state and all families; seconds of a core, not of the clock,
    so that what else the machine does counts little."""
    made = [event for n in range(1, STEPS * ROUNDS + 1) for event in step_events(n)]

    def fresh() -> RunState:
        state = RunState()
        state.apply(started())
        return state

    state, read = fresh(), fresh()

    def applied(n: int) -> None:
        state.apply(made[2 * n - 2])
        state.apply(made[2 * n - 1])

    def applied_and_read(n: int) -> None:
        read.apply(made[n - 1])
        for family in RUN_FAMILIES:
            family.read(read)

    def collected(n: int) -> None:
        for _ in collect(RUN_FAMILIES, state, {"run": "bench"}):
            pass

    clock = time.process_time
    return [
        ("an event through the run state", per_call(applied, clock=clock) / 2),
        ("an event through the run state and all families", per_call(applied_and_read, clock=clock)),
        ("all families as prometheus_client has them", per_call(collected, 100, clock=clock)),
    ]


def memory() -> list[tuple[str, int]]:
    """Bytes of the run state after a short run and after a long one."""
    state, rows = RunState(), []
    state.apply(started(100_000))
    for n in range(1, 100_001):
        for event in step_events(n, 100_000):
            state.apply(event)
        if n % 500 == 0:
            state.apply(events.Evaluated(time=float(n), step=n, loss=2.0))
        if n in {1_000, 10_000, 100_000}:
            rows.append((f"run state after {n:,} steps", len(pickle.dumps(state))))
    return rows


def loggers(folder: Path) -> list[tuple[str, float]]:
    """What one logged step costs inside the training loop: ours beside transformers' TensorBoard callback."""
    from torch.utils.tensorboard import SummaryWriter
    from transformers import TrainerControl, TrainerState, TrainingArguments
    from transformers.integrations import TensorBoardCallback

    monitor = Monitor("bench", output_dir=folder / "ours", port=0, gpu=False, linger_seconds=0)
    monitor.emit(started())

    def ours(n: int) -> None:
        for event in step_events(n):
            monitor.emit(event)

    args = TrainingArguments(str(folder / "tensorboard"), report_to=[], use_cpu=True)
    state, control = TrainerState(is_world_process_zero=True, is_local_process_zero=True), TrainerControl()
    tensorboard = TensorBoardCallback(SummaryWriter(str(folder / "tensorboard")))

    def theirs(n: int) -> None:
        state.global_step = n
        tensorboard.on_log(
            args, state, control, logs={"loss": 1.0, "grad_norm": 1.0, "learning_rate": 1e-4, "epoch": 1.0}
        )

    try:
        # In turns, so that what else the machine does meets both.
        return [
            ("nothing (an empty function)", per_call(lambda n: None)),
            ("training-exporter: state, signals, journal", per_call(ours)),
            ("TensorBoardCallback of transformers", per_call(theirs)),
        ]
    finally:
        monitor.close()


def lengthened_step(folder: Path) -> list[tuple[str, float]]:
    """A real training step, watched and not, toggled inside one training so that both meet the same machine."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments

    from training_exporter import attach

    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(vocab_size=512, hidden_size=128, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4)
    )
    data = [{"input_ids": ids, "labels": ids} for ids in torch.randint(0, 512, (64, 64))]
    arguments = TrainingArguments(
        str(folder / "step"),
        max_steps=1600,
        per_device_train_batch_size=4,
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    trainer = Trainer(model, arguments, train_dataset=data)
    plain = {name: getattr(trainer, name) for name in ("training_step", "get_batch_samples", "_get_grad_norm")}
    callback = attach(trainer, "bench", port=0, gpu=False, linger_seconds=0)
    watched = {name: getattr(trainer, name) for name in plain}
    probe, monitor = callback._steps, callback.monitor

    class Toggle(TrainerCallback):  # type: ignore[misc]
        """Every 20 steps the watching goes off or on; the time between two ends of steps is noted."""

        def __init__(self) -> None:
            self.times: dict[bool, list[float]] = {True: [], False: []}
            self.on, self.last = True, time.perf_counter()

        def on_step_end(self, args: object, state: object, control: object, **kwargs: object) -> None:
            now = time.perf_counter()
            self.times[self.on].append(now - self.last)
            if state.global_step % 20 == 0:
                self.on = not self.on
                for name, method in (watched if self.on else plain).items():
                    setattr(trainer, name, method)
                callback.monitor, callback._steps = (monitor, probe) if self.on else (None, probe)
                probe._ahead.clear()
                now = time.perf_counter()
            self.last = now

    toggle = Toggle()
    trainer.add_callback(toggle)
    trainer.train()
    callback.monitor = monitor
    monitor.close()
    return [
        (name, statistics.median(toggle.times[on][40:]))
        for name, on in (("step, not watched", False), ("step, watched", True))
    ]


def scrapes(folder: Path) -> list[tuple[str, float]]:
    """A scrape over HTTP of a run with everything known."""
    monitor = Monitor("bench", output_dir=folder / "scrape", port=0, gpu=False, linger_seconds=0)
    monitor.emit(started())
    for n in range(1, 200):
        for event in step_events(n):
            monitor.emit(event)
    times = []
    for _ in range(300):
        began = time.perf_counter()
        urllib.request.urlopen(monitor.url).read()
        times.append(time.perf_counter() - began)
    monitor.close()
    return [
        ("scrape, median", statistics.median(times)),
        ("scrape, 99th percentile", statistics.quantiles(times, n=100)[98]),
    ]


def show(title: str, rows: list[tuple[str, float]], base: int) -> None:
    print(f"\n{title}")
    for name, seconds in rows:
        print(f"  {name:48} {seconds * 1e6:10.2f} us {seconds / rows[base][1]:9.3f} x")


def show_memory(rows: list[tuple[str, int]]) -> None:
    print("\nMemory")
    for name, size in rows:
        print(f"  {name:48} {size:10} B  {size / rows[0][1]:9.3f} x")


def main() -> int:
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        show("Cost of an event, on one core", state_and_families(), 0)
        show_memory(memory())
        show("Inside the training loop, per logged step", loggers(folder), 2)
        show("The training step itself, toggled within one training", lengthened_step(folder), 0)
        show("Scrape over HTTP", scrapes(folder), 0)
    return 0


if __name__ == "__main__":
    sys.exit(main())

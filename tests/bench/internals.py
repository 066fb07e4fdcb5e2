"""What do the parts of the exporter cost: an event through the run state, a page, and the memory of a state?"""

from __future__ import annotations

import pickle
import random
import statistics
import time
from collections.abc import Callable

from prometheus_client import generate_latest
from tests.bench.measuring import microseconds, table

from training_exporter import events
from training_exporter.events import to_record
from training_exporter.families import RUN_FAMILIES, collect
from training_exporter.schedule import schedule_multiplier
from training_exporter.sinks.collectors import registry_of
from training_exporter.state import RunState

STEPS, ROUNDS = 2000, 5
PEAK, SCHEDULE, WARMUP = 2e-4, "cosine", 10


def per_call(call: Callable[[int], object], calls: int, rounds: int = ROUNDS) -> float:
    """Median over `rounds` of the mean seconds of a core that a call takes; its number, from 1, goes to it."""
    means = []
    for done in range(0, rounds * calls, calls):
        began = time.thread_time()
        for n in range(done + 1, done + calls + 1):
            call(n)
        means.append((time.thread_time() - began) / calls)
    return statistics.median(means)


def started(steps: int) -> events.RunStarted:
    return events.RunStarted(
        time=0.0, run="bench", max_steps=steps, num_epochs=3.0, peak_learning_rate=PEAK, lr_scheduler=SCHEDULE,
        warmup_steps=WARMUP, vocabulary_size=32_000, settings={"batch_size": "8", "gpu": "NVIDIA A100-SXM4-80GB"},
    )  # fmt: skip


def step_events(n: int, steps: int) -> tuple[events.StepEnded, events.LossLogged]:
    """Step `n` as a live Trainer tells it: no two steps are alike."""
    noise = random.Random(n).gauss(0.0, 0.05)
    share = schedule_multiplier(SCHEDULE, n - 1, steps, WARMUP)
    assert share is not None
    return (
        events.StepEnded(
            time=float(n), step=n, epoch=3 * n / steps, tokens=4096 + n % 7, duration_seconds=0.2 + noise / 10,
            data_wait_seconds=0.01, forward_backward_seconds=0.12, optimizer_seconds=0.05, learning_rate=share * PEAK,
        ),
        events.LossLogged(time=float(n), step=n, loss=1.0 + 1.0 / n + noise, gradient_norm=1.0 + noise),
    )  # fmt: skip


def fresh(steps: int) -> RunState:
    state = RunState()
    state.apply(started(steps))
    return state


def main(quick: bool = False) -> None:
    steps = STEPS * ROUNDS // (10 if quick else 1)
    made = [step_events(n, steps) for n in range(1, steps + 1)]
    state = fresh(steps)

    def apply(n: int) -> None:
        for event in made[n - 1]:
            state.apply(event)

    calls = steps // ROUNDS
    step = per_call(apply, calls)
    registry = registry_of([("run", lambda: collect(RUN_FAMILIES, state, {"run": "bench"}))])
    samples = sum(len(metric.samples) for metric in registry.collect())
    rows = [
        ("both events of a step through the run state, every sign", step),
        (
            "both events of a step as records of the journal",
            per_call(lambda n: [to_record(e) for e in made[n - 1]], calls),
        ),
        ("all families read", per_call(lambda n: [family.read(state) for family in RUN_FAMILIES], calls // 10)),
        (f"all families as metrics ({samples} samples)", per_call(lambda n: list(registry.collect()), calls // 20)),
        ("the page", per_call(lambda n: generate_latest(registry), calls // 20)),
    ]
    table("Parts, on one core", ("", "CPU time"), [(name, microseconds(seconds)) for name, seconds in rows])
    memory(quick)


def memory(quick: bool) -> None:
    """A run state must not grow with its run."""
    marks = (1_000, 10_000) if quick else (1_000, 10_000, 100_000)
    state, rows = fresh(marks[-1]), []
    for n in range(1, marks[-1] + 1):
        for event in step_events(n, marks[-1]):
            state.apply(event)
        if n % 500 == 0:
            state.apply(events.Evaluated(time=float(n), step=n, loss=2.0))
        if n in marks:
            rows.append((f"{n:,}", f"{len(pickle.dumps(state)):,}"))
    table("Memory of a run state", ("steps", "bytes (pickled)"), rows)

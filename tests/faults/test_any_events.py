"""Whatever events say and in whatever order they come: nothing is raised, and the figures can be trusted."""

from __future__ import annotations

import math
import pickle
from pathlib import Path

import any_events
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from training_exporter import Monitor, events
from training_exporter.events import checked, from_record, to_record
from training_exporter.families import RUN_FAMILIES, collect
from training_exporter.journal import JOURNAL_NAME, read
from training_exporter.state import RunState

#: Shown as they were measured, because NaN in them is news.
MEASURED = {
    "llm_training_loss", "llm_training_validation_loss", "llm_training_perplexity",
    "llm_training_validation_perplexity", "llm_training_gradient_norm", "llm_training_learning_rate",
}  # fmt: skip
#: Bytes of a whole state, pickled: of the longest settings and texts above.
MOST_BYTES = 400_000

Series = tuple[str, tuple[tuple[str, str], ...]]


class AnyEvents(RuleBasedStateMachine):
    """Events of all kinds in any order, one by one and in bursts that fill the windows."""

    def __init__(self) -> None:
        super().__init__()
        self.state = RunState()
        self.counted: dict[Series, float] = {}

    @rule(event=any_events.any_event)
    def one(self, event: events.Event) -> None:
        self.apply(event)

    @rule(
        losses=st.lists(any_events.numbers, min_size=1, max_size=6),
        seconds=st.lists(any_events.numbers, min_size=1, max_size=4),
        tokens=st.lists(any_events.integers, min_size=1, max_size=3),
        count=st.integers(1, 120),
        evaluate=st.booleans(),
    )
    def burst(self, losses: list[float], seconds: list[float], tokens: list[int], count: int, evaluate: bool) -> None:
        first = (self.state.step or 0) + 1
        for n in range(count):
            loss, duration = losses[n % len(losses)], seconds[n % len(seconds)]
            step, time = min(first + n, 2**53), 1000.0 + n
            self.apply(
                events.StepEnded(time=time, step=step, duration_seconds=duration, tokens=tokens[n % len(tokens)])
            )
            self.apply(events.LossLogged(time=time, step=step, loss=loss, gradient_norm=loss, learning_rate=loss))
            if evaluate and n % 3 == 0:
                self.apply(events.Evaluated(time=time, step=step, loss=loss))

    def apply(self, event: events.Event) -> None:
        if isinstance(event, events.RunStarted):
            self.counted = {}  # another process, perhaps from an earlier checkpoint
        self.state.apply(event)

    @invariant()
    def figures_are_finite_and_counters_only_grow(self) -> None:
        for metric in collect(RUN_FAMILIES, self.state, {}):
            for sample in metric.samples:
                value = float(sample.value)
                assert math.isfinite(value) or sample.name in MEASURED, sample
                counts = metric.type == "counter" or sample.name.endswith(("_count", "_bucket"))
                if counts or sample.name == "llm_training_step_duration_seconds_sum":
                    series = (sample.name, tuple(sorted(sample.labels.items())))
                    assert value >= self.counted.get(series, 0.0), sample
                    self.counted[series] = value

    def teardown(self) -> None:
        assert len(pickle.dumps(self.state)) < MOST_BYTES


TestAnyEvents = AnyEvents.TestCase
TestAnyEvents.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)


def test_memory_does_not_grow_with_the_run() -> None:
    state = RunState()
    sizes = []
    state.apply(events.RunStarted(time=0.0, run="r", max_steps=100_000))
    for step in range(1, 60_001):
        state.apply(events.StepEnded(time=step, step=step, duration_seconds=1.0 + step % 7, tokens=step % 100))
        state.apply(events.LossLogged(time=step, step=step, loss=2.0 + step % 5, gradient_norm=1.0))
        if step % 50 == 0:
            state.apply(events.Evaluated(time=step, step=step, loss=2.0))
        if step in {20_000, 60_000}:
            sizes.append(len(pickle.dumps(state)))
    assert sizes[1] < sizes[0] * 1.05


# -- on the way in --------------------------------------------------------------------------------------------------


@given(any_events.any_event)
def test_an_event_is_taken_as_a_journal_gives_it_back_or_refused(event: events.Event) -> None:
    refused = None
    try:
        taken = checked(event)
    except events.InvalidEvent as error:
        refused = str(error)
    if refused is not None:
        assert "allowed: " in refused
        assert len(refused) < 500
        return
    assert repr(from_record(to_record(taken))) == repr(taken)


class Tensor:
    """What a training loop may hand over by mistake: asking it for its number would wait for the device."""

    def __float__(self) -> float:
        raise AssertionError("the device was waited for")

    __repr__ = __str__ = __index__ = __float__  # type: ignore[assignment]


@pytest.mark.parametrize(
    "wrong",
    [
        events.LossLogged(time=1.0, step=1, loss="high"),  # type: ignore[arg-type]
        events.LossLogged(time=1.0, step=1, loss=Tensor()),  # type: ignore[arg-type]
        events.LossLogged(time=1.0, step=-1, loss=1.0),
        events.LossLogged(time=math.nan, step=1, loss=1.0),
        events.StepEnded(time=1.0, step=1.5),  # type: ignore[arg-type]
        events.StepEnded(time=1.0, step=1, tokens=10**30),
        events.RunEnded(time=1.0, state="done"),
        events.RunStarted(time=1.0, run=None),  # type: ignore[arg-type]
        events.TextScored(time=1.0, step=1, stage="final", scores={"action": 7.0}),
        "step 1",
        None,
    ],
)
def test_what_is_no_event_reaches_neither_page_nor_journal(
    tmp_path: Path, wrong: events.Event, caplog: pytest.LogCaptureFixture
) -> None:
    """It is said once and counted; the run goes on."""
    monitor = Monitor("r", output_dir=tmp_path, serve=False, gpu=False)
    right = [events.RunStarted(time=1.0, run="r"), events.LossLogged(time=2.0, step=1, loss=2.0)]
    for event in (right[0], wrong, wrong, right[1]):
        monitor.emit(event)
    assert monitor.state.loss == 2.0
    assert monitor.errors == {"event": 2}
    assert caplog.text.count("monitoring: event failed") == 1
    monitor.close()
    assert list(read(tmp_path / JOURNAL_NAME))[:2] == right


def test_numbers_of_numpy_are_numbers(tmp_path: Path) -> None:
    monitor = Monitor("r", output_dir=tmp_path, serve=False, gpu=False)
    monitor.emit(events.RunStarted(time=np.float64(1.0), run="r", settings={"batch_size": 8}))  # type: ignore[dict-item]
    monitor.emit(events.LossLogged(time=2.0, step=np.int64(1), loss=np.float32(0.5)))  # type: ignore[arg-type]
    monitor.close()
    started, logged, _ = read(tmp_path / JOURNAL_NAME)
    assert started == events.RunStarted(time=1.0, run="r", settings={"batch_size": "8"})
    assert logged == events.LossLogged(time=2.0, step=1, loss=0.5)
    assert monitor.errors == {}

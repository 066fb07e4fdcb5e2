"""The clock of the machine is set while a run is at work: nothing of it is longer, shorter or lost."""

from __future__ import annotations

import itertools
import time
from pathlib import Path

import pytest

from training_exporter import Monitor, RunState, events
from training_exporter.backtest.replay import events_of
from training_exporter.history import restored
from training_exporter.journal import JOURNAL_NAME, clock_settings, read
from training_exporter.sources.files import Record

REAL = time.time


class Training:
    """A run of which a step takes 0.1 s, and whose wall clock is set where a test says so. The rest of the machine's
    clocks goes on: only `time.time` is that of the test."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.shift = 0.0
        monkeypatch.setattr(time, "time", lambda: REAL() + self.shift)
        self.monitor = Monitor("r", output_dir=folder, serve=False, gpu=False)
        self.step = 0

    def begin(self) -> None:
        self.monitor.emit(events.RunStarted(time=time.time(), run="r", max_steps=40, step=self.step))

    def steps(self, count: int) -> None:
        for _ in range(count):
            time.sleep(0.02)
            self.step += 1
            now = time.time()
            self.monitor.emit(
                events.StepEnded(time=now, step=self.step, tokens=10, duration_seconds=0.02, data_wait_seconds=0.001)
            )
            self.monitor.emit(events.LossLogged(time=now, step=self.step, loss=1.0))

    def evaluate(self, by: float) -> None:
        """The clock is set in the middle of an evaluation."""
        self.monitor.emit(events.PhaseChanged(time=time.time(), state="evaluating"))
        taken = time.time()
        self.shift += by
        # Of a moment before the clock was set, as figures are that come late from a device.
        self.monitor.emit(events.Progressed(time=taken))
        self.monitor.emit(events.Evaluated(time=time.time(), step=self.step, loss=1.0))
        self.monitor.emit(events.PhaseChanged(time=time.time(), state="training"))


@pytest.mark.parametrize("by", [7200.0, -7200.0, 1.5e9, -1.5e9])
def test_the_clock_is_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by: float) -> None:
    training = Training(tmp_path, monkeypatch)
    training.begin()
    training.steps(10)
    training.monitor.emit(events.CheckpointSaved(time=time.time(), step=10))
    training.steps(5)
    training.evaluate(by)
    training.steps(5)
    state = training.monitor.state
    began = REAL() - 60
    # As if nothing had happened: 20 of 40 steps in less than a minute, a checkpoint a moment ago.
    assert 0 < state.remaining_seconds < 60
    assert 0 < state.unsaved_seconds < 60
    assert state.longest_pauses["evaluating"] < 60
    assert began + by < state.start_time <= state.last_step_time <= time.time()
    assert (state.step, state.tokens, state.step_duration.count) == (20, 200, 20)
    assert state.step_duration.sum == pytest.approx(20 * 0.02)
    training.monitor.end("completed")
    training.monitor.close()
    assert training.monitor.errors == {}
    (settings,) = clock_settings(tmp_path / JOURNAL_NAME)
    assert settings == pytest.approx(by, abs=1)

    # The past is told on the clock as it was set, without a gap.
    found = events_of(Record(tmp_path / JOURNAL_NAME, "journal", "r"))
    assert all(0 <= b.time - a.time < 60 for a, b in itertools.pairwise(found))
    assert began + by < found[0].time
    assert [event.step for event in found if isinstance(event, events.LossLogged)] == list(range(1, 21))
    # A process that takes up the run from the journal knows the same.
    again = restored(read(tmp_path / JOURNAL_NAME), [0])
    assert (again.start_time, again.last_checkpoint_time) == (state.start_time, state.last_checkpoint_time)


def test_each_process_has_its_own_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine that is a day behind after each start, until it is told the time."""
    for number in range(2):
        training = Training(tmp_path, monkeypatch)
        training.shift = -86_400.0
        training.monitor._clock.set_by()
        training.step = 10 * number
        training.begin()
        training.steps(5)
        training.shift = 0.0
        training.steps(5)
        training.monitor.end("interrupted")
        training.monitor.close()
    found = events_of(Record(tmp_path / JOURNAL_NAME, "journal", "r"))
    assert all(0 <= b.time - a.time < 60 for a, b in itertools.pairwise(found))
    assert REAL() - 60 < found[0].time < found[-1].time <= REAL()


def test_a_clock_that_is_corrected_little_by_little_is_not_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    training = Training(tmp_path, monkeypatch)
    training.begin()
    for _ in range(10):
        training.shift += 1.0
        training.steps(1)
        assert training.monitor.state.step == training.step  # the clock is looked at when events are taken
    training.monitor.close()
    assert clock_settings(tmp_path / JOURNAL_NAME) == [0.0]


def test_any_setting_leaves_times_that_can_be() -> None:
    state = RunState()
    state.apply(events.RunStarted(time=1000.0, run="r"))
    for by in (-1e9, 1e300, float("nan"), float("inf"), 1e10):
        state.apply(events.ClockSet(time=1.0, by_seconds=by))
    assert state.start_time == 1e10

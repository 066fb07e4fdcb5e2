"""Runs that are taken up again: what is made twice counts once."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training_exporter import Monitor, RunState, events, journal
from training_exporter.families import RUN_FAMILIES
from training_exporter.history import restored, surviving

STEPS, EVERY = 60, 10  # steps of the run, and from one evaluation and checkpoint to the next


def life(first: int, last: int, start: float = 1000.0) -> Iterator[events.Event]:
    """A process that takes the run up after step `first` and makes the steps up to `last`, each of the same figures
    whichever process makes it."""
    yield events.RunStarted(
        time=start, run="r", max_steps=STEPS, step=first, peak_learning_rate=1e-4, lr_scheduler="linear"
    )
    for n in range(first + 1, last + 1):
        now = start + n - first
        yield events.StepEnded(
            time=now,
            step=n,
            epoch=n / 20,
            tokens=100 + n,
            duration_seconds=0.5 + n / 1024,
            data_wait_seconds=n / 1024,
            learning_rate=1e-4 * (1 - (n - 1) / STEPS),
        )
        yield events.LossLogged(time=now, step=n, loss=math.nan if n % 17 == 0 else 2 / n, gradient_norm=n / 4)
        if n % EVERY == 0:
            yield events.PhaseChanged(time=now, state="evaluating")
            yield events.Evaluated(time=now, step=n, loss=3 / n)
            yield events.PhaseChanged(time=now, state="saving")
            yield events.CheckpointSaved(time=now, step=n)
            yield events.PhaseChanged(time=now, state="training")


def ended(found: Iterable[events.Event]) -> list[events.Event]:
    """What was left to do, perhaps nothing, was done."""
    told = list(found)
    return [*told, events.RunEnded(time=told[-1].time, state="completed")]


def figures(state: RunState) -> dict[str, object]:
    """All that the families tell of the run, but for its times, and for what a process says of itself."""
    own = ("speed", "remaining", "tokens_per_second", "pause", "timestamp", "unsaved", "interval", "deviation")
    read = {family.name: family.read(state) for family in RUN_FAMILIES if not any(word in family.name for word in own)}
    return {
        **read,
        "llm_training_step_duration_seconds": (state.step_duration.counts, state.step_duration.sum),
        # NaN equals nothing.
        "llm_training_loss": repr(state.loss),
    }


def state_of(found: list[events.Event]) -> RunState:
    return restored(found, [event.step for event in found if isinstance(event, events.RunStarted)])


@given(st.lists(st.tuples(st.integers(1, STEPS), st.integers(0, 3)), max_size=4))
def test_a_run_that_is_killed_and_resumed_ends_with_the_same_figures(kills: list[tuple[int, int]]) -> None:
    """At any step, from one of the last checkpoints, any number of times."""
    found: list[events.Event] = []
    first, start = 0, 1000.0
    for killed_at, back in kills:
        found += life(first, max(first, killed_at), start)
        first, start = max(0, max(first, killed_at) // EVERY - back) * EVERY, found[-1].time + 30
    found += ended(life(first, STEPS, start))
    assert figures(state_of(found)) == figures(state_of(ended(life(0, STEPS))))


def test_only_the_latest_process_counts_beyond_its_checkpoint() -> None:
    found = [*life(0, 37), *life(30, 45, 2000.0), *life(20, 25, 3000.0)]
    kept = list(surviving(found, [0, 30, 20]))
    assert [e.step for e in kept if isinstance(e, events.StepEnded)] == list(range(1, 26))
    assert [e.step for e in kept if isinstance(e, events.RunStarted)] == [0, 20]
    assert state_of(found).start_time == 1000.0


def test_a_run_that_begins_anew_has_no_past() -> None:
    found = [*life(0, 37), *life(0, 5, 2000.0)]
    state = state_of(found)
    assert (state.start_time, state.observed_loss_count, state.checkpoints) == (2000.0, 5, 0)


@pytest.mark.parametrize(("ended", "remembered"), [(True, 0), (False, 1)])
def test_out_of_memory_is_remembered_by_a_process_that_tries_again(ended: bool, remembered: int) -> None:
    found = [*life(0, 5), events.OutOfMemory(time=1006.0, step=5)]
    if ended:
        found.append(events.RunEnded(time=1006.0, state="failed"))
    assert state_of([*found, *life(0, 5, 2000.0)]).out_of_memory == remembered


# -- live -------------------------------------------------------------------------------------------------------------


def live(folder: Path, found: Iterator[events.Event], end: str | None = None, run: str = "r") -> RunState:
    """What a process tells at its end that emits the events `found`."""
    monitor = Monitor(run, output_dir=folder, serve=False, gpu=False)
    for event in found:
        monitor.emit(event)
    state = monitor.state
    if end is not None:
        monitor.end(end)
    monitor.close()
    assert not monitor.errors
    return state


@pytest.mark.parametrize("end", ["failed", "interrupted", None])
def test_a_process_that_takes_up_a_run_goes_on_with_its_figures(tmp_path: Path, end: str | None) -> None:
    live(tmp_path / "killed", life(0, 37), end)
    resumed = live(tmp_path / "killed", life(30, STEPS, 2000.0))
    assert figures(resumed) == figures(live(tmp_path / "whole", life(0, STEPS)))
    found = list(journal.read(tmp_path / "killed" / journal.JOURNAL_NAME))
    assert figures(state_of(found)) == figures(resumed), "the journal tells the same afterwards"


def test_a_process_goes_on_from_its_own_checkpoint(tmp_path: Path) -> None:
    """A second training in the same process: the journal is asked, once what waits for the disk is there."""
    twice = live(tmp_path / "twice", (event for part in (life(0, 37), life(30, STEPS, 2000.0)) for event in part))
    assert figures(twice) == figures(live(tmp_path / "whole", life(0, STEPS)))


def test_the_journal_of_another_run_is_no_past(tmp_path: Path) -> None:
    live(tmp_path, life(0, 37), run="another")
    assert live(tmp_path, life(30, 40), run="s").observed_loss_count == len(range(31, 41)) - 1


def test_a_checkpoint_after_a_pause_is_no_long_interval() -> None:
    """The days for which no process ran are not what the run needs from one checkpoint to the next."""
    assert state_of([*life(0, 32), *life(30, 60, 900_000.0)]).checkpoint_interval == 10

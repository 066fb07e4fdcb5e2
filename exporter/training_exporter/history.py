"""A run that was taken up again: what of its past still counts.

A process that goes on from the checkpoint of step 40 makes step 41 with the weights of step 40, whatever the process
before it did until it died at step 60. So the steps 41 to 60 of that process are no part of the run any more: they
are made again, and would count twice.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import takewhile
from pathlib import Path

from training_exporter import journal, profile
from training_exporter.events import ClockSet, Event, OutOfMemory, RunEnded, RunStarted
from training_exporter.state import RunState


def surviving(past: Iterable[Event], starts: Sequence[int]) -> Iterator[Event]:
    """Those of the events `past` that still count after the last of `starts`.

    `starts` are the steps of all RunStarted of the run in order: those in `past`, and those that came after it.
    """
    limits = [math.inf]  # by process: the last of its steps that no later one goes back before
    for step in reversed(starts[1:]):
        limits.append(min(limits[-1], step))
    limits.reverse()
    process = -1
    for event in past:
        if isinstance(event, RunStarted):
            process += 1
        limit = limits[max(0, process)]
        # The state learns from the end of a process that the next one is another; it forgets by itself what is over.
        if (
            limit == math.inf
            or isinstance(event, RunEnded | OutOfMemory | ClockSet)
            or 0 <= getattr(event, "step", -1) <= limit > 0
        ):
            yield event


def restored(past: Iterable[Event], starts: Sequence[int], expectations: profile.Profile | None = None) -> RunState:
    """The state of a run after what still counts of `past`; `starts` as in `surviving`, the other one the state's."""
    state = RunState(expectations)
    for event in surviving(past, starts):
        state.apply(event)
    return state


def taken_up(event: RunStarted, state: RunState, path: Path | None) -> RunState:
    """The state to which `event` is applied next, where `state` is the one before.

    Of a process that takes up a run it is the state as it was at the step at which the run goes on: its counters go on,
    and what is made again counts once.

    The past is what the journal at `path` has before `event`, which may be in it already. Raises JournalError.
    """
    if event.step == 0 and state.run is None:
        return state
    if path is None:
        # Nobody knows what of the past is made again.
        return state if event.step > 0 else RunState(state.profile)
    starts = [each.step for each in takewhile(lambda each: each != event, journal.starts(path))]
    if not starts:
        return RunState(state.profile)
    past = takewhile(lambda each: each != event, journal.read(path))
    return restored(past, [*starts, event.step], state.profile)

"""Which run the wall shows, and its figures.

A variable would keep the run that was chosen when the screen was switched on, so the choice stands in each query: of
the runs that match `$runs` (any, unless the URL names some) the newest at work, else the newest of the last day.
`@ end()`: the choice of now holds for the whole of a chart.
"""

from __future__ import annotations

from training_exporter.events import ACTIVE_STATES, STATES

#: How long the wall remembers a run that is no longer there.
MEMORY = "1d"

#: A run that was missed for so long no longer answers: the time that RunVanished waits, too.
ANSWERS = "1m"

SELECTED = '{run=~"$runs"}'
_NUMBER = f"run:llm_training_state:number{SELECTED}"


def number(state: str) -> int:
    """The state's number in run:llm_training_state:number."""
    return STATES.index(state) + 1


#: States up to this number are at work.
AT_WORK = len(ACTIVE_STATES)

#: One more: it was at work and no longer answers.
NO_ANSWER = len(STATES) + 1

_STARTED = f"max by (run) (last_over_time(llm_training_start_timestamp_seconds{SELECTED}[{MEMORY}] @ end()))"
_LATER = 10_000_000_000  # added to the start (Unix seconds) of a run at work: it comes before all others
_WORKING = f"last_over_time({_NUMBER}[{ANSWERS}] @ end()) <= {AT_WORK}"

#: One series, whose label `run` is the run that is shown.
SHOWN = f"topk(1, {_STARTED} + {_LATER} * ({_WORKING}) ^ 0 or {_STARTED})"


def shown(expr: str) -> str:
    """Those series of `expr` that are of the run that is shown."""
    return f"({expr} and on (run) {SHOWN})"


def now(metric: str, matchers: str = "") -> str:
    """The shown run's figure, for a chart: nothing where it had none."""
    return shown(f"max by (run) ({metric}{_with(matchers)})")


def last(metric: str, matchers: str = "") -> str:
    """The last value of the shown run's figure, also when the run is over."""
    return shown(f"max by (run) (last_over_time({metric}{_with(matchers)}[{MEMORY}]))")


def at_work() -> str:
    """One series for each run that is at work and answers."""
    return f"last_over_time({_NUMBER}[{ANSWERS}]) <= {AT_WORK}"


def state() -> str:
    """The shown run's place in STATES, from 1, also when it has ended; NO_ANSWER when it has vanished at work."""
    remembered = f"last_over_time({_NUMBER}[{MEMORY}])"
    return shown(
        f"(last_over_time({_NUMBER}[{ANSWERS}]) or on (run) "
        f"{NO_ANSWER} * ({remembered} <= {AT_WORK}) ^ 0 or on (run) {remembered})"
    )


def _with(matchers: str) -> str:
    return SELECTED.replace("}", f",{matchers}}}") if matchers else SELECTED

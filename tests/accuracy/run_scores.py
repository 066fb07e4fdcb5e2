"""How right the alerts of labelled runs are.

Found: one of the run's signs fired at or after its onset (after four fifths of it where a reader guessed the onset).
False alarm: a warning or critical alert on a healthy run, or before the onset of a fault, whose sign is not true of
the run by the guide's own numbers either. Alerts of severity info do not count.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from run_labels import Curve, Label, true_anyway

#: A reader sees an onset only so exactly.
GUESS = 0.8


@dataclass(frozen=True)
class Fired:
    """One alert that counts: a warning or critical one."""

    sign: str
    step: int


@dataclass(frozen=True)
class Verdict:
    """One run, judged. `delay` is a share of the run; None where nothing was found or the fault was there at once."""

    run: str
    label: Label
    fired: tuple[Fired, ...]
    found: bool
    false: tuple[Fired, ...]
    delay: float | None

    @property
    def ill(self) -> bool:
        return bool(self.label.signs)


def judge(run: str, label: Label, curve: Curve, alerts: Iterable[dict[str, Any]]) -> Verdict | None:
    """The verdict on a run for its alerts as `backtest --format json` has them; None where the run proves nothing."""
    if label.signs is None:
        return None
    fired = tuple(Fired(alert["sign"], alert["step"]) for alert in alerts if alert.get("severity") != "info")
    onset = label.onset_step or 1
    early = onset * (GUESS if label.read else 1)
    anyway = true_anyway(curve) | label.forgiven
    hits = [alert.step for alert in fired if alert.sign in label.signs and alert.step >= early]
    false = tuple(alert for alert in fired if alert.sign not in anyway and (not label.signs or alert.step < early))
    delay = max(0, min(hits) - onset) / max(1, label.max_steps) if hits and label.onset_step else None
    return Verdict(run, label, fired, bool(hits), false, delay)


def alerts_by_run(report: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The alerts of a backtest's JSON, by the folder of each run."""
    return {Path(run["source"]).parent.name: run["alerts"] for run in report["runs"]}


@dataclass(frozen=True)
class Score:
    """The figures of one set; counts are of runs, `precision` is over (run, sign) pairs that fired."""

    ill: int
    found: int
    healthy: int
    healthy_false: int
    ill_false: int
    median_delay: float | None
    precision: float | None

    @property
    def recall(self) -> float | None:
        return self.found / self.ill if self.ill else None


def score(verdicts: Iterable[Verdict]) -> Score:
    verdicts = list(verdicts)
    ill = [verdict for verdict in verdicts if verdict.ill]
    healthy = [verdict for verdict in verdicts if not verdict.ill]
    fired = sum(len({alert.sign for alert in verdict.fired}) for verdict in verdicts)
    false = sum(len({alert.sign for alert in verdict.false}) for verdict in verdicts)
    return Score(
        ill=len(ill),
        found=sum(verdict.found for verdict in ill),
        healthy=len(healthy),
        healthy_false=sum(bool(verdict.false) for verdict in healthy),
        ill_false=sum(bool(verdict.false) for verdict in ill),
        median_delay=median_delay(ill),
        precision=1 - false / fired if fired else None,
    )


def median_delay(verdicts: Iterable[Verdict]) -> float | None:
    """Median of the known delays, as a share of the run."""
    delays = [verdict.delay for verdict in verdicts if verdict.delay is not None]
    return statistics.median(delays) if delays else None


@dataclass(frozen=True)
class SignScore:
    """One sign in one set: runs that are labelled with it, those where an alert of this very sign fired after the
    onset, and runs where it was a false alarm."""

    sign: str
    labelled: int
    fired: int
    false: int
    median_delay: float | None


def by_sign(verdicts: Iterable[Verdict]) -> list[SignScore]:
    verdicts = list(verdicts)
    signs = {sign for v in verdicts for sign in (*(v.label.signs or ()), *(alert.sign for alert in v.false))}
    result = []
    for sign in sorted(signs):
        labelled = [verdict for verdict in verdicts if sign in (verdict.label.signs or ())]
        fired, delays = 0, []
        for verdict in labelled:
            onset = verdict.label.onset_step or 1
            early = onset * (GUESS if verdict.label.read else 1)
            steps = [alert.step for alert in verdict.fired if alert.sign == sign and alert.step >= early]
            fired += bool(steps)
            if steps and verdict.label.onset_step:
                delays.append(max(0, min(steps) - onset) / max(1, verdict.label.max_steps))
        false = sum(any(alert.sign == sign for alert in verdict.false) for verdict in verdicts)
        result.append(SignScore(sign, len(labelled), fired, false, statistics.median(delays) if delays else None))
    return result

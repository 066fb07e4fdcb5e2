"""From the moments at which a rule's expression was true to the times at which its alert fired.

These are the states of Prometheus' own alerting rules: an alert is pending until its expression has held for `for`,
fires from then on, and goes on for `keep_firing_for` after the expression has ceased to hold.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from training_exporter.backtest.rules import AlertRule


@dataclass(frozen=True, order=True)
class Firing:
    """An alert fired from `start` (Unix seconds) until `end`, None when it still did at the last evaluation."""

    start: float
    end: float | None


def firings(rule: AlertRule, times: Iterable[float], evaluations: Sequence[float]) -> list[Firing]:
    """When the alert of one series fired, whose expression was true at `times`, a part of `evaluations`."""
    true_at = set(times)
    result: list[Firing] = []
    active_since: float | None = None
    fired_at: float | None = None
    ceased_at: float | None = None
    for now in evaluations:
        if now in true_at:
            ceased_at = None
            if active_since is None:
                active_since = now
            if fired_at is None and now - active_since >= rule.hold:
                fired_at = now
            continue
        if fired_at is not None and rule.keep > 0:
            ceased_at = now if ceased_at is None else ceased_at
            if now - ceased_at < rule.keep:
                continue
        if fired_at is not None:
            result.append(Firing(fired_at, now))
        active_since = fired_at = ceased_at = None
    if fired_at is not None:
        result.append(Firing(fired_at, None))
    return result


def merged(parts: Iterable[Firing]) -> list[Firing]:
    """Firings of several series of one alert as those of the alert: it fires while one of them does."""
    result: list[Firing] = []
    for part in sorted(parts, key=lambda firing: firing.start):
        last = result[-1] if result else None
        if last is None or (last.end is not None and part.start > last.end):
            result.append(part)
        else:
            end = None if last.end is None or part.end is None else max(last.end, part.end)
            result[-1] = Firing(last.start, end)
    return result

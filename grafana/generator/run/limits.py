"""Charts of what an alert looks at, with the line beyond which it fires. The numbers are read from the rules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from generator import facts
from generator.model import Panel, Target
from generator.queries import of_run
from generator.style import ACT, LOOK, MAIN, REFERENCE, SECOND, THIRD, Grid, chart, line

_COLORS = {"critical": ACT, "warning": LOOK, "info": REFERENCE}

PERCENT = {"unit": "percentunit"}

#: Colours of a chart's signals, in order.
_SIGNALS = (MAIN, SECOND, THIRD, REFERENCE)


def constant(value: float) -> str:
    """A number for as long as the run is there."""
    return f"{value:g} + 0 * {of_run('llm_training_progress_ratio')}"


def in_percent(share: float) -> str:
    """0.005 as 0.5%: thresholds are not rounded."""
    return f"{100 * share:g}%"


def bound_of(metric: str, bound: str) -> str:
    """What the profile expects of the run where it stands: `bound` is lower or upper."""
    return f'max by (run) (llm_training_{metric}{{run="$run",bound="{bound}"}})'


def limit(alert: str, severity: str, text: str, expr: str) -> Target:
    """The dashed line of a rule: `text` says on which side of it, and of which signal, the alert fires."""
    critical = " (critical)" if severity == "critical" else ""
    return Target(expr, f"{alert}{critical}: {text}", properties=line(_COLORS[severity], 1, dash=True))


def fixed_limits(
    alert: str, severity: str, metric: str, *, percent: bool = False, side: str = "above", of: str = ""
) -> list[Target]:
    """A line for each number with which the rule compares `metric`; `of` names the signal where there are several."""
    return [
        limit(
            alert,
            severity,
            " ".join(filter(None, (of, side, in_percent(value) if percent else f"{value:g}"))),
            constant(value),
        )
        for value in facts.thresholds(alert, severity, metric)
    ]


def signals(
    id: int,
    title: str,
    description: str,
    signals: Sequence[tuple[str, str]],
    limits: Sequence[Target],
    grid: Grid,
    *,
    runbooks: Sequence[str],
    no_value: str = "no run, or not known yet",
    **options: Any,
) -> Panel:
    """`signals`: query and legend of each. Rules combine conditions, so crossing one line need not fire."""
    lines = [Target(expr, legend, properties=line(_SIGNALS[i])) for i, (expr, legend) in enumerate(signals)]
    return chart(id, title, description, [*lines, *limits], grid, runbooks=runbooks, no_value=no_value, **options)

"""One tile for each thing that can fail."""

from __future__ import annotations

from collections.abc import Sequence

from generator.model import Json, Panel, Target
from generator.style import (
    ACT,
    GOOD,
    LOOK,
    Grid,
    tile,
    words,
)


def count(
    id: int,
    title: str,
    description: str,
    expr: str,
    grid: Grid,
    no_value: str,
    *,
    color: str = ACT,
    runbooks: Sequence[str] = (),
) -> Panel:
    """How many of something bad there are: green at 0, else `color`."""
    return tile(
        id,
        title,
        description,
        [Target(expr, instant=True)],
        grid,
        no_value=no_value,
        color_mode="background_solid",
        graph=False,
        value_size=28,
        unit="locale",
        decimals=0,
        mappings=[words({"0": ("0", GOOD)}), more_than_none(color)],
        runbooks=runbooks,
    )


def more_than_none(color: str) -> Json:
    """A value mapping: this colour, and the number. Increases are extrapolated, so 1 may be 0.98."""
    return {"type": "range", "options": {"from": 0.001, "to": None, "result": {"color": color, "index": 3}}}


def alerting(id: int, grid: Grid) -> Panel:
    return tile(
        id,
        "Alert rules",
        "The Watchdog is an alert that always fires: while it does, the alert rules are evaluated. Good: they work.",
        [Target('max(ALERTS{alertname="Watchdog",alertstate="firing"}) or vector(0)', instant=True)],
        grid,
        no_value="no answer",
        color_mode="background_solid",
        graph=False,
        value_size=28,
        mappings=[words({"1": ("work", GOOD), "0": ("silent", ACT)})],
        runbooks=["Watchdog"],
    )


def tiles() -> list[Panel]:
    def grid(place: int) -> Grid:
        return (3 * place, 0, 3, 3)

    lost = " + ".join(
        f"sum(increase(prometheus_notifications_{what}_total[$__range]))" for what in ("errors", "dropped")
    )
    return [
        alerting(1, grid(0)),
        count(
            2,
            "Targets down",
            "Exporters and servers that Prometheus cannot scrape now. A run that was killed leaves its target behind. "
            "Good: 0.",
            "count(up == 0) or 0 * count(up)",
            grid(1),
            "no target",
            runbooks=["TargetDown"],
        ),
        count(
            3,
            "Failed evaluations",
            "Evaluations of rules that failed in the time range: such a rule says nothing. Good: 0. Unknown: "
            "Prometheus does not scrape itself.",
            "sum(increase(prometheus_rule_evaluation_failures_total[$__range]))",
            grid(2),
            "unknown",
        ),
        count(
            4,
            "Alerts lost",
            "Alerts that Prometheus could not hand to Alertmanager in the time range. Good: 0. Unknown: as beside.",
            lost,
            grid(3),
            "unknown",
        ),
        count(
            5,
            "Messages not sent",
            "Notifications to Slack or e-mail that failed in the time range; Alertmanager tries each again. Good: 0. "
            "Unknown: Alertmanager is not scraped.",
            "sum(increase(alertmanager_notifications_failed_total[$__range]))",
            grid(4),
            "unknown",
        ),
        count(
            6,
            "Exporter errors",
            "Errors of the monitoring that were kept from the trainings, in all processes of the time range. Good: 0; "
            "their log says more.",
            "sum(max_over_time(training_exporter_callback_errors_total[$__range])) "
            "or 0 * sum(max_over_time(training_exporter_build_info[$__range]))",
            grid(5),
            "no exporter",
        ),
        count(
            7,
            "Journal: events lost",
            "Events that could not be written to the journals of the runs in the time range: a full or slow disk. "
            "Good: 0.",
            "sum(max_over_time(training_exporter_journal_dropped_events_total[$__range]))",
            grid(6),
            "no exporter",
        ),
        count(
            8,
            "Collectors failing",
            "Parts of the exporters' pages that could not be read at the last scrape, such as a GPU's driver. Good: 0.",
            "sum(1 - training_exporter_collector_success)",
            grid(7),
            "no exporter",
            color=LOOK,
        ),
    ]

"""Whether rules are evaluated, and what they say arrives."""

from __future__ import annotations

from generator.model import Panel, Target
from generator.monitoring.common import EVENTS, NO_ALERTMANAGER, NO_PROMETHEUS, increase
from generator.style import (
    ACT,
    LOOK,
    MAIN,
    REFERENCE,
    Grid,
    chart,
    line,
)


def rule_duration(id: int, grid: Grid) -> Panel:
    share = "prometheus_rule_group_last_duration_seconds / prometheus_rule_group_interval_seconds"
    return chart(
        id,
        "Rule evaluation, share of the interval",
        "Time that each group's last evaluation took. Good: a few percent. Bad: towards 100%, where evaluations are "
        "missed and alerts come late.",
        [
            Target(
                f'max by (group) (label_replace({share}, "group", "$1", "rule_group", ".*;(.*)"))',
                "{{group}}",
            )
        ],
        grid,
        no_value=NO_PROMETHEUS,
        unit="percentunit",
        decimals=1,
        min=0,
    )


def rule_failures(id: int, grid: Grid) -> Panel:
    return chart(
        id,
        "Rules failed or missed",
        "Evaluations that failed, and those that were left out because the one before took too long. Good: 0.",
        [
            Target(increase("prometheus_rule_evaluation_failures_total"), "failed", properties=line(ACT)),
            Target(increase("prometheus_rule_group_iterations_missed_total"), "missed", properties=line(LOOK)),
        ],
        grid,
        no_value=NO_PROMETHEUS,
        **EVENTS,
    )


def messages(id: int, grid: Grid) -> Panel:
    def each(metric: str) -> str:
        """In sum, and for each way that had any in the time range."""
        increase = f"increase({metric}[$__rate_interval])"
        had = f"sum by (integration) (max_over_time({metric}[$__range])) > 0"
        return f"sum({increase}) or sum by (integration) ({increase}) and on (integration) {had}"

    return chart(
        id,
        "Messages",
        "Alerts that Prometheus handed over; messages that Alertmanager sent, and could not send, by the way that they "
        "take. Good: nothing fails.",
        [
            Target(
                increase("prometheus_notifications_sent_total"),
                "alerts handed over",
                properties=line(REFERENCE, 1),
            ),
            Target(each("alertmanager_notifications_total"), "sent {{integration}}", properties=line(MAIN)),
            Target(each("alertmanager_notifications_failed_total"), "failed {{integration}}", properties=line(ACT)),
        ],
        grid,
        no_value=NO_ALERTMANAGER,
        **EVENTS,
    )

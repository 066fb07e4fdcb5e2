"""How all is, in a word or two, and what fires, in a sentence each."""

from __future__ import annotations

import re

from generator import facts
from generator.model import Panel, Target
from generator.queries import where
from generator.style import ALARM, DONE, FINE, IDLE, WARN, Grid, tile, words
from generator.wall import runs

#: What the wall calls it, where the alert's name is not the word for it; the most important of a severity first.
#: "Name/severity" where the severities differ in more than degree.
HEADLINES = {
    "OutOfMemory": "Out of memory",
    "RunFailed": "Failed",
    "RunVanished": "Vanished",
    "RunStalled": "Stalled",
    "LossNaN/critical": "Loss is NaN",
    "LossRising": "Diverging",
    "WorseThanRandom": "No better than chance",
    "GpuMemoryHigh/critical": "GPU memory full",
    "ValidationDiverging": "Overfitting",
    "ValidationGap": "Validation far off",
    "LossNaN/warning": "Validation is NaN",
    "EarlyPlateau": "Not learning",
    "SlowFirstEpoch": "Learning slowly",
    "InitialPerplexity": "Perplexity too high",
    "HighPerplexity": "Perplexity too high",
    "GpuMemoryHigh/warning": "GPU memory high",
    "GpuMemoryGrowing": "GPU memory grows",
    "LearningRateOffSchedule": "Off schedule",
    "ThroughputDrop": "Slowed down",
    "ThroughputLow": "Far too slow",
    "CheckpointStale": "No checkpoint",
    "TextQuality": "Poor texts",
}
SEVERITIES = {"critical": ALARM, "warning": WARN, "info": IDLE}

#: What the verdict says when no alert does: the number of the run's state, or one of those below -> (text, colour).
UNGUARDED, UNREACHABLE, ABSENT = (runs.NO_ANSWER + more for more in (1, 2, 3))
WITHOUT_ALERT = {
    **dict.fromkeys(range(1, runs.AT_WORK + 1), ("All well", FINE)),
    runs.number("completed"): ("Finished", DONE),
    runs.number("failed"): ("Failed", ALARM),
    runs.number("interrupted"): ("Stopped", DONE),
    runs.NO_ANSWER: ("Vanished", ALARM),
    UNGUARDED: ("No alert rules", WARN),
    UNREACHABLE: ("Nothing answers", WARN),
    ABSENT: ("Nothing is training", IDLE),
}
_FIRST = 100  # numbers of alerts begin here; a higher one is worse

WATCHDOG = 'ALERTS{alertname="Watchdog",alertstate="firing"}'

#: Alerts of the runs that are selected, and those that are of no run.
SELECTED = 'run=~"$runs|"'


def headline(alert: facts.Alert) -> str:
    """ "Early plateau" for EarlyPlateau, or what HEADLINES says."""
    apart = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", alert.name).capitalize()
    return HEADLINES.get(f"{alert.name}/{alert.severity}", HEADLINES.get(alert.name, apart))


def numbered() -> dict[int, facts.Alert]:
    """Every alert but the Watchdog by its number."""
    order = list(HEADLINES)
    severities = list(SEVERITIES)

    def rank(alert: facts.Alert) -> tuple[int, int]:
        known = [order.index(key) for key in (f"{alert.name}/{alert.severity}", alert.name) if key in order]
        return severities.index(alert.severity), min(known, default=len(order))

    listed = sorted((alert for alert in facts.alerts() if alert.severity in severities), key=rank)
    return {_FIRST + len(listed) - place: alert for place, alert in enumerate(listed)}


def _firing(*severities: str) -> str:
    """The number of each alert that fires, with where; a critical one mutes the milder ones of its name."""

    def of(severity: str) -> str:
        chosen = [
            f'{number} * ALERTS{{alertname="{alert.name}",severity="{severity}",alertstate="firing",{SELECTED}}}'
            for number, alert in numbered().items()
            if alert.severity == severity
        ]
        return f"max by (alertname, where) ({where(' or '.join(chosen))})"

    return " or on (alertname, where) ".join(of(severity) for severity in severities)


def _labelled(expr: str, name: str, text: str) -> str:
    return f'label_replace({expr}, "{name}", "{text}", "", "")'


def _verdict() -> str:
    """One number with `where`: the worst alert; else how the shown run stands; else whether anything is watched."""
    state = runs.state()
    unguarded = f"{UNGUARDED} * ({state} <= {runs.AT_WORK} unless on () {WATCHDOG}) ^ 0"
    dead = f'{UNREACHABLE} * (max(up{{job="training"}}) == 0) ^ 0'
    return " or on () ".join(
        [
            f"topk(1, {_firing('critical', 'warning')})",
            where(f"({unguarded} or on () {state})"),
            _labelled(dead, "where", "no target can be scraped"),
            _labelled(f"vector({ABSENT})", "where", "no run in the last day"),
        ]
    )


def _firing_for() -> str:
    """Since when each alert fires, as a label `age`: minutes, from two hours on hours."""
    seconds = f"(time() - max by (alertname, where) ({where(f'ALERTS_FOR_STATE{{{SELECTED}}}')}))"
    texts = (
        (f"floor({seconds} / 60) < 1", "for less than a minute"),
        (f"floor({seconds} / 60) >= 1 < 120", "for $1 min"),
        (f"floor(({seconds} >= 7200) / 3600)", "for $1 h"),
    )
    return " or ".join(
        f'label_replace(count_values by (alertname, where) ("age", {count}), "age", "{text}", "age", "(.*)")'
        for count, text in texts
    )


def verdict(id: int, grid: Grid) -> Panel:
    texts = {number: (headline(alert), SEVERITIES[alert.severity]) for number, alert in numbered().items()}
    mapped = {str(number): text for number, text in {**WITHOUT_ALERT, **texts}.items()}
    return tile(
        id,
        "Verdict",
        "“All well” on green: the run is at work, the alert rules are evaluated, and no warning or critical alert "
        "fires. Else the worst alert that fires (orange: look today; red: act now), or how the last run ended.",
        [Target(_verdict(), "{{where}}", instant=True)],
        grid,
        no_value="No answer from Prometheus",
        color_mode="background_solid",
        graph=False,
        names=True,
        wide=False,
        center=True,
        value_size=None,
        mappings=[words(mapped)],
    )


def sentences(id: int, grid: Grid) -> Panel:
    """The worst three alerts: since when, where, and what is wrong."""
    worst = f"topk(3, {_firing('critical', 'warning', 'info')})"
    firing = (
        f'label_join({worst} * on (alertname, where) group_left (age) ({_firing_for()}), "told", ", ", "where", "age")'
    )
    calm = _labelled(f"0 * {WATCHDOG}", "told", "no alert is firing")
    texts = {str(number): (alert.summary, SEVERITIES[alert.severity]) for number, alert in numbered().items()}
    return tile(
        id,
        "What is wrong",
        "The alerts that fire, the worst three: what is wrong, where, and for how long. Good: none. What to do about "
        "each stands in its runbook and in its message.",
        [Target(f"sort_desc({firing}) or on () {calm}", "{{told}}", instant=True)],
        grid,
        no_value="No word from the alert rules",
        color_mode="background_solid",
        graph=False,
        names=True,
        wide=False,
        value_size=26,  # for three rows, whatever the length of a sentence
        name_size=17,
        links=[{"title": "Runbook", "url": "${runbooks}/${__field.labels.alertname}", "targetBlank": True}],
        mappings=[words({"0": ("The alert rules see nothing wrong.", "transparent"), **texts})],
    )

"""The run in detail: alerts' signals are drawn with the rules' own numbers, and marks stand where things happened."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from generator import facts
from generator.run import events
from grafana_files import DASHBOARD_FILES, panels
from grafana_live import BROKEN, HEALTHY, Recording
from test_grafana_queries import substitute

LIMIT = re.compile(r"([A-Z]\w+)(?: \((critical)\))?: ")


def limits() -> list[Any]:
    """Every line that is drawn where an alert fires: dashboard and panel, alert, severity or None, query."""
    found = []
    for file in DASHBOARD_FILES:
        for panel in panels(json.loads(file.read_text(encoding="utf-8"))):
            for target in panel["targets"]:
                if named := LIMIT.match(target.get("legendFormat", "")):
                    place = f"{file.stem}: {panel['title']}"
                    found.append(pytest.param(panel, named[1], named[2], target, id=f"{place}: {target['refId']}"))
    return found


def test_there_are_limits() -> None:
    assert len(limits()) > 20


@pytest.mark.parametrize(("panel", "alert", "severity", "target"), limits())
def test_a_limit_is_the_rules(panel: dict[str, Any], alert: str, severity: str | None, target: dict[str, Any]) -> None:
    """Read independently of the generator: numbers and series of the line stand in a rule of that alert."""
    rules = [rule for rule in facts.alerts() if rule.name == alert and severity in (None, rule.severity)]
    assert rules
    numbers = {float(number) for rule in rules for number in re.findall(r"(?<![\w.])\d+(?:\.\d+)?", rule.expr)}
    drawn = re.match(r"(\d+(?:\.\d+)?) [+*]", target["expr"])
    if drawn:
        assert float(drawn[1]) in numbers
    shown = re.search(r"(\d+(?:\.\d+)?)(%?)", target["legendFormat"].partition(": ")[2])
    if shown:
        assert float(shown[1]) / (100 if shown[2] else 1) in {*numbers, *(round(n, 2) for n in numbers)}
    compared = {name for rule in rules for name in facts.metrics_in(rule.expr)} | {"llm_training_progress_ratio"}
    assert set(facts.metrics_in(target["expr"])) <= compared
    assert alert in {link["url"].rpartition("/")[2] for link in panel["links"]}


def test_every_alert_has_a_panel_that_leads_to_its_runbook() -> None:
    text = "".join(file.read_text(encoding="utf-8") for file in DASHBOARD_FILES if file.stem != "wall")
    led_to = set(re.findall(r"\$\{runbooks\}/(\w+)", text))
    assert led_to == {alert.name for alert in facts.alerts()}


STEP = 3  # seconds; two scrapes and more


def marks(recording: Recording, name: str, run: str) -> list[dict[str, Any]]:
    (annotation,) = (each for each in events.annotations() if each.name == name)
    at = recording.situations[run]
    return recording.range(substitute(annotation.expr, run, at.until - at.since, STEP), at.until, at.since, STEP)


def test_an_evaluation_and_a_checkpoint_are_marks_and_not_bars(recording: Recording) -> None:
    for name, most in (("Evaluations", 6), ("Checkpoints", 3)):
        points = [value for one in marks(recording, name, HEALTHY) for value in one["values"]]
        assert 1 <= len(points) <= 2 * most, name


def test_an_alert_is_marked_when_it_begins(recording: Recording) -> None:
    (series,) = (one for one in marks(recording, "Alerts", BROKEN) if one["metric"]["alertname"] == "LossNaN")
    ((time, _),) = series["values"]
    assert recording.broken - 2 * STEP <= time <= recording.broken + 2 * STEP

"""Runs side by side, on real ones: curves over steps have each run's own values, and results are those of the run."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from generator.compare import curves
from grafana_files import GRAFANA, panels
from grafana_live import BROKEN, CRASHED, HEALTHY, LIVE, PAST, Recording
from grafana_runs import STEPS
from test_grafana_queries import substitute

from training_exporter.events import STATES

NO_ANSWER = "no answer"


def panel(title: str) -> dict[str, Any]:
    dashboard = json.loads((GRAFANA / "dashboards" / "compare.json").read_text(encoding="utf-8"))
    (found,) = (panel for panel in panels(dashboard) if panel["title"] == title)
    return dict(found)


def ask(recording: Recording, expr: str, run: str, until: float) -> list[dict[str, Any]]:
    """What the query gives at the right edge, when the dashboard shows that run and all of the recording."""
    return recording.instant(substitute(expr, run, until - recording.situations[PAST].since), until)


def curve(recording: Recording, title: str, run: str) -> dict[float, float]:
    """Place on the x axis -> value, as the panel gets them."""
    at = recording.situations[run]
    (target,) = panel(title)["targets"]
    rows = recording.instant(substitute(target["expr"], run, at.until - at.since, at.step), at.until)
    assert {row["metric"]["run"] for row in rows} == {run}
    return {float(row["metric"]["place"]): float(row["value"][1]) for row in rows}


def scraped(recording: Recording, metric: str, run: str) -> dict[float, float]:
    """Time -> value of every sample that there is."""
    at = recording.situations[run]
    selector = f'{metric}{{run="{run}"}}[{at.until - at.since:.0f}s]'
    return {time: float(value) for one in recording.instant(selector, at.until) for time, value in one["values"]}


@pytest.mark.parametrize("run", [HEALTHY, LIVE, PAST])
def test_a_curve_over_steps_has_the_values_of_its_steps(recording: Recording, run: str) -> None:
    loss = scraped(recording, "llm_training_loss_smoothed", run)
    steps = scraped(recording, "llm_training_steps_total", run)
    (most,) = set(scraped(recording, "llm_training_max_steps", run).values())
    width = math.ceil(most / curves.PLACES)

    def place(step: float) -> float:
        return math.ceil(step / width) * width

    drawn = curve(recording, "Training loss over steps", run)
    assert len(drawn) > 3
    assert set(drawn.items()) <= {(place(step), loss[time]) for time, step in steps.items() if time in loss}
    # The curve is read at whole multiples of the interval: what was scraped since the last of them is not on it.
    at = recording.situations[run]
    last = at.until - at.until % at.step
    assert max(drawn) == place(max(step for time, step in steps.items() if time <= last))


def test_a_curve_over_hours_begins_at_the_start(recording: Recording) -> None:
    drawn = curve(recording, "Training loss over hours", HEALTHY)
    loss = scraped(recording, "llm_training_loss_smoothed", HEALTHY)
    (start,) = set(scraped(recording, "llm_training_start_timestamp_seconds", HEALTHY).values())
    there = {(round((time - start) / 3600, 3), value) for time, value in loss.items()}
    assert set(drawn.items()) <= there
    assert 0 <= min(drawn) < max(drawn) <= (recording.situations[HEALTHY].until - start) / 3600 + 0.001


def test_a_run_without_a_figure_keeps_its_place_among_the_colours(recording: Recording) -> None:
    """It is a column without a value, and not none."""
    never = 'max by (run) (llm_training_text_quality_ratio{run=~"$runs",stage="never"})'
    (target,) = curves.over_steps(1, "Never", "", never, (0, 0, 12, 8)).targets
    (row,) = ask(recording, target.expr, HEALTHY, recording.ended)
    assert (row["metric"], row["value"][1]) == ({"run": HEALTHY, "place": "0"}, "NaN")


@pytest.mark.parametrize("title", ["Training loss over steps", "Training loss over hours", "Training loss on the way"])
def test_no_run_is_said(recording: Recording, title: str) -> None:
    (target,) = panel(title)["targets"]
    (row,) = ask(recording, target["expr"], "another", recording.ended)
    assert (row["metric"]["run"], row["value"][1]) == (curves.NO_RUNS, "NaN")


def result(recording: Recording, heading: str, run: str, at: float) -> float | None:
    """A cell of the table of results; None: there is nothing in it."""
    table = panel("Results")
    (columns,) = (t["options"]["renameByName"] for t in table["transformations"] if t["id"] == "organize")
    (field,) = (name for name, shown in columns.items() if shown == heading)
    (target,) = (t for t in table["targets"] if t["refId"] == field.removeprefix("Value #"))
    rows = ask(recording, target["expr"], run, at)
    assert len(rows) <= 1
    return float(rows[0]["value"][1]) if rows else None


@pytest.mark.parametrize(
    ("run", "moment", "expected"),
    [
        (HEALTHY, "calm", "training"),
        (HEALTHY, "ended", "completed"),
        (BROKEN, "broken", "training"),
        (BROKEN, "later", NO_ANSWER),
        (CRASHED, "later", NO_ANSWER),
        (HEALTHY, "later", "completed"),
    ],
)
def test_states(recording: Recording, run: str, moment: str, expected: str) -> None:
    names = dict(enumerate((*STATES, NO_ANSWER), 1))
    at = recording.ended + 90 if moment == "later" else getattr(recording, moment)
    number = result(recording, "State", run, at)
    assert number is not None
    assert names[int(number)] == expected


def test_results_of_an_ended_run(recording: Recording) -> None:
    at = recording.ended
    assert result(recording, "Steps", HEALTHY, at) == STEPS
    assert result(recording, "Done", HEALTHY, at) == 1
    evaluated = scraped(recording, "llm_training_validation_loss", HEALTHY)
    assert result(recording, "Best validation", HEALTHY, at) == pytest.approx(min(evaluated.values()), rel=0.05)
    hours = result(recording, "Hours", HEALTHY, at)
    assert hours is not None
    assert 0 < hours < 0.1
    assert result(recording, "GPU hours", HEALTHY, at) == hours, "one GPU"
    assert result(recording, "GPU hours", LIVE, at) is None, "it has none"


def test_alerts_are_counted_where_rules_were_evaluated(recording: Recording) -> None:
    broken = result(recording, "Alerts", BROKEN, recording.ended)
    assert broken is not None
    assert broken >= 1
    assert result(recording, "Alerts", HEALTHY, recording.calm) is not None
    assert result(recording, "Alerts", PAST, recording.ended) is None, "nobody knows"

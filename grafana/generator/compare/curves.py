"""Curves of several runs over optimizer steps, or over hours since each run's start.

Prometheus knows time only, so the query makes the place on the x axis a label: `count_values` turns the step that a run
was at into a label, and each value goes to the label of its own scrape. `last_over_time` over a subquery collects a row
for each (run, place), a transformation makes a column of each run, and Grafana's trend panel draws the columns over the
places. No value is interpolated, and the clock plays no part: a run of last week lies on one of today.

The subquery looks at MOST_POINTS moments of the time range, so a run that is very short against it has few points.
"""

from __future__ import annotations

from typing import Any

from generator.model import Json, Panel, Target
from generator.style import Grid, chart, column

RUNS = '{run=~"$runs"}'
NO_RUNS = "no run in this time range"

#: Moments of the time range at which the curves are read.
MOST_POINTS = 6000

#: Beside a run that has diverged the others can still be told apart.
LOSS: Json = {"custom": {"scaleDistribution": {"type": "log", "log": 2}}, "decimals": 2}

#: Places on the axis of steps, at most: a long run has one for several steps, with the last value of them.
PLACES = 400


def of_runs(metric: str) -> str:
    """Each run's figure, whichever process serves it."""
    return f"max by (run) ({metric}{RUNS})"


def _steps() -> str:
    """The step that each run is at, rounded up to the next place on the axis."""
    steps = of_runs("llm_training_steps_total")
    width = f"clamp_min(ceil({of_runs('llm_training_max_steps')} / {PLACES}), 1)"
    return f"(ceil({steps} / on (run) {width}) * on (run) {width} or {steps})"


def _hours() -> str:
    """Hours since each run's start; a thousandth is 3.6 s, less than the time between two scrapes."""
    started = of_runs("llm_training_start_timestamp_seconds")
    scraped = f"max by (run) (timestamp(llm_training_start_timestamp_seconds{RUNS}))"
    return f"round(({scraped} - on (run) {started}) / 3600, 0.001)"


def _over(place: str, value: str) -> str:
    """A row for each run and place; a run without a value, or that there is no run, is a row that draws nothing.

    So the columns are the same runs in all charts, and with them the colours; and Grafana, which shows an error where
    this panel gets no number, has something to show.
    """
    rows = f'{value} * on (run) group_left (place) count_values by (run) ("place", {place})'
    every_run = f"max by (run) (last_over_time(llm_training_start_timestamp_seconds{RUNS}[$__range]))"
    none = f'label_replace(vector(NaN), "run", "{NO_RUNS}", "", "")'
    return (
        f"last_over_time(({rows})[$__range:$__interval]) "
        f'or on (run) label_replace(NaN * {every_run}, "place", "0", "", "") '
        f'or on () label_replace({none}, "place", "0", "", "")'
    )


def _trend(
    id: int,
    title: str,
    description: str,
    place: str,
    axis: tuple[str, int],
    value: str,
    grid: Grid,
    **defaults: Any,
) -> Panel:
    name, decimals = axis
    base = chart(id, title, description, [], grid, no_value=NO_RUNS, **defaults)
    column = "place\\run"  # as the transformation names the column of places
    look = {**base.defaults["custom"], "spanNulls": True, "lineWidth": 2}
    return Panel(
        id,
        "trend",
        title,
        description,
        [Target(_over(place, value), table=True)],
        grid,
        {**base.defaults, "custom": look},
        [
            {
                "matcher": {"id": "byName", "options": name},
                "properties": [
                    {"id": "custom.axisLabel", "value": name},
                    {"id": "unit", "value": "none"},
                    {"id": "decimals", "value": decimals},
                ],
            }
        ],
        {
            "xField": name,
            "legend": {"showLegend": True, "displayMode": "list", "placement": "bottom", "calcs": []},
            "tooltip": {"mode": "multi", "sort": "asc", "hideZeros": False},
        },
        [
            # The answer has its rows in no order, and the order of the columns is that of the colours.
            {"id": "sortBy", "options": {"fields": {}, "sort": [{"field": "run"}]}},
            {
                "id": "groupingToMatrix",
                "options": {"columnField": "run", "rowField": "place", "valueField": "Value", "emptyValue": "null"},
            },
            {
                "id": "convertFieldType",
                "options": {"fields": {}, "conversions": [{"targetField": column, "destinationType": "number"}]},
            },
            {"id": "sortBy", "options": {"fields": {}, "sort": [{"field": column}]}},
            {"id": "organize", "options": {"renameByName": {column: name}}},
        ],
        max_points=MOST_POINTS,
    )


def on_the_way(id: int, grid: Grid) -> Panel:
    """Loss at each tenth of each run's own steps: what a table can say of the curves."""
    tenth = f"ceil(10 * {of_runs('llm_training_progress_ratio')}) * 10"
    return Panel(
        id,
        "table",
        "Training loss on the way",
        "Smoothed, when each tenth of the run's own steps was done. Good: lower, and earlier.",
        [Target(_over(tenth, of_runs("llm_training_loss_smoothed")), table=True)],
        grid,
        {"noValue": "–", "decimals": 3, "custom": {"align": "left", "cellOptions": {"type": "auto"}, "minWidth": 70}},
        [column("Run", custom__minWidth=180)],
        {"showHeader": True, "cellHeight": "sm"},
        [
            {
                "id": "convertFieldType",
                "options": {"fields": {}, "conversions": [{"targetField": "place", "destinationType": "number"}]},
            },
            {"id": "sortBy", "options": {"fields": {}, "sort": [{"field": "place"}]}},
            {
                "id": "groupingToMatrix",
                "options": {"columnField": "place", "rowField": "run", "valueField": "Value", "emptyValue": "null"},
            },
            {"id": "sortBy", "options": {"fields": {}, "sort": [{"field": "run\\place"}]}},
            {
                "id": "organize",
                "options": {
                    "excludeByName": {"0": True},  # the place of runs that have no loss
                    "renameByName": {"run\\place": "Run"} | {str(tenth): f"{tenth}%" for tenth in range(10, 101, 10)},
                },
            },
        ],
        max_points=MOST_POINTS,
    )


def over_steps(id: int, title: str, description: str, value: str, grid: Grid, **defaults: Any) -> Panel:
    """A chart of `value`, one series by run, over optimizer steps."""
    return _trend(id, title, description, _steps(), ("optimizer step", 0), value, grid, **defaults)


def over_hours(id: int, title: str, description: str, value: str, grid: Grid, **defaults: Any) -> Panel:
    """A chart of `value`, one series by run, over hours since each run's start."""
    return _trend(id, title, description, _hours(), ("hours since the start", 2), value, grid, **defaults)


GOOD = "Good: lower, and earlier. A curve ends where its run has ended, or stands."


def loss(id: int, grid: Grid) -> Panel:
    return over_steps(
        id,
        "Training loss over steps",
        f"Smoothed, over the optimizer steps of each run. {GOOD}",
        of_runs("llm_training_loss_smoothed"),
        grid,
        **LOSS,
    )


def validation_loss(id: int, grid: Grid) -> Panel:
    return over_steps(
        id,
        "Validation loss over steps",
        "Of the last evaluation at each step. Good: lower; a curve that turns upward overfits from there on.",
        of_runs("llm_training_validation_loss"),
        grid,
        **LOSS,
    )


def loss_by_hours(id: int, grid: Grid) -> Panel:
    return over_hours(
        id,
        "Training loss over hours",
        f"Smoothed, over the hours since each run's first start, pauses included. {GOOD}",
        of_runs("llm_training_loss_smoothed"),
        grid,
        **LOSS,
    )


def learning_rate(id: int, grid: Grid) -> Panel:
    return over_steps(
        id,
        "Learning rate over steps",
        "Good: as configured, a warm-up and a decay. It is often the difference between two runs.",
        of_runs("llm_training_learning_rate"),
        grid,
        unit="sci",
        decimals=1,
        min=0,
    )


def tokens_per_second(id: int, grid: Grid) -> Panel:
    return over_steps(
        id,
        "Tokens per second over steps",
        "Non-padding tokens per second of step time. Good: higher, and steady.",
        of_runs("llm_training_tokens_per_second"),
        grid,
        unit="locale",
        decimals=0,
        min=0,
    )

"""How our panels look: the house defaults, once.

Colours fit both themes, and a test sees to it that colour-blind people can tell those of a set apart. Those that mean
something never stand without a word or a number beside them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from generator.model import Json, Panel, Target

#: Lines of a chart; REFERENCE is what they are compared with.
MAIN, SECOND, THIRD, REFERENCE = "#5794f2", "#ff9830", "#d45ca0", "#8e8e8e"

#: What a text or a mark means.
GOOD, LOOK, ACT, NEUTRAL = "#2ec4a0", "#ff9830", "#e02f44", "#8e8e8e"

#: The same as a whole tile, under white or black text; DONE: it is over, and well.
FINE, WARN, ALARM, DONE, IDLE = "#1a9a6c", "#ffb400", "#b5122e", "#2563d9", "#565b66"

#: The main colour behind its own smoothed line.
MAIN_FAINT = "rgba(87, 148, 242, 0.75)"

NO_RUN = "no run"

Grid = tuple[int, int, int, int]


def fixed(color: str) -> Json:
    return {"mode": "fixed", "fixedColor": color}


def line(color: str, width: int = 2, *, dash: bool = False, points: bool = False, fill: int = 0, **more: Any) -> Json:
    """Properties of one query's lines in a time series."""
    style: Json = {"color": fixed(color), "custom.lineWidth": width}
    if dash:
        style["custom.lineStyle"] = {"fill": "dash", "dash": [8, 6]}
    if points:  # few and far between: shown, and joined
        style |= {"custom.showPoints": "always", "custom.pointSize": 7, "custom.spanNulls": True}
    if fill:
        style["custom.fillOpacity"] = fill
    return {**style, **more}


def band(lower: Target, upper: Target, color: str, opacity: int = 18) -> tuple[Target, Target]:
    """Two queries of one chart as a filled band without border lines; their legends must be unlike all others'.

    The legend shows the upper one alone.
    """
    edge = {"color": fixed(color), "custom.lineWidth": 0}
    hidden = {"custom.hideFrom": {"legend": True, "tooltip": False, "viz": False}}
    return (
        replace(lower, properties={**edge, **hidden, **lower.properties}),
        replace(
            upper,
            properties={**edge, "custom.fillBelowTo": lower.legend, "custom.fillOpacity": opacity, **upper.properties},
        ),
    )


def steps(*marks: tuple[float | None, str]) -> Json:
    """Thresholds: from each value on its colour; the first value is None."""
    return {"mode": "absolute", "steps": [{"value": value, "color": color} for value, color in marks]}


def words(texts: Mapping[str, tuple[str, str | None]]) -> Json:
    """A value mapping: value -> (text, colour)."""
    return {
        "type": "value",
        "options": {
            value: {"text": text, "index": i, **({"color": color} if color else {})}
            for i, (value, (text, color)) in enumerate(texts.items())
        },
    }


#: A figure that is no number is bad news and says so.
NAN = {"type": "special", "options": {"match": "nan", "result": {"text": "NaN", "color": ACT, "index": 0}}}


def missing(text: str, color: str = NEUTRAL) -> Json:
    """A value mapping for no value at all: in grey, for its absence is neither good nor bad."""
    return {"type": "special", "options": {"match": "null", "result": {"text": text, "color": color, "index": 1}}}


def above(limit: float, text: str) -> Json:
    """A value mapping for figures that are too large to be read."""
    return {"type": "range", "options": {"from": limit, "to": None, "result": {"text": text, "color": ACT, "index": 2}}}


def tile(
    id: int,
    title: str,
    description: str,
    targets: Sequence[Target],
    grid: Grid,
    *,
    no_value: str = NO_RUN,
    color: Json | None = None,
    color_mode: str = "value",
    graph: bool = True,
    names: bool = False,
    wide: bool = True,
    center: bool = False,
    value_size: int | None = 46,
    name_size: int = 16,
    mappings: Sequence[Json] = (),
    overrides: Sequence[Json] = (),
    runbooks: Sequence[str] = (),
    **defaults: Any,
) -> Panel:
    """A stat: the last value, large, over its course in the time range. `value_size` None fits the text to the tile.

    `names`: with the name of the series, beside the value where the tile is `wide`, else above it.
    """
    text: Json = {"valueSize": value_size, **({"titleSize": name_size} if names else {})} if value_size else {}
    return Panel(
        id,
        "stat",
        title,
        description,
        targets,
        grid,
        {
            "color": color or fixed("text"),
            "unit": "none",
            "noValue": no_value,
            "mappings": [NAN, missing(no_value, "transparent" if "background" in color_mode else NEUTRAL), *mappings],
            "thresholds": steps((None, GOOD)),
            **defaults,
        },
        overrides,
        {
            "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
            "colorMode": color_mode,
            "graphMode": "area" if graph else "none",
            "justifyMode": "center" if center else "auto",
            "orientation": "horizontal",
            "textMode": "value_and_name" if names else "value",
            "wideLayout": wide,
            "showPercentChange": False,
            "text": text,
        },
        runbooks=runbooks,
    )


def progress_bar(
    id: int,
    title: str,
    description: str,
    targets: Sequence[Target],
    grid: Grid,
    *,
    color: str,
    no_value: str = NO_RUN,
) -> Panel:
    """A bar that fills from 0 to 100 %, with the number beside it."""
    return Panel(
        id,
        "bargauge",
        title,
        description,
        targets,
        grid,
        {
            "color": fixed(color),
            "unit": "percentunit",
            "decimals": 0,
            "min": 0,
            "max": 1,
            "noValue": no_value,
            "mappings": [missing(no_value)],
            "thresholds": steps((None, color)),
        },
        options={
            "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
            "displayMode": "basic",
            "orientation": "horizontal",
            "valueMode": "text",
            "namePlacement": "hidden",
            "showUnfilled": True,
            "sizing": "auto",
        },
    )


def chart(
    id: int,
    title: str,
    description: str,
    targets: Sequence[Target],
    grid: Grid,
    *,
    no_value: str = NO_RUN,
    custom: Json | None = None,
    legend: bool = True,
    last: bool = True,
    runbooks: Sequence[str] = (),
    **defaults: Any,
) -> Panel:
    """A time series: thin grid, no points, one tooltip for all lines; in the legend the `last` values, too."""
    calcs = ["lastNotNull"] if last else []
    look = {
        "drawStyle": "line",
        "lineInterpolation": "linear",
        "lineWidth": 2,
        "fillOpacity": 0,
        "gradientMode": "none",
        "showPoints": "never",
        "spanNulls": False,
        "axisPlacement": "auto",
        "axisLabel": "",
        "axisBorderShow": False,
        "scaleDistribution": {"type": "linear"},
        "stacking": {"mode": "none", "group": "A"},
        "thresholdsStyle": {"mode": "off"},
        **(custom or {}),
    }
    return Panel(
        id,
        "timeseries",
        title,
        description,
        targets,
        grid,
        {
            "color": {"mode": "palette-classic"},
            "unit": "none",
            "noValue": no_value,
            "thresholds": steps((None, GOOD)),
            "custom": look,
            **defaults,
        },
        options={
            "legend": {"showLegend": legend, "displayMode": "list", "placement": "bottom", "calcs": calcs},
            "tooltip": {"mode": "multi", "sort": "none", "hideZeros": False},
        },
        runbooks=runbooks,
    )


def table(
    id: int,
    title: str,
    description: str,
    target: Target,
    grid: Grid,
    *,
    no_value: str,
    columns: Mapping[str, str],
    overrides: Sequence[Json] = (),
    transformations: Sequence[Json] = (),
    header: bool = True,
) -> Panel:
    """A table of one instant query: `columns` are the labels to show, in order, with their headings."""
    organize = {
        "id": "organize",
        "options": {
            "excludeByName": {"Time": True, **({} if "Value" in columns else {"Value": True})},
            "indexByName": {label: i for i, label in enumerate(columns)},
            "renameByName": dict(columns),
        },
    }
    return Panel(
        id,
        "table",
        title,
        description,
        [target],
        grid,
        {"noValue": no_value, "custom": {"align": "left", "cellOptions": {"type": "auto"}}},
        overrides,
        {"showHeader": header, "cellHeight": "sm"},
        [organize, *transformations],
    )


def column(name: str, **properties: Any) -> Json:
    """Field options of one column of a table, by its heading; `__` in a keyword stands for a dot."""
    values = [{"id": key.replace("__", "."), "value": value} for key, value in properties.items()]
    return {"matcher": {"id": "byName", "options": name}, "properties": values}

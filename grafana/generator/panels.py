"""Panels beyond tiles and charts: headings, tables of several queries, timelines of states."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from generator.model import Json, Panel, Target
from generator.style import GOOD, Grid, steps


def joined(
    id: int,
    title: str,
    description: str,
    targets: Sequence[Target],
    grid: Grid,
    *,
    no_value: str,
    columns: Mapping[str, str],
    overrides: Sequence[Json] = (),
    transformations: Sequence[Json] = (),
    sort: tuple[str, bool] | None = None,
    runbooks: Sequence[str] = (),
) -> Panel:
    """A table of several instant queries, one row for what has the same labels in all of them.

    `columns`: label, or "Value #A" for the value of the first query, and so on -> heading, in order; no others are
    shown. `sort`: heading, and whether the largest comes first.
    """
    order = {name: index for index, name in enumerate(columns)}
    return Panel(
        id,
        "table",
        title,
        description,
        targets,
        grid,
        {"noValue": no_value, "custom": {"align": "left", "cellOptions": {"type": "auto"}}},
        overrides,
        {
            "showHeader": True,
            "cellHeight": "sm",
            **({"sortBy": [{"displayName": sort[0], "desc": sort[1]}]} if sort else {}),
        },
        [
            {"id": "merge", "options": {}},
            *transformations,
            {"id": "filterFieldsByName", "options": {"include": {"names": list(columns)}}},
            {"id": "organize", "options": {"indexByName": order, "renameByName": dict(columns)}},
        ],
        runbooks=runbooks,
    )


def timeline(
    id: int,
    title: str,
    description: str,
    targets: Sequence[Target],
    grid: Grid,
    *,
    no_value: str,
    mappings: Sequence[Json],
    **defaults: Any,
) -> Panel:
    """A bar per series whose colour and word are the state that it was in."""
    return Panel(
        id,
        "state-timeline",
        title,
        description,
        targets,
        grid,
        {
            "color": {"mode": "thresholds"},
            "noValue": no_value,
            "mappings": list(mappings),
            "thresholds": steps((None, GOOD)),
            "custom": {"lineWidth": 0, "fillOpacity": 80, "insertNulls": False, "spanNulls": False},
            **defaults,
        },
        options={
            "mergeValues": True,
            "showValue": "auto",
            "alignValue": "left",
            "rowHeight": 0.85,
            "legend": {"showLegend": False, "displayMode": "list", "placement": "bottom"},
            "tooltip": {"mode": "multi", "sort": "none"},
        },
    )

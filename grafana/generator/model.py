"""What a classic dashboard JSON is made of (schema version 42: Grafana 12 and 13). No looks here: see style.py."""

from __future__ import annotations

import json
import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from generator.facts import GeneratorError, alerts, check_metrics, metrics_in

Json = dict[str, Any]

SCHEMA_VERSION = 42
COLUMNS = 24
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}


@dataclass(frozen=True)
class Target:
    """One query. `properties` are field options of its series alone (colour, unit, line style ...)."""

    expr: str
    legend: str = ""
    table: bool = False  # an instant query, one row per series
    instant: bool = False  # an instant query, one value per series: how it is now, not what was last
    properties: Mapping[str, Any] = field(default_factory=dict)

    def json(self, ref_id: str) -> Json:
        how: Json = {"format": "table"} if self.table else {}
        how |= {"instant": True, "range": False} if self.table or self.instant else {"range": True, "instant": False}
        legend = {"legendFormat": self.legend} if self.legend else {}
        return {"refId": ref_id, "datasource": DATASOURCE, "editorMode": "code", "expr": self.expr, **legend, **how}


@dataclass(frozen=True)
class Panel:
    """One panel at (x, y) with width w (24 columns) and height h (units of 38 pixels).

    `id` is part of links to the panel (`viewPanel`), so it never changes. `description` says what good looks like;
    the names of the metrics are added to it. `runbooks` needs the variable of that name on the dashboard.
    """

    id: int
    type: str
    title: str
    description: str
    targets: Sequence[Target]
    grid: tuple[int, int, int, int]  # x, y, w, h
    defaults: Json = field(default_factory=dict)
    overrides: Sequence[Json] = ()
    options: Json = field(default_factory=dict)
    transformations: Sequence[Json] = ()
    max_points: int | None = None  # of each query; else as many as the panel is wide in pixels
    runbooks: Sequence[str] = ()  # alerts whose runbooks the panel's menu links to

    @property
    def metrics(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for target in self.targets for name in metrics_in(target.expr)))

    def json(self) -> Json:
        if len(self.targets) > len(string.ascii_uppercase):
            raise GeneratorError(f"panel {self.title!r}: found {len(self.targets)} targets, allowed: 26")
        refs = dict(zip(string.ascii_uppercase, self.targets, strict=False))
        for target in self.targets:
            check_metrics(f"panel {self.title!r}", target.expr)
        overrides = [
            {
                "matcher": {"id": "byFrameRefID", "options": ref},
                "properties": [{"id": k, "value": v} for k, v in target.properties.items()],
            }
            for ref, target in refs.items()
            if target.properties
        ]
        x, y, w, h = self.grid
        return {
            "id": self.id,
            "type": self.type,
            "title": self.title,
            "description": f"{self.description}\n\nMetric: " + ", ".join(f"`{name}`" for name in self.metrics),
            "gridPos": {"x": x, "y": y, "w": w, "h": h},
            "datasource": DATASOURCE,
            "targets": [target.json(ref) for ref, target in refs.items()],
            **({"links": [runbook_link(alert) for alert in self.runbooks]} if self.runbooks else {}),
            "fieldConfig": {"defaults": self.defaults, "overrides": [*overrides, *self.overrides]},
            "options": self.options,
            **({"maxDataPoints": self.max_points} if self.max_points else {}),
            **({"transformations": list(self.transformations)} if self.transformations else {}),
        }


@dataclass(frozen=True)
class Row:
    """A heading above the panels that follow; on the dashboard's column 0, at height y."""

    id: int
    title: str
    y: int

    @property
    def grid(self) -> tuple[int, int, int, int]:
        return (0, self.y, COLUMNS, 1)

    def json(self) -> Json:
        x, y, w, h = self.grid
        grid = {"x": x, "y": y, "w": w, "h": h}
        return {"id": self.id, "type": "row", "title": self.title, "collapsed": False, "gridPos": grid, "panels": []}


@dataclass(frozen=True)
class Note:
    """Words on the dashboard, in Markdown."""

    id: int
    title: str
    markdown: str
    grid: tuple[int, int, int, int]

    def json(self) -> Json:
        x, y, w, h = self.grid
        return {
            "id": self.id,
            "type": "text",
            "title": self.title,
            "gridPos": {"x": x, "y": y, "w": w, "h": h},
            "options": {"mode": "markdown", "content": self.markdown},
        }


def runbook_link(alert: str) -> Json:
    """A link to what to do about an alert of alerts/rules; raises GeneratorError when there is none of that name."""
    names = {rule.name for rule in alerts()}
    if alert not in names:
        raise GeneratorError(f"found alert {alert!r}, allowed: {', '.join(sorted(names))}")
    return {"title": f"Runbook: {alert}", "url": f"${{runbooks}}/{alert}", "targetBlank": True}


@dataclass(frozen=True)
class Annotation:
    """Marks at moments on all charts: at every point of `expr` that is there, so `expr` gives edges, not states.

    `title` and `text` may name labels of the series: `{{run}}`.
    """

    name: str
    expr: str
    color: str
    title: str
    text: str = ""
    on: bool = True
    step: str = "15s"  # at least; Grafana asks for fewer points where the time range is long

    def json(self) -> Json:
        check_metrics(f"annotation {self.name!r}", self.expr)
        return {
            "name": self.name,
            "datasource": DATASOURCE,
            "enable": self.on,
            "hide": False,
            "iconColor": self.color,
            "expr": self.expr,
            "step": self.step,
            "titleFormat": self.title,
            "textFormat": self.text,
            "useValueForTime": False,
        }


@dataclass(frozen=True)
class Variable:
    """A template variable; `options` are what its type needs beyond these."""

    name: str
    label: str
    type: str
    query: Any
    hidden: bool = False
    options: Json = field(default_factory=dict)

    def json(self) -> Json:
        base = {"name": self.name, "label": self.label, "type": self.type, "hide": 2 if self.hidden else 0}
        return {**base, "query": self.query, "current": {}, **self.options}


def query_variable(name: str, label: str, query: str, regex: str = "", hidden: bool = False) -> Variable:
    """Its values are what Prometheus answers for the dashboard's time range, in the order of the answer."""
    check_metrics(f"variable {name!r}", query.replace("query_result", ""))
    return Variable(
        name,
        label,
        "query",
        {"qryType": 3, "query": query, "refId": "PrometheusVariableQueryEditor-VariableQuery"},
        hidden,
        {
            "datasource": DATASOURCE,
            "definition": query,
            "regex": regex,
            "refresh": 2,
            "sort": 0,
            "multi": False,
            "includeAll": False,
        },
    )


@dataclass(frozen=True)
class Dashboard:
    """One dashboard; its URL is /d/<uid>, which messages link to: the uid never changes."""

    uid: str
    title: str
    description: str
    panels: Sequence[Panel | Row | Note]
    variables: Sequence[Variable]
    links: Sequence[Json]
    tags: Sequence[str]
    time_from: str = "now-1h"  # as long as RunFailed and RunVanished last: their links must show the run
    refresh: str = "5s"
    annotations: Sequence[Annotation] = ()

    def json(self) -> Json:
        self._check()
        made: Json = {
            "uid": self.uid,
            "title": self.title,
            "description": self.description,
            "tags": list(self.tags),
            "schemaVersion": SCHEMA_VERSION,
            "version": 1,
            "editable": False,
            "graphTooltip": 1,  # the crosshair is shared: what happened elsewhere at this moment
            "timezone": "browser",
            "time": {"from": self.time_from, "to": "now"},
            "refresh": self.refresh,
            "timepicker": {},
            "annotations": {"list": [annotation.json() for annotation in self.annotations]},
            "templating": {"list": [variable.json() for variable in self.variables]},
            "links": list(self.links),
            "panels": [panel.json() for panel in self.panels],
        }
        self._check_variables(made)
        return made

    def text(self) -> str:
        """The file's content."""
        return json.dumps(self.json(), indent=2, ensure_ascii=False) + "\n"

    def _check(self) -> None:
        place = f"dashboard {self.uid!r}"
        ids = [panel.id for panel in self.panels]
        if len(set(ids)) != len(ids):
            raise GeneratorError(f"{place}: found panel ids {ids}, allowed: each once")
        cells: dict[tuple[int, int], str] = {}
        for panel in self.panels:
            x, y, w, h = panel.grid
            if x < 0 or y < 0 or w < 1 or h < 1 or x + w > COLUMNS:
                raise GeneratorError(
                    f"{place}: panel {panel.title!r}: found grid {panel.grid}, allowed: {COLUMNS} columns"
                )
            for cell in ((cx, cy) for cx in range(x, x + w) for cy in range(y, y + h)):
                other = cells.setdefault(cell, panel.title)
                if other != panel.title:
                    raise GeneratorError(f"{place}: panels {other!r} and {panel.title!r} overlap at {cell}")

    def _check_variables(self, made: Json) -> None:
        """Grafana passes over a reference to a variable that is not there: the text stays, and the query is empty."""
        known = {variable.name for variable in self.variables}
        used = set(re.findall(r"\$\{?([a-z]\w*)", json.dumps([made["panels"], made["links"], made["annotations"]])))
        if missing := sorted(used - known):
            raise GeneratorError(
                f"dashboard {self.uid!r}: found references to {', '.join(missing)}, "
                f"allowed: its variables ({', '.join(sorted(known)) or 'none'})"
            )

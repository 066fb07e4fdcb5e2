"""Every query of every dashboard returns data from a real Prometheus, and the hard ones return the right data."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from generator import facts, queries
from grafana_files import DASHBOARD_FILES, panels
from grafana_live import BROKEN, HEALTHY, RANGE_SECONDS, Recording

from training_exporter.events import STATES
from training_exporter.stack.binaries import PROMTOOL


def substitute(expr: str, run: str) -> str:
    """What Grafana sends: `$run` is escaped as in a double-quoted PromQL string, intervals as at a 1 s scrape."""
    values = {
        "run": run.replace("\\", "\\\\").replace('"', '\\"'),
        "gpu": ".*",  # all of them
        "__rate_interval": "4s",
        "__interval": "1s",
        "__range": f"{RANGE_SECONDS}s",
    }
    found = re.sub(r"\$\{?([a-z_]\w*)\}?", lambda match: values[match[1]], expr)
    assert not re.search(r"\$\D", found), found  # $1 is label_replace's own
    return found


def test_every_query_returns_data(dashboard: dict[str, Any], recording: Recording) -> None:
    empty = []
    for panel in panels(dashboard):
        for target in panel["targets"]:
            expr = substitute(target["expr"], HEALTHY)
            table = target.get("instant")
            series = recording.instant(expr, recording.calm) if table else recording.range(expr, recording.calm)
            values = [value for one in series for _, value in one.get("values", [one.get("value")])]
            if not any(value != "NaN" for value in values):
                empty.append(f"{panel['title']} {target['refId']}: {expr}")
    assert not empty


def test_every_variable_has_a_value(dashboard: dict[str, Any], recording: Recording) -> None:
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            wrapped = re.fullmatch(r"query_result\((.*)\)", variable["definition"])
            assert wrapped is not None, f"{variable['name']}: queries of variables are spelt query_result(...)"
            assert recording.instant(substitute(wrapped[1], HEALTHY), recording.calm), variable["name"]


def test_the_newest_run_comes_first(recording: Recording) -> None:
    expr = substitute(f"sort_desc({queries.started('')})", HEALTHY)
    assert [one["metric"]["run"] for one in recording.instant(expr, recording.ended)] == [BROKEN, HEALTHY]


@pytest.mark.parametrize(
    ("run", "moment", "expected"),
    [
        (HEALTHY, "calm", "training"),
        (HEALTHY, "ended", "completed"),
        (BROKEN, "broken", "training"),
        (BROKEN, "ended", "no answer"),
    ],
)
def test_state_tile(recording: Recording, run: str, moment: str, expected: str) -> None:
    """The tile shows the last value of the time range: also of a run that has ended."""
    (series,) = recording.range(substitute(queries.state(), run), getattr(recording, moment))
    names = dict(enumerate(STATES, 1)) | {queries.NO_ANSWER: "no answer"}
    assert names[int(series["values"][-1][1])] == expected


def test_a_run_that_never_was_has_no_state(recording: Recording) -> None:
    assert recording.range(substitute(queries.state(), "another"), recording.ended) == []


def test_firing_alerts_while_nothing_fires(recording: Recording) -> None:
    """The Watchdog vouches for it; its row has no time."""
    (row,) = recording.instant(queries.firing(), recording.calm)
    assert row["metric"] == {"alertname": "Watchdog", "severity": "none", "what": "Watchdog/none"}
    assert row["value"][1] == "0"


def test_firing_alerts(recording: Recording) -> None:
    (row,) = recording.instant(queries.firing(), recording.broken)
    expected = {"alertname": "LossNaN", "severity": "critical", "what": "LossNaN/critical", "where": BROKEN}
    assert row["metric"] == expected
    assert recording.began < float(row["value"][1]) / 1000 <= recording.broken


def test_run_settings_after_the_end(recording: Recording) -> None:
    """The labels that Prometheus keeps: those of the settings that the run has."""
    expr = substitute(queries.settings(("base_model", "batch_size", "lora_r")), HEALTHY)
    (row,) = recording.instant(expr, recording.ended)
    assert row["metric"] == {"base_model": "tiny", "batch_size": "8"}


def test_the_parser_finds_every_metric_of_a_query(recording: Recording) -> None:
    """Cross-check of `metrics_in`: a query whose metrics are all renamed returns nothing."""
    for file in DASHBOARD_FILES:
        for expr in re.findall(r'"expr": "((?:\\.|[^"\\])*)"', file.read_text(encoding="utf-8")):
            expr = re.sub(r"vector\(\d+\)", "no_such_metric", expr.replace('\\"', '"'))
            for name in facts.metrics_in(expr):
                expr = re.sub(rf"(?<![\w:]){name}(?![\w:])", "no_such_metric", expr)
            assert recording.instant(substitute(expr, HEALTHY), recording.calm) == [], expr


def test_a_critical_alert_mutes_its_warning(tmp_path: Path) -> None:
    """As in the messages; other alerts and other runs stay. On series made up by promtool."""
    promtool = PROMTOOL.find()
    if promtool is None:
        pytest.skip("promtool is not on PATH: `make setup` installs it where it can")
    alerts = ["LossRising/critical/a", "LossRising/warning/a", "LossRising/warning/b", "EarlyPlateau/warning/a"]
    series = []
    for name, severity, run in (alert.split("/") for alert in alerts):
        labels = f'alertname="{name}",severity="{severity}",run="{run}"'
        series.append({"series": f'ALERTS{{{labels},alertstate="firing"}}', "values": "1"})
        series.append({"series": f"ALERTS_FOR_STATE{{{labels}}}", "values": "5"})
    expected = [
        f'{{alertname="{name}",severity="{severity}",what="{name}/{severity}",where="{run}"}}'
        for name, severity, run in (alert.split("/") for alert in alerts if alert != "LossRising/warning/a")
    ]
    case = {
        "interval": "5s",
        "input_series": series,
        "promql_expr_test": [
            {
                "expr": queries.firing(),
                "eval_time": "0s",
                "exp_samples": [{"labels": labels, "value": 5000} for labels in expected],
            }
        ],
    }
    file = tmp_path / "test.yml"
    file.write_text(yaml.safe_dump({"tests": [case]}), encoding="utf-8")
    done = subprocess.run([promtool, "test", "rules", file], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr

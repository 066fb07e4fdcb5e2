"""Every query of every dashboard returns data from a real Prometheus, and the hard ones return the right data."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from generator import facts, family, queries
from grafana_files import DASHBOARD_FILES, panels
from grafana_live import BROKEN, CRASHED, HEALTHY, LIVE, PAST, Recording, Situation

from training_exporter.events import STATES
from training_exporter.stack.binaries import PROMTOOL


def substitute(expr: str, run: str, range_seconds: float = 120, step: int = 1) -> str:
    """What Grafana sends: `$run` is escaped as in a double-quoted PromQL string, intervals as at a 1 s scrape."""
    name = run.replace("\\", "\\\\").replace('"', '\\"')
    values = {
        "run": name,
        "runs": name,  # of several: this one is chosen
        "gpu": ".*",  # all of them
        "__rate_interval": f"{step + 4}s",
        "__interval": f"{step}s",
        "__range": f"{range_seconds:.0f}s",
    }
    found = re.sub(r"\$\{?([a-z_]\w*)\}?", lambda match: values[match[1]], expr)
    assert not re.search(r"\$\D", found), found  # $1 is label_replace's own
    return found


def has_data(target: dict[str, Any], at: Situation, recording: Recording) -> bool:
    """Whether the query gives a number, when the dashboard shows that run and time range."""
    expr = substitute(target["expr"], at.run, at.until - at.since, at.step)
    if target["instant"]:
        series = recording.instant(expr, at.until)
    else:
        series = recording.range(expr, at.until, at.since, at.step)
    return any(value != "NaN" for one in series for _, value in one.get("values", [one.get("value")]))


def test_every_query_returns_data(dashboard: dict[str, Any], recording: Recording) -> None:
    """For a run that tells all that can be told; of processes only one below a supervisor tells."""
    empty = [
        f"{panel['title']} {target['refId']}: {target['expr']}"
        for panel in panels(dashboard)
        for target in panel["targets"]
        if not has_data(
            target, recording.situations[LIVE if "llm_training_process" in target["expr"] else HEALTHY], recording
        )
    ]
    assert not empty


#: Panels of a run that have nothing to show in a situation: (situation, metric) -> why.
NOTHING_TO_SHOW = {
    (PAST, "llm_gpu"): "the GPU was not watched then",
    (PAST, "gpu:llm_gpu"): "the GPU was not watched then",
    **{(PAST, of): "no target was scraped then" for of in ("up", "training_exporter", "prometheus_", "alertmanager_")},
    **{(where, "llm_training_process"): "it was not supervised" for where in (CRASHED, PAST)},
    (PAST, "ALERTS"): "no rule was evaluated then",
    (LIVE, "run:llm_training_text_quality"): "its texts are not scored",
    (CRASHED, "run:llm_training_text_quality"): "its texts are not scored",
    (LIVE, "llm_training_text"): "as above",
    (CRASHED, "llm_training_text"): "as above",
}


@pytest.mark.parametrize("run", [LIVE, CRASHED, PAST])
def test_every_panel_shows_a_real_run(dashboard: dict[str, Any], recording: Recording, run: str) -> None:
    """A training at work, one that was killed, and one that was backfilled: at least one query of each panel."""
    at = recording.situations[run]
    for panel in panels(dashboard):
        metrics = [name for target in panel["targets"] for name in facts.metrics_in(target["expr"])]
        if any(name.startswith(prefix) for (where, prefix) in NOTHING_TO_SHOW if where == run for name in metrics):
            continue
        assert any(has_data(target, at, recording) for target in panel["targets"]), panel["title"]


def test_every_variable_has_a_value(dashboard: dict[str, Any], recording: Recording) -> None:
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            wrapped = re.fullmatch(r"query_result\((.*)\)", variable["definition"])
            assert wrapped is not None, f"{variable['name']}: queries of variables are spelt query_result(...)"
            assert recording.instant(substitute(wrapped[1], HEALTHY), recording.calm), variable["name"]


def test_the_newest_run_comes_first(recording: Recording) -> None:
    expr = substitute(f"sort_desc({queries.started('')})", HEALTHY)
    runs = [one["metric"]["run"] for one in recording.instant(expr, recording.ended)]
    assert {LIVE, CRASHED, HEALTHY, BROKEN} == set(runs)
    assert runs.index(HEALTHY) > runs.index(LIVE), "which took its time to load the model"


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
            expr = re.sub(r"vector\((?:\d+|NaN)\)", "no_such_metric", expr.replace('\\"', '"'))
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


PREVIEW = facts.ROOT.parent / "shared" / "dashboard-preview" / "render"


def test_no_panel_is_empty_in_the_preview(dashboard: dict[str, Any], recording: Recording) -> None:
    """Another reading of the JSON, by Grafana's own packages: variables, steps, and what each panel then gets."""
    if not PREVIEW.is_file() or shutil.which("node") is None:
        pytest.skip(f"{PREVIEW} and node are needed, which are no part of this repository")
    (file,) = (file for file in DASHBOARD_FILES if json.loads(file.read_text(encoding="utf-8")) == dashboard)
    run = HEALTHY if dashboard["uid"] == family.TEXT_QUALITY else LIVE  # the one whose texts were scored
    at = recording.situations[run]
    chooses = "runs" if any(v["name"] == "runs" for v in dashboard["templating"]["list"]) else "run"
    command = [PREVIEW, "--dashboard", file, "--prometheus", recording.url, "--scrape-interval", "1s"]
    command += ["--from", f"{at.since * 1000:.0f}", "--to", f"{at.until * 1000:.0f}", "--var", f"{chooses}={run}"]
    command += ["--no-render", "--fail-empty", "--dump-empty"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr

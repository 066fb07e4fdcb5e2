"""Every alert is valid, complete, unit-tested both ways, and asks for series that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from alert_files import (
    ALERT_RULES,
    ALERTS,
    EXPECTATIONS,
    PROMETHEUS_YML,
    RECORDING_FILES,
    RECORDINGS,
    ROOT,
    RULE_FILES,
    UNIT_TEST_FILES,
    Alert,
    load,
    tool,
)

from training_exporter import events, profile, reference
from training_exporter.families import SETTINGS
from training_exporter.stack import binaries
from training_exporter.state import RunState

#: The signs that an alert may speak of, as the design names them.
SIGNS = {
    "early_plateau",
    "slow_first_epoch",
    "loss_rising",
    "loss_fluctuating",
    "loss_nan",
    "loss_spike",
    "loss_collapsed",
    "loss_out_of_band",
    "val_diverging",
    "val_gap",
    "val_fluctuating",
    "initial_perplexity",
    "high_perplexity",
    "lr_off_schedule",
    "gpu_memory_growing",
    "gpu_memory_high",
    "oom",
    "throughput_drop",
    "throughput_low",
    "run_stalled",
    "run_failed",
    "run_vanished",
    "worse_than_random",
    "evaluation_overhead",
    "straggler_rank",
    "checkpoint_stale",
    "text_quality",
}
#: Alerts about the monitoring itself: no sign.
META = {"Watchdog", "TargetDown", "JournalNotWritten"}
ANNOTATIONS = {"summary", "description", "expected", "remedy", "runbook_url", "dashboard_url"}

every_alert = pytest.mark.parametrize("alert", ALERT_RULES, ids=str)


def test_prometheus_accepts_its_configuration_and_all_rules() -> None:
    result = tool(binaries.PROMTOOL, "check", "config", "--lint=all", "--lint-fatal", PROMETHEUS_YML)
    assert result.returncode == 0, result.stdout + result.stderr
    checked = set(re.findall(r"Checking (\S+)", result.stdout))
    assert {Path(ROOT, file).resolve() for file in checked} >= {*RULE_FILES, *RECORDING_FILES}


@pytest.mark.parametrize("file", UNIT_TEST_FILES, ids=lambda file: file.stem)
def test_unit_tests_of_the_rules_pass(file: Path) -> None:
    result = tool(binaries.PROMTOOL, "test", "rules", file)
    assert result.returncode == 0, result.stdout + result.stderr


def test_every_sign_has_its_alert() -> None:
    covered = {alert.labels["sign"] for alert in ALERT_RULES if alert.name not in META}
    assert covered == SIGNS
    assert {alert.name for alert in ALERT_RULES} >= META


def test_the_fixed_memory_mark_is_the_shipped_profiles() -> None:
    (warning,) = (a for a in ALERT_RULES if a.name == "GpuMemoryHigh" and a.severity == "warning")
    mark = re.search(r"> (0\.\d+)$", warning.expr)
    assert mark is not None
    assert float(mark[1]) == profile.load().gpu_memory.upper


@every_alert
def test_alert_has_a_unit_test_that_fires_and_one_that_does_not(alert: Alert) -> None:
    about = [expectation for expectation in EXPECTATIONS if expectation.alert == alert.name]
    firing = [expectation for expectation in about if alert.severity in expectation.severities]
    assert firing, f"no unit test in which {alert} fires"
    if alert.expr != "vector(1)":
        assert any(alert.severity not in expectation.severities for expectation in about), (
            f"none in which {alert} is silent"
        )
    for expectation in firing:
        assert expectation.external_labels, "without external labels the links are not tested"
        for expected in expectation.firing:
            assert set(expected["exp_annotations"]) >= ANNOTATIONS


@every_alert
def test_alert_is_complete(alert: Alert) -> None:
    assert re.fullmatch(r"([A-Z][a-zA-Z]+)", alert.name)
    assert alert.severity in {"critical", "warning", "info", "none"}
    if alert.name in META:
        assert "sign" not in alert.labels
    else:
        assert alert.labels["sign"] in SIGNS
    assert set(alert.annotations) >= ANNOTATIONS
    assert all(text.strip() for text in alert.annotations.values())
    summary = alert.annotations["summary"]
    assert "{{" not in summary, "a summary groups messages: it must not change from one evaluation to the next"
    assert summary[0].isupper()
    assert summary.endswith(".")
    assert alert.annotations["runbook_url"] == f"{{{{ $externalLabels.runbooks_url }}}}/{alert.name}"
    assert alert.annotations["dashboard_url"].startswith("{{ $externalLabels.grafana_url }}/d/llm-training")
    if "by (run)" in alert.expr or "run:llm_" in alert.expr:
        assert alert.annotations["dashboard_url"].endswith("?var-run={{ $labels.run | urlquery }}")


@every_alert
def test_label_values_do_not_change_while_the_alert_fires(alert: Alert) -> None:
    # A label is part of the alert's identity: with a figure in it, each evaluation would be a new alert.
    assert not any("{{" in value for value in alert.labels.values())


@every_alert
def test_alert_compares(alert: Alert) -> None:
    without_selectors = re.sub(r"\{[^}]*\}", "", alert.expr)
    assert re.search(r"[<>]|==|!=", without_selectors) or alert.name == "Watchdog"


@every_alert
def test_description_has_figures_and_this_runs_settings(alert: Alert) -> None:
    if alert.name in META:
        return
    description = alert.annotations["description"]
    assert "$value" in description or "query" in description
    assert "llm_training_run_info" in description


def test_a_runbook_per_alert_and_no_other() -> None:
    runbooks = {file.stem: file.read_text(encoding="utf-8") for file in (ALERTS / "runbooks").glob("*.md")}
    assert set(runbooks) == {alert.name for alert in ALERT_RULES}
    for name, text in runbooks.items():
        assert text.startswith(f"# {name}\n")
        headings = re.findall(r"^## (.+)$", text, re.MULTILINE)
        assert headings == ["Meaning", "What it looks like on the panel", "Causes", "What to do", "How to silence"], (
            name
        )


# -- what the rules ask for exists -----------------------------------------------------------------------------------

_SERIES = re.compile(r"(?<![\w:$.])((?:run|gpu|instance):[\w:]+|(?:llm|training_exporter)_\w+|ALERTS\b)")
_QUERY_IN_TEXT = re.compile(r'printf "((?:[^"\\]|\\.)*)" [^}]*\| query')

#: All PromQL: of rules, and the literals that annotations give to `query`.
QUERIES = [
    *((str(alert), alert.expr) for alert in ALERT_RULES),
    *RECORDINGS.items(),
    *(
        (f"{alert} {key}", literal.replace('\\"', '"'))
        for alert in ALERT_RULES
        for key, text in alert.annotations.items()
        for literal in _QUERY_IN_TEXT.findall(text)
    ),
]


def test_every_query_of_an_annotation_is_found() -> None:
    texts = [text for alert in ALERT_RULES for text in alert.annotations.values()]
    calls = sum(len(re.findall(r"\| query\b", text)) for text in texts)
    assert calls == sum(len(_QUERY_IN_TEXT.findall(text)) for text in texts) > 0


def test_series_exist() -> None:
    known = reference.metric_names() | set(RECORDINGS) | {"ALERTS"}  # the last is Prometheus' own
    for where, query in QUERIES:
        names = set(_SERIES.findall(re.sub(r'"[^"]*"', '""', query)))
        assert names or where.startswith("Watchdog"), f"{where}: no series recognized in {query!r}"
        assert names <= known, f"{where}: unknown series {sorted(names - known)}"


def test_label_values_that_are_asked_for_exist() -> None:
    allowed = {"state": set(events.STATES), "kind": set(RunState().nonfinite)}
    asked = [
        (where, label, value)
        for where, query in QUERIES
        for label, values in re.findall(r'\b(state|kind)=~?"([^"]*)"', query)
        for value in values.split("|")
    ]
    assert {label for _, label, _ in asked} == set(allowed)
    for where, label, value in asked:
        assert value in allowed[label], where


@every_alert
def test_settings_that_messages_name_are_exported(alert: Alert) -> None:
    text = " ".join(alert.annotations.values())
    named = set(re.findall(r'label "(\w+)"', text)) | set(re.findall(r"run_info\{run=%q,(\w+)!=", text))
    named |= set(re.findall(r"\.Labels\.(\w+)", text))
    others = {
        "run",
        "kind",
        "state",
        "name",
        "pid",
        "process",
        "container",
        "gpu_model",
        "criterion",
        "stage",
        "reason",
        "rank",
    }
    assert named <= {*SETTINGS, *others}


def test_links_come_from_external_labels_that_leave_no_trace_on_alerts() -> None:
    config = load(PROMETHEUS_YML)
    external = config["global"]["external_labels"]
    used = {
        name
        for alert in ALERT_RULES
        for text in alert.annotations.values()
        for name in re.findall(r"\$externalLabels\.(\w+)", text)
    }
    assert used == set(external)
    (drop,) = config["alerting"]["alert_relabel_configs"]
    assert drop["action"] == "labeldrop"
    assert set(drop["regex"].split("|")) == set(external)


def test_alerts_of_a_run_carry_the_run_and_nothing_that_changes_with_its_process() -> None:
    for expectation in EXPECTATIONS:
        for expected in expectation.firing:
            own = set(expected["exp_labels"]) - {"severity", "sign"}
            assert own in ({"run"}, {"gpu", "uuid"}, {"job", "instance"}, set()), expectation.alert

"""Alertmanager's configuration: valid, and each alert goes where it should."""

from __future__ import annotations

import pytest
from alert_files import ALERT_RULES, ALERTMANAGER_YML, load, tool

from training_exporter.stack import binaries

#: Labels of an alert -> the receivers it goes to, in order.
ROUTES = [
    ({"alertname": "LossNaN", "run": "a", "severity": "critical", "sign": "loss_nan"}, "people"),
    ({"alertname": "LossRising", "run": "a", "severity": "critical", "sign": "loss_rising"}, "people"),
    ({"alertname": "LossRising", "run": "a", "severity": "warning", "sign": "loss_rising"}, "people"),
    ({"alertname": "EarlyPlateau", "run": "a", "severity": "warning", "sign": "early_plateau"}, "people"),
    ({"alertname": "GpuMemoryHigh", "gpu": "0", "severity": "warning", "sign": "gpu_memory_high"}, "people"),
    ({"alertname": "TargetDown", "instance": "gpu:9402", "severity": "warning"}, "people"),
    ({"alertname": "JournalNotWritten", "instance": "a:9401", "severity": "warning"}, "people"),
    ({"alertname": "LossSpike", "run": "a", "severity": "info", "sign": "loss_spike"}, "nobody"),
    ({"alertname": "Watchdog", "severity": "none"}, "nobody"),
    # What carries no severity that is known is not lost.
    ({"alertname": "Foreign", "severity": "page"}, "people"),
    ({"alertname": "Foreign"}, "people"),
]


def test_alertmanager_accepts_its_configuration() -> None:
    result = tool(binaries.AMTOOL, "check-config", ALERTMANAGER_YML)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "1 templates" in result.stdout


@pytest.mark.parametrize(("labels", "receivers"), ROUTES, ids=lambda value: str(value))
def test_route(labels: dict[str, str], receivers: str) -> None:
    result = tool(
        binaries.AMTOOL,
        "config",
        "routes",
        "test",
        f"--config.file={ALERTMANAGER_YML}",
        f"--verify.receivers={receivers}",
        *(f"{name}={value}" for name, value in labels.items()),
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_every_alert_of_the_rules_stands_in_the_table() -> None:
    table = {(labels["alertname"], labels.get("severity")) for labels, _ in ROUTES}
    severities = {severity for _, severity in table}
    for alert in ALERT_RULES:
        assert alert.severity in severities, f"no route is tested for {alert}"


def test_both_channels_get_the_news_and_its_end() -> None:
    receivers = {receiver["name"]: receiver for receiver in load(ALERTMANAGER_YML)["receivers"]}
    assert set(receivers["nobody"]) == {"name"}
    for channel in ("slack_configs", "email_configs"):
        (config,) = receivers["people"][channel]
        assert config["send_resolved"] is True


def test_groups_are_per_run_and_wait_only_seconds() -> None:
    route = load(ALERTMANAGER_YML)["route"]
    for node in (route, *route["routes"]):
        assert "run" in node.get("group_by", route["group_by"])
    waits = {node["matchers"][0]: node.get("group_wait", route["group_wait"]) for node in route["routes"]}
    assert waits['severity="critical"'] == "5s"
    assert waits['severity="warning"'] == "10s"


def test_no_secret_stands_in_the_configuration() -> None:
    text = ALERTMANAGER_YML.read_text(encoding="utf-8")
    config = load(ALERTMANAGER_YML)["global"]
    assert "hooks.slack.com" not in text
    assert not {"slack_api_url", "smtp_auth_password", "smtp_auth_secret"} & set(config)
    assert config["slack_api_url_file"].startswith("/run/secrets/")

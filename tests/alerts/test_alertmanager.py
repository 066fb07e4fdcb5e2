"""A real Alertmanager with the project's configuration: who is told what, on both channels, and what is inhibited."""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from alert_files import ALERTMANAGER_YML, ROOT

from training_exporter.stack import binaries, launch
from training_exporter.stack.inbox_server import Inbox
from training_exporter.stack.messages import Message
from training_exporter.stack.render import AlertmanagerSettings, MailSettings, render_alertmanager
from training_exporter.stack.servers import Stack, free_port
from waiting import wait_until


class Alertmanager:
    """The server under test, and the messages that have come from it."""

    def __init__(self, url: str, messages: list[Message]) -> None:
        self.url, self.messages = url, messages

    def post(self, *alerts: dict[str, str]) -> None:
        now = time.time()
        body = [
            {
                "labels": labels,
                "annotations": {"summary": f"Summary of {labels['alertname']}.", "description": "What is seen."},
                "startsAt": _time(now),
                "endsAt": _time(now + 600),
            }
            for labels in alerts
        ]
        request = urllib.request.Request(
            f"{self.url}/api/v2/alerts", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            assert answer.status == 200

    def inhibited(self) -> set[tuple[str, str]]:
        """(alert, severity) of the alerts that others silence at present."""
        with urllib.request.urlopen(f"{self.url}/api/v2/alerts?active=true&inhibited=true", timeout=10) as answer:
            alerts: list[dict[str, Any]] = json.load(answer)
        return {
            (alert["labels"]["alertname"] + alert["labels"].get("uuid", ""), alert["labels"]["severity"])
            for alert in alerts
            if alert["status"]["inhibitedBy"]
        }


def _time(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def labels(alert: str, severity: str, sign: str = "", **more: str) -> dict[str, str]:
    return {"alertname": alert, "severity": severity, **({"sign": sign} if sign else {}), **more}


@pytest.fixture
def alertmanager(tmp_path: Path) -> Iterator[Alertmanager]:
    program = binaries.require([binaries.ALERTMANAGER])["alertmanager"]
    messages: list[Message] = []
    taken = [free_port(0)]
    while len(taken) < 3:
        taken.append(free_port(0, taken=taken))
    port, http, smtp = taken
    inbox = Inbox(port=http, smtp_port=smtp, on_message=messages.append).start()
    try:
        (tmp_path / "webhook").write_text(f"{inbox.url}/slack\n")
        (tmp_path / "alertmanager.yml").write_text(
            render_alertmanager(
                ALERTMANAGER_YML,
                AlertmanagerSettings(
                    ROOT,
                    tmp_path / "webhook",
                    MailSettings(f"127.0.0.1:{smtp}", "alerts@example.org", "me@example.org", require_tls=False),
                ),
            )
        )
        with Stack(tmp_path / "log") as stack:
            child = launch.start_alertmanager(stack, program, tmp_path, tmp_path, port)
            child.wait_ready("/-/ready")
            yield Alertmanager(child.url, messages)
    finally:
        inbox.close()


def test_inhibition(alertmanager: Alertmanager) -> None:
    run = {"run": "a"}
    alertmanager.post(
        labels("LossRising", "critical", "loss_rising", **run),
        labels("LossRising", "warning", "loss_rising", **run),
        labels("EarlyPlateau", "warning", "early_plateau", **run),
        labels("RunStalled", "critical", "run_stalled", **run),
        # Another run, other GPUs, and alerts without any label in common.
        labels("LossRising", "warning", "loss_rising", run="b"),
        labels("GpuMemoryHigh", "critical", "gpu_memory_high", gpu="0", uuid="-0"),
        labels("GpuMemoryHigh", "warning", "gpu_memory_high", gpu="0", uuid="-0"),
        labels("GpuMemoryHigh", "warning", "gpu_memory_high", gpu="1", uuid="-1"),
        labels("TargetDown", "warning", instance="gpu:9402", job="training"),
        labels("Watchdog", "none"),
    )
    at_first = {("LossRising", "warning"), ("EarlyPlateau", "warning"), ("GpuMemoryHigh-0", "warning")}
    assert wait_until(lambda: alertmanager.inhibited() == at_first, 5), alertmanager.inhibited()

    # NaN silences the critical loss alert as well, and only the losses.
    alertmanager.post(labels("LossNaN", "critical", "loss_nan", **run))
    with_nan = at_first | {("LossRising", "critical")}
    assert wait_until(lambda: alertmanager.inhibited() == with_nan, 5), alertmanager.inhibited()


def test_one_message_names_the_cause(alertmanager: Alertmanager) -> None:
    alertmanager.post(
        labels("OutOfMemory", "critical", "oom", run="a"),
        labels("RunFailed", "critical", "run_failed", run="a"),
        labels("RunFailed", "critical", "run_failed", run="b"),
        labels("EarlyPlateau", "warning", "early_plateau", run="c"),
        labels("SlowFirstEpoch", "warning", "slow_first_epoch", run="c"),
        labels("SlowFirstEpoch", "warning", "slow_first_epoch", run="e"),
        # A validation loss that is NaN says nothing about the training loss.
        labels("LossNaN", "warning", "loss_nan", run="d"),
        labels("LossRising", "critical", "loss_rising", run="d"),
    )

    def muted() -> set[tuple[str, str]]:
        with urllib.request.urlopen(f"{alertmanager.url}/api/v2/alerts", timeout=10) as answer:
            alerts = json.load(answer)
        return {(a["labels"]["alertname"], a["labels"]["run"]) for a in alerts if a["status"]["inhibitedBy"]}

    expected = {("RunFailed", "a"), ("SlowFirstEpoch", "c"), ("LossNaN", "d")}
    assert wait_until(lambda: muted() == expected, 5), muted()


def test_a_run_that_is_over_silences_its_warnings(alertmanager: Alertmanager) -> None:
    alertmanager.post(
        labels("RunFailed", "critical", "run_failed", run="a"),
        labels("LossNaN", "critical", "loss_nan", run="a"),
        labels("ThroughputDrop", "warning", "throughput_drop", run="a"),
        labels("ThroughputDrop", "warning", "throughput_drop", run="b"),
        labels("GpuMemoryHigh", "warning", "gpu_memory_high", gpu="0", uuid="-0"),
        labels("TargetDown", "warning", instance="gpu:9402", job="training"),
    )
    assert wait_until(lambda: bool(alertmanager.inhibited()), 5)
    with urllib.request.urlopen(f"{alertmanager.url}/api/v2/alerts", timeout=10) as answer:
        muted = [alert["labels"] for alert in json.load(answer) if alert["status"]["inhibitedBy"]]
    assert muted == [labels("ThroughputDrop", "warning", "throughput_drop", run="a")]


def test_messages_reach_both_channels_grouped_per_run(alertmanager: Alertmanager) -> None:
    warnings = [
        labels("LossRising", "warning", "loss_rising", run="a"),
        labels("ThroughputDrop", "warning", "throughput_drop", run="a"),
    ]
    critical = labels("LossNaN", "critical", "loss_nan", run="b")
    silent = [labels("Watchdog", "none"), labels("LossSpike", "info", "loss_spike", run="a")]
    alertmanager.post(*warnings, critical, *silent)
    assert wait_until(lambda: len(alertmanager.messages) >= 4, 20), [m.title for m in alertmanager.messages]
    time.sleep(1)
    titles = sorted((message.channel, message.title) for message in alertmanager.messages)
    assert titles == [
        ("email", "🔴 CRITICAL b: Summary of LossNaN."),
        ("email", "🟠 WARNING a: 2 alerts."),
        ("slack", "🔴 CRITICAL b: Summary of LossNaN."),
        ("slack", "🟠 WARNING a: 2 alerts."),
    ]
    mail = next(message.body for message in alertmanager.messages if message.channel == "email")
    assert mail["text"].strip()
    assert mail["html"].lstrip().startswith("<!DOCTYPE html>")

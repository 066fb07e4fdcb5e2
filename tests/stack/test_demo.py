"""The demo's reading of messages, on those that a real Alertmanager makes of the real templates; its ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from datetime import UTC, datetime
from pathlib import Path

import pytest

from trading_llm.demo import Demo, Notice, notices
from training_exporter.stack import binaries
from training_exporter.stack.launch import start_servers
from training_exporter.stack.messages import Message
from training_exporter.stack.servers import Stack
from waiting import wait_until

pytestmark = pytest.mark.skipif(
    binaries.PROMETHEUS.find() is None or binaries.ALERTMANAGER.find() is None,
    reason="Prometheus and Alertmanager are not on PATH",
)


def test_notices_of_a_real_message(tmp_path: Path) -> None:
    """An alert posted to Alertmanager arrives on both channels and is recognized; its end is not taken for firing."""
    received: list[Message] = []
    alert = {
        "labels": {"alertname": "LossNaN", "severity": "critical", "sign": "loss_nan", "run": "a <b> | c"},
        "annotations": {key: f"The {key}." for key in ("summary", "description", "expected", "remedy")},
        "startsAt": datetime.now(UTC).isoformat(),
    }
    with Stack(tmp_path / "logs") as stack:
        servers = start_servers(stack, tmp_path, on_message=received.append)
        try:
            post = urllib.request.Request(
                servers.alertmanager.url + "/api/v2/alerts",
                json.dumps([alert]).encode(),
                {"Content-Type": "application/json"},
            )
            urllib.request.urlopen(post, timeout=10).close()
            assert wait_until(lambda: len(received) == 2, 40), servers.alertmanager.log_tail()
        finally:
            servers.inbox.close()
    found = {notice.channel: notice for message in received for notice in notices(message)}
    assert set(found) == {"slack", "email"}
    for notice in found.values():
        assert (notice.alert, notice.severity, notice.firing) == ("LossNaN", "critical", True)


def test_resolved_alerts_are_no_firing_ones() -> None:
    text = "LossNaN, critical, 2026-01-31 10:00:00 to 10:05:00 UTC\nLossRising, warning, since 2026-01-31 10:00:00 UTC"
    message = Message(1, "email", 7.0, {"text": text})
    assert notices(message) == [
        Notice("email", "LossNaN", "critical", False, 7.0),
        Notice("email", "LossRising", "warning", True, 7.0),
    ]


def children_of(folder: Path) -> list[int]:
    """Process ids whose command line names `folder`."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if str(folder) in path.read_text() and int(path.parent.name) != os.getpid():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="looks at Linux' /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_everything_ends_with_the_demo(tmp_path: Path, number: int) -> None:
    command = [sys.executable, "-m", "trading_llm.demo", "--output", str(tmp_path)]
    with (tmp_path / "out.txt").open("w") as out:
        demo = subprocess.Popen(command, stdout=out, stderr=out, cwd=tmp_path)
    try:
        # Prometheus, Alertmanager, GPU exporter and training are up when the training has been announced.
        assert wait_until(lambda: "Training on" in (tmp_path / "out.txt").read_text(), 90)
        assert len(children_of(tmp_path)) >= 4
        demo.send_signal(number)
        assert demo.wait(60) == (130 if number == signal.SIGINT else -signal.SIGKILL)
        assert wait_until(lambda: not children_of(tmp_path), 20)
    finally:
        demo.kill()
        demo.wait()


def test_a_sign_without_a_rule_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from trading_llm.demo import main

    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    try:
        assert main(["--inject", "none_such", "--output", str(tmp_path)]) == 2
    finally:
        signal.signal(signal.SIGINT, before[0])
        signal.signal(signal.SIGTERM, before[1])
    assert "found 'none_such'; signs with an alert rule: checkpoint_stale, early_plateau, " in capsys.readouterr().err


def test_sign_without_its_start(tmp_path: Path) -> None:
    assert Demo(tmp_path, "loss_rising@0.3", []).sign == "loss_rising"
    assert Demo(tmp_path, None, []).sign is None

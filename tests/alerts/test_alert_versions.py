"""The rules on Prometheus 3 beside the version that everything else runs on (2.42 in Debian 12): valid, and equal."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
from alert_files import ALERTMANAGER_YML, PROMETHEUS_YML, ROOT, UNIT_TEST_FILES

from training_exporter import events
from training_exporter.stack import binaries

#: Where `make test` puts Prometheus 3 and its tools.
FOLDER = Path(sys.prefix) / "prometheus-3"


@pytest.fixture(scope="module")
def newer() -> Path:
    """The folder with the programs of Prometheus 3."""
    for name in ("prometheus", "promtool", "amtool"):
        if not (FOLDER / name).exists():
            pytest.skip(f"no {FOLDER / name}: .ci/install-test-tools could not fetch it")
    version = subprocess.run([FOLDER / "prometheus", "--version"], capture_output=True, text=True, check=True).stdout
    assert "version 3." in version, version
    return FOLDER


def accepted(*command: str | Path) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_its_configuration_and_all_rules_are_valid(newer: Path) -> None:
    accepted(newer / "promtool", "check", "config", "--lint=all", "--lint-fatal", PROMETHEUS_YML)


def test_the_unit_tests_of_the_rules_pass(newer: Path) -> None:
    accepted(newer / "promtool", "test", "rules", *UNIT_TEST_FILES)


def test_alertmanager_s_configuration_is_valid(newer: Path, tmp_path: Path) -> None:
    """Its secrets and templates lie elsewhere in a checkout."""
    config = tmp_path / "alertmanager.yml"
    text = ALERTMANAGER_YML.read_text(encoding="utf-8")
    (tmp_path / "webhook").write_text("http://localhost/slack\n")
    text = text.replace("/run/secrets/slack_webhook_url", str(tmp_path / "webhook"))
    config.write_text(text.replace("templates/*.tmpl", f"{ROOT}/alerts/templates/*.tmpl"))
    accepted(newer / "amtool", "check-config", config)


def journal_of(folder: Path, run: str, lines: list[events.Event]) -> None:
    folder.mkdir()
    (folder / "journal.jsonl").write_text("".join(json.dumps(events.to_record(line)) + "\n" for line in lines))


def life(run: str, fault: str | None) -> list[events.Event]:
    """20 minutes of a run, that goes wrong at step 300 of 400."""
    found: list[events.Event] = [events.RunStarted(time=1e9, run=run, max_steps=400, num_epochs=4.0)]
    now = 1e9
    for n in range(1, 401):
        seconds = 9.0 if fault == "slow" and n >= 300 else 3.0
        now += seconds
        loss = 0.7 + 1.3 * math.exp(-n / 60) + 0.02 * math.sin(n)
        if n >= 300:
            loss = {"rising": loss + (n - 300) / 50, "nan": math.nan}.get(fault or "", loss)
        found.append(events.StepEnded(time=now, step=n, epoch=n / 100, tokens=4000, duration_seconds=seconds))
        found.append(events.LossLogged(time=now, step=n, epoch=n / 100, loss=loss, gradient_norm=1.0))
        if n % 50 == 0:
            found.append(events.Evaluated(time=now, step=n, loss=1.1 * min(loss, 2.0) if loss == loss else loss))
    if fault == "killed":
        return found
    return [*found, events.RunEnded(time=now, state="failed" if fault == "failed" else "completed")]


def test_a_backtest_says_the_same(newer: Path, tmp_path: Path) -> None:
    """Runs of many kinds: the same alerts, at the same steps, cleared at the same steps."""
    kinds = ("healthy", "rising", "nan", "slow", "killed", "failed")
    for kind in kinds:
        journal_of(tmp_path / kind, kind, life(kind, kind))
    told = []
    for path in (os.environ["PATH"], f"{newer}{os.pathsep}{os.environ['PATH']}"):
        done = subprocess.run(
            [sys.executable, "-m", "training_exporter.cli", "backtest", tmp_path, "--format", "json"],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PATH": path},
        )
        told.append(json.loads(done.stdout))
    assert told[0] == told[1]
    fired = {run["run"]: {alert["alert"] for alert in run["alerts"]} for run in told[0]["runs"]}
    assert fired["healthy"] == set()
    assert [kind for kind in kinds if not fired[kind]] == ["healthy"], "or nothing was compared"


def test_everything_else_runs_on_another_version(newer: Path) -> None:
    """Else the tests above would compare a version with itself."""
    found = binaries.require([binaries.PROMTOOL])["promtool"]
    version = subprocess.run([found, "--version"], capture_output=True, text=True, check=True).stdout
    if "version 3." in version:
        pytest.skip(f"{found} is a 3.x itself: nothing here proves 2.42")
    assert "version 2." in version

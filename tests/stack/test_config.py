"""The rendered configuration: accepted by the servers' own checkers, changed only where it should be, clear errors."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from training_exporter.stack import binaries, config, files
from training_exporter.stack.binaries import Program

WEBHOOK = "https://hooks.slack.example/services/T0/B0/very-secret"


@pytest.fixture
def webhook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file with a webhook's URL; none of the settings' environment variables is set."""
    for name, *_ in config.SETTINGS:
        monkeypatch.delenv(name.replace("-", "_").upper(), raising=False)
    path = tmp_path / "webhook"
    path.write_text(WEBHOOK + "\n")
    return path


def check(program: Program, *arguments: str | Path) -> None:
    path = program.find()
    if path is None:
        pytest.skip(f"{program.name} is not on PATH")
    done = subprocess.run([path, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def render(out: Path, webhook: Path, *options: str) -> int:
    parser = argparse.ArgumentParser()
    config.add_parser(parser.add_subparsers())
    arguments = ["config", "--out", str(out), "--slack-webhook-url-file", str(webhook), *options]
    return config.run(parser.parse_args(arguments))


def test_servers_accept_what_is_rendered(tmp_path: Path, webhook: Path) -> None:
    password = tmp_path / "password"
    password.write_text("very-secret\n")
    options = [
        "--smtp-smarthost=smtp.example.org:587",
        "--smtp-from=a@example.org",
        "--smtp-to=b@example.org, c@example.org",
    ]
    options += ["--smtp-username=a", f"--smtp-password-file={password}"]
    assert render(tmp_path / "out", webhook, *options) == 0
    check(binaries.PROMTOOL, "check", "config", tmp_path / "out" / "prometheus.yml")
    check(binaries.AMTOOL, "check-config", tmp_path / "out" / "alertmanager.yml")


def test_only_the_settings_change(tmp_path: Path, webhook: Path) -> None:
    options = ["--grafana-url=http://g.example:1/", "--inbox-url=http://i.example:2", "--targets-dir=/targets"]
    assert render(tmp_path, webhook, *options, "--prometheus=p.example:3", "--alertmanager=a.example:4") == 0
    root = files.root()
    source = yaml.safe_load((root / "prometheus" / "prometheus.yml").read_text())
    rendered = yaml.safe_load((tmp_path / "prometheus.yml").read_text())
    assert rendered["global"]["external_labels"] == {
        "grafana_url": "http://g.example:1",
        "runbooks_url": "http://i.example:2/runbooks",
    }
    assert [Path(path).parent for path in rendered["rule_files"]] == [root / "prometheus/rules", root / "alerts/rules"]
    assert rendered["alerting"]["alert_relabel_configs"] == source["alerting"]["alert_relabel_configs"]
    jobs = {job["job_name"]: job for job in rendered["scrape_configs"]}
    assert jobs["training"].pop("file_sd_configs") == [{"files": ["/targets/*.json"]}]
    assert jobs["prometheus"].pop("static_configs") == [{"targets": ["p.example:3"]}]
    assert jobs["alertmanager"].pop("static_configs") == [{"targets": ["a.example:4"]}]
    for job in source["scrape_configs"]:
        job.pop("static_configs", None), job.pop("file_sd_configs", None)
        assert jobs[job["job_name"]] == job
    before = yaml.safe_load((root / "alerts" / "alertmanager.yml").read_text())
    after = yaml.safe_load((tmp_path / "alertmanager.yml").read_text())
    assert after["route"] == before["route"]
    assert after["inhibit_rules"] == before["inhibit_rules"]
    assert after["global"]["slack_api_url_file"] == str(webhook)
    assert Path(after["templates"][0]).parent == root / "alerts" / "templates"


def test_no_secret_is_rendered_or_printed(tmp_path: Path, webhook: Path, capsys: pytest.CaptureFixture[str]) -> None:
    password = tmp_path / "password"
    password.write_text("very-secret")
    assert render(tmp_path / "out", webhook, "--smtp-username=a", f"--smtp-password-file={password}") == 0
    webhook.write_text("very-secret and no URL")
    assert render(tmp_path / "out", webhook) == 2
    captured = capsys.readouterr()
    assert "very-secret" not in captured.out + captured.err
    for path in (tmp_path / "out").iterdir():
        assert "very-secret" not in path.read_text()


def test_environment_variables(tmp_path: Path, webhook: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMTP_SMARTHOST", "smtp.example.org:587")
    monkeypatch.setenv("SMTP_TO", "me@example.org")
    monkeypatch.setenv("SMTP_FROM", "")  # what compose makes of a variable that .env does not have
    assert render(tmp_path, webhook) == 0
    after = yaml.safe_load((tmp_path / "alertmanager.yml").read_text())
    assert after["global"]["smtp_smarthost"] == "smtp.example.org:587"
    assert after["global"]["smtp_from"] == "alerts@training-exporter.local"
    assert after["global"]["smtp_require_tls"] is True
    assert "smtp_auth_username" not in after["global"]
    assert [c["to"] for r in after["receivers"] for c in r.get("email_configs", [])] == ["me@example.org"]


def test_says_where_alerts_go(tmp_path: Path, webhook: Path, capsys: pytest.CaptureFixture[str]) -> None:
    webhook.write_text("http://localhost:8025/slack\n")
    assert render(tmp_path, webhook) == 0
    told = capsys.readouterr().out
    assert "Slack messages go to the local inbox: http://localhost:8025" in told
    assert "SLACK_WEBHOOK_URL_FILE=" in told
    assert "SMTP_SMARTHOST=" in told
    webhook.write_text(WEBHOOK)
    assert render(tmp_path, webhook, "--smtp-smarthost=smtp.example.org:587", "--smtp-to=me@example.org") == 0
    told = capsys.readouterr().out
    assert "inbox" not in told
    assert "Mails go to me@example.org through smtp.example.org:587." in told


@pytest.mark.parametrize(
    ("option", "named"),
    [
        ("--smtp-smarthost=smtp.example.org", "SMTP_SMARTHOST"),
        ("--smtp-smarthost=smtp.example.org:99999", "SMTP_SMARTHOST"),
        ("--smtp-smarthost=a b:25", "SMTP_SMARTHOST"),
        ("--smtp-from=nobody", "SMTP_FROM"),
        ("--smtp-to=a@example.org,", "SMTP_TO"),
        ("--smtp-to=a@example.org\nBcc: x@example.org", "SMTP_TO"),
        ("--smtp-require-tls=perhaps", "SMTP_REQUIRE_TLS"),
        ("--smtp-username=me", "SMTP_PASSWORD_FILE"),
        ("--smtp-password-file=/no/such/file", "SMTP_PASSWORD_FILE"),
        ("--slack-webhook-url-file=/no/such/file", "SLACK_WEBHOOK_URL_FILE"),
        ("--grafana-url=localhost:3000", "Grafana's URL"),
        ("--inbox-url=ftp://localhost", "runbooks' URL"),
        ("--alertmanager=alertmanager", "Alertmanager's address"),
        ("--root=/no/such/folder", "/no/such/folder"),
    ],
)
def test_wrong_input_is_one_clear_message(
    tmp_path: Path, webhook: Path, capsys: pytest.CaptureFixture[str], option: str, named: str
) -> None:
    assert render(tmp_path / "out", webhook, option) == 2
    told = capsys.readouterr().err
    assert told.startswith("training-exporter config: ")
    assert named in told
    assert "Traceback" not in told
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("text", ["", "a: [", "- a", "global: 3"])
def test_a_broken_source_is_named(tmp_path: Path, webhook: Path, capsys: pytest.CaptureFixture[str], text: str) -> None:
    (tmp_path / "prometheus").mkdir()
    (tmp_path / "prometheus" / "prometheus.yml").write_text(text)
    assert render(tmp_path / "out", webhook, f"--root={tmp_path}") == 2
    assert str(tmp_path / "prometheus" / "prometheus.yml") in capsys.readouterr().err


def test_a_missing_program_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from training_exporter.stack.errors import StackError

    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(
        StackError, match=r"prometheus is not on PATH .*apt-get install --no-install-recommends prometheus"
    ):
        binaries.require([binaries.PROMETHEUS])
    with pytest.raises(StackError, match="grafana-server, grafana"):
        binaries.require([binaries.GRAFANA], log=lambda _: None)


def test_debians_name_of_alertmanager_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "prometheus-alertmanager"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert binaries.require([binaries.ALERTMANAGER]) == {"alertmanager": program}


def test_command_is_registered() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "training_exporter.cli", "config", "--help"], capture_output=True, text=True
    )
    assert done.returncode == 0
    assert "--slack-webhook-url-file" in done.stdout

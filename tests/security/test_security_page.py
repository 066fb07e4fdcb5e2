"""docs/security.md: its commands are run as they stand there, and its tests are there."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
import yaml

from training_exporter.stack import binaries, launch
from training_exporter.stack.servers import Stack, free_port

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "security.md").read_text()


def blocks(heading: str, language: str) -> list[str]:
    section = PAGE.partition(f"### {heading}\n")[2].partition("\n### ")[0]
    return re.findall(rf"```{language}\n(.*?)```", section, re.S)


def shell(script: str, folder: Path) -> None:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    command = ["bash", "-euo", "pipefail", "-c", script]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_steps_work_as_they_stand(tmp_path: Path) -> None:
    (keys,) = blocks("1. Keys", "bash")
    web, start = blocks("2. Exporters", "bash")
    (config,) = blocks("3. Prometheus", "bash")
    shell(keys + web, tmp_path)
    assert {oct(path.stat().st_mode)[-3:] for path in tmp_path.glob("*.key")} == {"600"}
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "slack_webhook_url").write_text("http://127.0.0.1:1/")
    targets = tmp_path / "targets"
    targets.mkdir()

    # What differs here: the addresses, the command that is watched, and the folders are this test's.
    port = free_port(0)
    assert "--host 0.0.0.0 --web.config.file web.yml" in start
    exporter = [
        sys.executable, "-m", "training_exporter.cli", "run", "--no-gpu", "--port", str(port), "--linger-seconds", "0",
        "--web.config.file", "web.yml", "--targets-dir", str(targets), "--", "sleep", "120",
    ]  # fmt: skip
    absolute = re.sub(r"(?<= )(\w+\.(?:pem|key)|password)\b(?!-)", lambda found: str(tmp_path / found[0]), config)
    shell(absolute.replace("/shared/targets", str(targets)), tmp_path)
    found = binaries.require([binaries.PROMETHEUS])["prometheus"]
    with Stack(tmp_path / "log", grace_seconds=3) as stack:
        stack.start("exporter", exporter, cwd=tmp_path)
        server = launch.start_prometheus(stack, found, tmp_path / "rendered", tmp_path, free_port(0))
        server.wait_ready("/-/ready")
        end, seen = time.monotonic() + 60, [("", "")]
        while time.monotonic() < end and seen != [("up", "")]:
            time.sleep(0.5)
            with urllib.request.urlopen(f"{server.url}/api/v1/targets?state=active", timeout=10) as answer:
                active = json.load(answer)["data"]["activeTargets"]
            seen = [(each["health"], each["lastError"]) for each in active if each["labels"]["job"] == "training"]
        assert seen == [("up", "")]


def test_the_compose_override_fits(tmp_path: Path) -> None:
    sys.path.insert(0, str(ROOT / "tests" / "stack"))
    from test_compose import compose_command

    command = compose_command()
    if command is None:
        pytest.skip("no Docker Compose: neither `docker compose` nor `docker-compose`")
    (override,) = blocks("3. Prometheus", "yaml")
    (tmp_path / "override.yaml").write_text(override)
    files = ["-f", str(ROOT / "docker-compose.yml"), "-f", str(tmp_path / "override.yaml")]
    done = subprocess.run(
        [*command, "--project-directory", str(ROOT), "--env-file", "/dev/null", *files, "config"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    services = yaml.safe_load(done.stdout)["services"]
    assert services["config"]["environment"]["SCRAPE_CA_FILE"] == "/run/scrape/ca.pem"
    for name in ("config", "prometheus"):
        (mount,) = [each for each in services[name]["volumes"] if each["target"] == "/run/scrape"]
        assert mount["read_only"] is True


def test_what_the_page_names_is_there() -> None:
    for name in set(re.findall(r"`((?:tests/[\w/]+/)?test_\w+\.py)`", PAGE)):
        assert (ROOT / name).is_file() or (ROOT / "tests" / "security" / name).is_file(), name
    help_texts = "".join(
        subprocess.run([sys.executable, "-m", *command, "--help"], capture_output=True, text=True).stdout
        for command in (
            ["training_exporter.cli", "run"],
            ["training_exporter.cli", "gpu"],
            ["training_exporter.cli", "config"],
            ["trading_llm.train_llm", "train"],
        )
    )
    for option in set(re.findall(r"`?(--(?:web|scrape|metrics)[\w.-]*\w)", PAGE)):
        assert option in help_texts, option

"""Prometheus in agent mode, VictoriaMetrics and vmalert beside the servers of this project, on the same runs."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from training_exporter.stack import files
from training_exporter.stack.servers import Child, Stack, free_port

ROOT = files.root()
PROGRAMS = Path(sys.prefix) / "victoria-metrics"


def program(name: str) -> Path | None:
    """VictoriaMetrics' program `name`: what `make test` has fetched, else the one on PATH, if it runs here."""
    found = PROGRAMS / name if (PROGRAMS / name).exists() else shutil.which(name)
    if found is None or subprocess.run([found, "--version"], capture_output=True).returncode != 0:
        return None
    return Path(found)


def start_storage(stack: Stack, work: Path) -> Child:
    storage, port = program("victoria-metrics"), free_port(0)
    assert storage is not None
    command = [storage, f"-storageDataPath={work / 'victoria'}", f"-httpListenAddr=127.0.0.1:{port}"]
    # A rule must see what has just arrived.
    child = stack.start("victoria", [*command, "-search.latencyOffset=0s"], url=f"http://127.0.0.1:{port}")
    child.wait_ready("/health")
    return child


def start_agent(stack: Stack, work: Path, prometheus: Path, targets: Path, storage: str) -> Child:
    """Prometheus as `prometheus/agent.yml` has it, with the addresses of this machine in it."""
    port = free_port(0)
    config = yaml.safe_load((ROOT / "prometheus" / "agent.yml").read_text())
    config["remote_write"][0]["url"] = f"{storage}/api/v1/write"
    jobs = {job["job_name"]: job for job in config["scrape_configs"]}
    jobs["training"]["file_sd_configs"] = [{"files": [str(targets / "*.json")]}]
    jobs["prometheus"]["static_configs"] = [{"targets": [f"127.0.0.1:{port}"]}]
    path = work / "agent.yml"
    path.write_text(yaml.safe_dump(config))
    command = [prometheus, "--enable-feature=agent", f"--config.file={path}", f"--storage.agent.path={work / 'agent'}"]
    child = stack.start("agent", [*command, f"--web.listen-address=127.0.0.1:{port}"], url=f"http://127.0.0.1:{port}")
    child.wait_ready("/-/ready")
    return child


def start_rules(stack: Stack, work: Path, storage: str, alertmanager: str, labels: dict[str, str]) -> Child:
    """vmalert with all rules of this project, as docs/scaling.md starts it."""
    vmalert, port = program("vmalert"), free_port(0)
    assert vmalert is not None
    notifier = work / "notifier.yml"
    relabel = [{"action": "labeldrop", "regex": "|".join(labels)}]
    target = alertmanager.removeprefix("http://")
    notifier.write_text(yaml.safe_dump({"static_configs": [{"targets": [target]}], "alert_relabel_configs": relabel}))
    command: list[str | Path] = [
        vmalert,
        f"-rule={ROOT / 'prometheus' / 'rules' / '*.yml'}",
        f"-rule={ROOT / 'alerts' / 'rules' / '*.yml'}",
        f"-datasource.url={storage}",
        f"-remoteWrite.url={storage}",
        f"-remoteRead.url={storage}",
        f"-notifier.config={notifier}",
        "-disableAlertgroupLabel",
        "-evaluationInterval=5s",
        "-rule.evalDelay=0s",
        f"-httpListenAddr=127.0.0.1:{port}",
        *(f"-external.label={name}={value}" for name, value in labels.items()),
    ]
    child = stack.start("vmalert", command, url=f"http://127.0.0.1:{port}")
    child.wait_ready("/health")
    return child


def alerts(url: str) -> list[dict[str, Any]]:
    """All alerts of a Prometheus or a vmalert."""
    found: list[dict[str, Any]] = json.load(urllib.request.urlopen(f"{url}/api/v1/alerts", timeout=10))["data"][
        "alerts"
    ]
    return found


def firing(alerts: Iterable[dict[str, Any]]) -> set[tuple[str, str, str]]:
    """(alert, severity, run) of those about a run that fire."""
    return {
        (alert["labels"]["alertname"], alert["labels"]["severity"], alert["labels"]["run"])
        for alert in alerts
        if alert["state"] == "firing" and "run" in alert["labels"]
    }

"""A hundred simulated runs on one Prometheus; and the same runs through an agent, VictoriaMetrics and vmalert.

What they cost is measured by `make bench-many`, never here.
"""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import scaled
import yaml
from tests.bench.many_runs import start
from tests.bench.simulated_runs import FAULTS

import waiting
from training_exporter.stack import binaries
from training_exporter.stack.launch import Servers
from training_exporter.stack.query import Prometheus
from training_exporter.stack.servers import Stack

RUNS = 100
PATIENCE_SECONDS = 120.0


@dataclass
class World:
    work: Path
    stack: Stack
    servers: Servers
    prometheus: Prometheus

    def firing(self) -> set[tuple[str, str, str]]:
        return scaled.firing(self.prometheus.alerts())


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    work = tmp_path_factory.mktemp("many")
    with Stack(work / "logs") as stack:
        servers = start(stack, work, RUNS, hours=0.0)
        try:
            yield World(work, stack, servers, Prometheus(servers.prometheus.url))
        finally:
            servers.inbox.close()


def wait_until(done: Callable[[], object]) -> bool:
    return bool(waiting.wait_until(done, PATIENCE_SECONDS, 1))


def texts(alerts: list[dict[str, Any]]) -> dict[tuple[str, str, str], list[str]]:
    """What is said of each alert that fires, without its description: that has the figures of the moment."""
    return {
        told: [text for name, text in sorted(alert["annotations"].items()) if name != "description"]
        for alert in alerts
        for told in scaled.firing([alert])
    }


def faulty() -> set[str]:
    return {f"run-{number:04}" for number in range(RUNS) if number % 100 in FAULTS}


def test_every_run_is_scraped(world: World) -> None:
    def scraped() -> bool:
        found = world.prometheus.query('sum(up{job="training"}) and count(llm_training_state{state="training"})')
        return bool(found) and found[0][1] == RUNS

    assert wait_until(scraped), world.prometheus.query('up{job="training"} == 0')


def test_of_many_runs_the_faulty_ones_are_told_of(world: World) -> None:
    def runs_told_of() -> set[str]:
        return {run for _, severity, run in world.firing() if severity != "info"}

    assert wait_until(lambda: runs_told_of() == faulty()), world.firing()


def test_no_rule_fails(world: World) -> None:
    page = urllib.request.urlopen(f"{world.servers.prometheus.url}/metrics", timeout=10).read().decode()
    failures = [line for line in page.splitlines() if line.startswith("prometheus_rule_evaluation_failures_total")]
    assert len(failures) > 10
    assert [line for line in failures if not line.endswith(" 0")] == []
    assert [rule["name"] for rule in world.prometheus.rules() if rule["health"] == "err"] == []


@pytest.mark.skipif(
    scaled.program("victoria-metrics") is None or scaled.program("vmalert") is None,
    reason="no VictoriaMetrics here (Debian's unstable suite has it: .ci/install-test-tools)",
)
def test_an_agent_victoriametrics_and_vmalert_give_the_same_alerts(world: World) -> None:
    prometheus = binaries.require([binaries.PROMETHEUS])["prometheus"]
    labels = yaml.safe_load((world.work / "config" / "prometheus.yml").read_text())["global"]["external_labels"]
    storage = scaled.start_storage(world.stack, world.work)
    scaled.start_agent(world.stack, world.work, prometheus, world.servers.targets, storage.url)
    rules = scaled.start_rules(world.stack, world.work, storage.url, world.servers.alertmanager.url, labels)

    def same() -> bool:
        told = scaled.firing(scaled.alerts(rules.url))
        return bool(told) and told == world.firing()

    assert wait_until(same), (scaled.firing(scaled.alerts(rules.url)) ^ world.firing(), rules.log_tail())
    assert {run for _, severity, run in world.firing() if severity != "info"} == faulty()
    # Alertmanager, which both tell, takes what they say for one and the same.
    with urllib.request.urlopen(f"{world.servers.alertmanager.url}/api/v2/alerts", timeout=10) as answer:
        told = [alert["labels"] for alert in json.load(answer)]
    told = [(each["alertname"], each["severity"], each["run"]) for each in told if "run" in each]
    assert sorted(told) == sorted(set(told))
    # One series per run of every recording rule, here as there.
    recorded = Prometheus(storage.url)
    for rule in world.prometheus.rules():
        if rule["type"] == "recording" and rule["name"].startswith("run:llm_training_state:"):
            found = rule["name"]
            assert wait_until(lambda found=found: len(recorded.query(found)) == RUNS), found  # written in pieces
    # The message is the same one, but for the figures of the moment.
    there, here = texts(scaled.alerts(rules.url)), texts(world.prometheus.alerts())
    assert {alert: there.get(alert) for alert in here} == here


@pytest.mark.parametrize("version", ["2", "3"])
def test_the_agent_s_configuration_is_one(version: str) -> None:
    promtool = Path(sys.prefix) / "prometheus-3" / "promtool" if version == "3" else Path("promtool")
    if version == "3" and not promtool.exists():
        pytest.skip("no Prometheus 3 here")
    path = scaled.ROOT / "prometheus" / "agent.yml"
    done = subprocess.run([promtool, "check", "config", "--agent", path], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    # Guards as in prometheus.yml: one table would need a third file.
    server = yaml.safe_load((scaled.ROOT / "prometheus" / "prometheus.yml").read_text())
    agent = yaml.safe_load(path.read_text())
    assert agent["scrape_configs"][0] == server["scrape_configs"][0]
    assert agent["global"]["scrape_interval"] == server["global"]["scrape_interval"]

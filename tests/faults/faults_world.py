"""A real Prometheus for a test, with the shipped rules and limits in a time of its own."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import yaml

import waiting
from training_exporter.stack import binaries, files
from training_exporter.stack.query import Prometheus
from training_exporter.stack.servers import Child, Stack, free_port

PATIENCE_SECONDS = 90.0


def wait_until(done: Callable[[], object], seconds: float = PATIENCE_SECONDS) -> bool:
    return bool(waiting.wait_until(done, seconds))


def kill(child: Child) -> None:
    """kill -9 of the command itself, which runs under a guard."""
    (command,) = psutil.Process(child.process.pid).children()
    command.kill()
    child.process.wait()


@dataclass
class Watch:
    """A Prometheus that scrapes and evaluates every `interval` seconds; it can be stopped, killed and started again."""

    stack: Stack
    work: Path
    interval: str = "1s"
    alertmanager: str | None = None
    rules: bool = False
    options: tuple[str, ...] = ()
    port: int = field(default_factory=lambda: free_port(0))

    def __post_init__(self) -> None:
        self.work.mkdir(parents=True, exist_ok=True)
        self.targets.mkdir(exist_ok=True)
        self.write_config()

    @property
    def targets(self) -> Path:
        return self.work / "targets"

    @property
    def data(self) -> Path:
        return self.work / "data"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def write_config(self, **more: Any) -> None:
        root = files.root()
        config = yaml.safe_load((root / "prometheus" / "prometheus.yml").read_text())
        config["global"].update(scrape_interval=self.interval, evaluation_interval=self.interval)
        config["rule_files"] = [f"{root}/{part}/rules/*.yml" for part in ("prometheus", "alerts") if self.rules]
        # The first job is that of the runs, with its limits.
        jobs = config["scrape_configs"][:1]
        jobs[0]["file_sd_configs"] = [{"files": [f"{self.targets}/*.json"], "refresh_interval": "1s"}]
        config["scrape_configs"] = jobs
        config["alerting"]["alertmanagers"] = (
            [{"static_configs": [{"targets": [self.alertmanager]}]}] if self.alertmanager else []
        )
        config.update(more)
        (self.work / "prometheus.yml").write_text(yaml.safe_dump(config))

    def start(self) -> Child:
        command: list[str | Path] = [
            binaries.require([binaries.PROMETHEUS])["prometheus"],
            f"--config.file={self.work / 'prometheus.yml'}",
            f"--storage.tsdb.path={self.data}",
            f"--web.listen-address=127.0.0.1:{self.port}",
            *self.options,
        ]
        child = self.stack.start("prometheus", command, url=self.url)
        child.wait_ready("/-/ready")
        return child

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        return Prometheus(self.url).query(expression)

    def value(self, expression: str) -> float | None:
        found = self.query(expression)
        return found[0][1] if found else None

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(f"{self.url}{path}", timeout=20) as answer:
            return json.load(answer)["data"]

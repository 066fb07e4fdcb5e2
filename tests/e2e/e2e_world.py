"""What the end-to-end tests share: a running stack, the trainings that it watches, and what was said about them."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import waiting
from training_exporter import RunState, journal
from training_exporter.stack import binaries
from training_exporter.stack.launch import Servers, start_prometheus
from training_exporter.stack.messages import Message
from training_exporter.stack.query import Prometheus
from training_exporter.stack.servers import Child, Stack

PATIENCE_SECONDS = 240.0


def wait_until(done: Callable[[], object], seconds: float = PATIENCE_SECONDS) -> bool:
    return bool(waiting.wait_until(done, seconds, 0.5))


@dataclass
class World:
    """The running stack, the trainings, and the messages that have come."""

    work: Path
    stack: Stack
    servers: Servers
    messages: list[Message]
    trainings: dict[str, Child] = field(default_factory=dict)

    @property
    def prometheus(self) -> Prometheus:
        return Prometheus(self.servers.prometheus.url)

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "TRAINING_EXPORTER_TARGETS_DIR": str(self.servers.targets), "OMP_NUM_THREADS": "1"}

    def train(self, run: str, data: Path, *options: str, fault: str | None = None) -> None:
        """Start a training of that name."""
        command = [sys.executable, "-m", "trading_llm.train_llm", "train", "--run-name", run]
        command += ["--train-data", data / "train_data.json", "--output-dir", self.work / run]
        # After eighty steps the texts are not what the end of a training should give, and it would be said.
        command += ["--threads", "1", "--quality-prompts", "0"]
        command += [*(options or ("--num-epochs", "2")), *(("--inject", fault) if fault else ())]
        self.trainings[run] = self.stack.start(run, command, environment=self.environment)

    def replay(self, capture: str | Path, name: str) -> None:
        """Start a GPU exporter that answers from a capture. Several on one host announce themselves as the same."""
        folder = self.work / name
        folder.mkdir()
        command = [sys.executable, "-m", "training_exporter.cli", "gpu", "--replay", capture, "--targets-dir", folder]
        self.stack.start(name, command, environment=self.environment)
        assert wait_until(lambda: any(folder.glob("*.json")), 60), self.stack.children[-1].log_tail()
        (announced,) = folder.glob("*.json")
        announced.rename(self.servers.targets / f"{name}.json")

    def state(self, run: str) -> RunState:
        """What the run's journal says."""
        state = RunState()
        path = self.work / run / journal.JOURNAL_NAME
        if path.exists():
            for event in journal.read(path):
                state.apply(event)
        return state

    def target(self, run: str) -> str | None:
        """Address that the run announces, None when it announces none."""
        try:
            return json.loads((self.servers.targets / f"{run}.json").read_text())[0]["targets"][0]
        except FileNotFoundError:
            return None

    def told(self, about: str, channel: str) -> str:
        """All that was said about a run (or a GPU) on a channel so far."""
        texts = []
        for message in list(self.messages):
            if message.channel == channel:
                body = message.body
                texts.append(body["text"] + body["html"] if channel == "email" else json.dumps(body))
        return "\n".join(text for text in texts if about in text)

    def alerts_told(self, about: str) -> set[str]:
        """The alerts of which a message about a run spoke, on any channel."""
        return {
            name for channel in ("slack", "email") for name in re.findall(r"/runbooks/(\w+)", self.told(about, channel))
        }

    def firing(self) -> set[tuple[str, str]]:
        """(alert, run) of all that fires now."""
        return {
            (alert["labels"]["alertname"], alert["labels"].get("run", ""))
            for alert in self.prometheus.alerts()
            if alert["state"] == "firing"
        }

    def start_prometheus_again(self) -> None:
        """With the same configuration, data and address."""
        port = int(self.servers.prometheus.url.rsplit(":", 1)[1])
        program = binaries.require([binaries.PROMETHEUS])["prometheus"]
        start_prometheus(self.stack, program, self.work / "config", self.work, port).wait_ready("/-/ready")

"""Supervised commands on real servers: Prometheus scrapes the parent, and the message says why a run has failed."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import waiting
from training_exporter import RunState, journal
from training_exporter.stack.launch import Servers, start_servers
from training_exporter.stack.messages import Message
from training_exporter.stack.query import Prometheus
from training_exporter.stack.servers import Child, Stack

TRAINER = Path(__file__).with_name("hf_training.py")

#: Run -> command, and its exit status.
RUNS: dict[str, tuple[list[str | Path], int]] = {
    "sup-killed": ([sys.executable, TRAINER, "OUT", "30"], 137),
    "sup-done": ([sys.executable, TRAINER, "OUT", "0"], 0),
    "sup-script": (["sh", "-c", "sleep 12; exit 3"], 3),
    "sup-early": (["sh", "-c", "echo 'no such dataset' >&2; exit 4"], 4),
}


def wait_until(done: Callable[[], object], seconds: float = 200.0) -> bool:
    return bool(waiting.wait_until(done, seconds, 0.5))


@dataclass
class World:
    """The servers, the commands, and the messages that have come."""

    work: Path
    servers: Servers
    commands: dict[str, Child]
    messages: list[Message]

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        return Prometheus(self.servers.prometheus.url).query(expression)

    def told(self, run: str, channel: str) -> str:
        texts = []
        for message in list(self.messages):
            if message.channel == channel:
                texts.append(message.body["text"] if channel == "email" else json.dumps(message.body))
        return "\n".join(text for text in texts if run in text)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    work = tmp_path_factory.mktemp("supervised")
    messages: list[Message] = []
    with Stack(work / "logs") as stack:
        servers = start_servers(stack, work, on_message=messages.append)
        environment = {**os.environ, "TRAINING_EXPORTER_TARGETS_DIR": str(servers.targets), "OMP_NUM_THREADS": "1"}
        program = [sys.executable, "-m", "training_exporter.cli", "run", "--no-gpu"]
        commands = {}
        for run, (command, _) in RUNS.items():
            command = [work / run if part == "OUT" else part for part in command]
            commands[run] = stack.start(run, [*program, "--run", run, "--", *command], environment=environment)
        try:
            yield World(work, servers, commands, messages)
        finally:
            servers.inbox.close()


@pytest.mark.parametrize("run", RUNS)
def test_the_exit_status_is_kept_and_the_address_taken_back(world: World, run: str) -> None:
    command = world.commands[run]
    assert wait_until(lambda: not command.running), command.log_tail()
    assert command.exit_status == RUNS[run][1], command.log_tail()
    assert not (world.servers.targets / f"{run}.json").exists()


def test_prometheus_has_the_last_step_and_the_end(world: World) -> None:
    """Of the killed one too, although its process could not serve them any more."""
    for run, state, step, status in (("sup-killed", "failed", 30, 137), ("sup-done", "completed", 50, 0)):
        said = RunState()
        for event in journal.read(world.work / run / journal.JOURNAL_NAME):
            said.apply(event)
        assert (said.run, said.state, said.step) == (run, state, step), world.commands[run].log_tail()
        for series, value in (
            (f'llm_training_steps_total{{run="{run}"}}', step),
            (f'llm_training_observed_loss_count{{run="{run}"}}', said.observed_loss_count),
            (f'llm_training_loss{{run="{run}"}}', said.loss),
            (f'llm_training_state{{run="{run}",state="{state}"}}', 1),
            (f'llm_training_process_exit_status{{run="{run}"}}', status),
        ):
            [(_, found)] = world.query(f"last_over_time({series}[10m])")
            assert found == pytest.approx(value), series
    [(_, memory)] = world.query('max_over_time(llm_training_process_resident_memory_bytes{run="sup-killed"}[10m])')
    assert memory > 100e6
    assert world.query('last_over_time(llm_training_process_cpu_seconds_total{run="sup-killed"}[10m])')[0][1] > 1


@pytest.mark.parametrize(
    ("run", "words"),
    [
        ("sup-killed", ["failed at step 30 of 50: killed by SIGKILL (exit status 137).", "Batch size 4 x 2"]),
        ("sup-script", ["sup-script failed: exit status 3."]),
        ("sup-early", ["sup-early failed: exit status 4."]),
    ],
)
def test_the_message_says_why(world: World, run: str, words: list[str]) -> None:
    for channel in ("slack", "email"):
        assert wait_until(lambda channel=channel: "/runbooks/RunFailed" in world.told(run, channel)), world.told(
            run, channel
        )
        text = world.told(run, channel)
        assert [word for word in words if word not in " ".join(text.split())] == [], text


def test_the_healthy_one_is_healthy_and_nobody_vanished(world: World) -> None:
    """What is said of the loss of a model that learns at random is another matter."""
    time.sleep(70)  # what RunVanished waits
    lives = "RunFailed|RunVanished|RunStalled|OutOfMemory|TargetDown"
    fired = world.query(
        f'group by (alertname, run) (last_over_time(ALERTS{{alertstate="firing",alertname=~"{lives}"}}[30m]))'
    )
    assert {(labels["alertname"], labels.get("run")) for labels, _ in fired} == {
        ("RunFailed", "sup-killed"),
        ("RunFailed", "sup-script"),
        ("RunFailed", "sup-early"),
    }

"""The main job on real servers: trainings are scraped by a real Prometheus, faults fire their rules, and a real
Alertmanager delivers to a Slack webhook and to an SMTP server.

One stack serves all tests, and the trainings run side by side, so that the whole takes a few minutes on two cores.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from training_exporter import RunState, journal
from training_exporter.stack.launch import Servers, start_servers
from training_exporter.stack.messages import Message
from training_exporter.stack.query import Prometheus
from training_exporter.stack.servers import Child, Stack

#: Run name -> what is injected into it. The healthy run is the control: nothing may be said about it.
RUNS = {
    "e2e-healthy": None,
    "e2e-rising": "loss_rising@0.3",
    "e2e-nan": "loss_nan@0.3",
    "e2e-failed": "run_failed@0.3",
    "e2e-oom": "oom@0.3",
    "e2e-killed": "run_vanished@0.3",
}
PATIENCE_SECONDS = 240.0


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

    def state(self, run: str) -> RunState:
        """What the run's journal says."""
        state = RunState()
        path = self.work / run / journal.JOURNAL_NAME
        if path.exists():
            for event in journal.read(path):
                state.apply(event)
        return state

    def told(self, run: str, channel: str) -> str:
        """All that was said about a run on a channel so far."""
        texts = []
        for message in list(self.messages):
            if message.channel == channel:
                body = message.body
                texts.append(body["text"] + body["html"] if channel == "email" else json.dumps(body))
        return "\n".join(text for text in texts if run in text)


def wait_until(done: Callable[[], object], seconds: float = PATIENCE_SECONDS) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if done():
            return True
        time.sleep(0.5)
    return False


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    work = tmp_path_factory.mktemp("e2e")
    data = work / "data"
    command = [sys.executable, "-m", "trading_llm.train_llm", "generate", "--output-dir", data, "--records", "320"]
    subprocess.run([*command, "--eval-records", "16"], check=True, capture_output=True)
    messages: list[Message] = []
    with Stack(work / "logs") as stack:
        servers = start_servers(stack, work, on_message=messages.append)
        try:
            world = World(work, stack, servers, messages)
            replay = [sys.executable, "-m", "training_exporter.cli", "gpu", "--replay", "memory_high"]
            stack.start("gpu", replay, environment=environment_of(servers))
            for run, fault in RUNS.items():
                world.trainings[run] = start_training(world, run, data, fault)
            yield world
        finally:
            servers.inbox.close()


def start_training(world: World, run: str, data: Path, fault: str | None) -> Child:
    command = [sys.executable, "-m", "trading_llm.train_llm", "train", "--run-name", run]
    command += ["--train-data", data / "train_data.json", "--output-dir", world.work / run, "--threads", "1"]
    # After eighty steps the texts are not what the end of a training should give, and it would be said.
    command += ["--num-epochs", "2", "--quality-prompts", "0", *(["--inject", fault] if fault else [])]
    return world.stack.start(run, command, environment=environment_of(world.servers))


def environment_of(servers: Servers) -> dict[str, str]:
    return {**os.environ, "TRAINING_EXPORTER_TARGETS_DIR": str(servers.targets), "OMP_NUM_THREADS": "1"}


def target_of(world: World, run: str) -> str | None:
    """Address that the run announces, None when it announces none."""
    try:
        return json.loads((world.servers.targets / f"{run}.json").read_text())[0]["targets"][0]
    except FileNotFoundError:
        return None


def test_runs_are_found_and_their_pages_are_clean(world: World) -> None:
    """Six processes on one machine: each found its own port, announced it, and serves a page that promtool accepts."""
    healthy = world.trainings["e2e-healthy"]
    assert wait_until(lambda: not healthy.running or (world.state("e2e-healthy").step or 0) >= 2)
    assert healthy.running, healthy.log_tail()
    address = target_of(world, "e2e-healthy")
    page = urllib.request.urlopen(f"http://{address}/metrics", timeout=10).read().decode()
    checked = subprocess.run(["promtool", "check", "metrics"], input=page, capture_output=True, text=True)
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")
    assert wait_until(lambda: len(world.prometheus.query("group by (run) (llm_training_state)")) == len(RUNS)), (
        world.prometheus.query("group by (run) (llm_training_state)")
    )


def test_a_healthy_run_is_scraped_to_its_end(world: World) -> None:
    training = world.trainings["e2e-healthy"]
    assert wait_until(lambda: not training.running), training.log_tail()
    assert training.exit_status == 0, training.log_tail()
    state = world.state("e2e-healthy")
    assert state.state == "completed"
    # Nothing of the end was lost: the last values that Prometheus has are the journal's last ones.
    for expression, expected in (
        ("llm_training_steps_total", state.step),
        ("llm_training_loss", state.loss),
        ("llm_training_validation_loss", state.validation_loss),
        ("llm_training_tokens_total", state.tokens),
        ("llm_training_observed_loss_count", state.observed_loss_count),
        ('llm_training_state{state="completed"}', 1),
    ):
        selector = (
            expression.replace("{", '{run="e2e-healthy",') if "{" in expression else expression + '{run="e2e-healthy"}'
        )
        [(_, value)] = world.prometheus.query(f"last_over_time({selector}[10m])")
        assert value == pytest.approx(expected), expression
    assert target_of(world, "e2e-healthy") is None, "a run that ended in good order takes its address back"


@pytest.mark.parametrize(
    ("run", "alert", "words"),
    [
        ("e2e-rising", "LossRising", ["earning rate"]),
        ("e2e-nan", "LossNaN", ["NaN"]),
        ("e2e-failed", "RunFailed", ["failed"]),
        ("e2e-oom", "OutOfMemory", ["memory", "batch size"]),
        ("e2e-killed", "RunVanished", ["no longer answers", "last seen"]),
    ],
)
def test_a_fault_reaches_both_channels(world: World, run: str, alert: str, words: list[str]) -> None:
    def arrived() -> bool:
        return all(alert in world.told(run, channel) for channel in ("slack", "email"))

    assert wait_until(arrived), (
        f"{alert} of {run} did not come; {world.trainings[run].log_tail()}\nfiring: "
        f"{[(a['labels'], a['state']) for a in world.prometheus.alerts()]}"
    )
    for channel in ("slack", "email"):
        text = world.told(run, channel)
        assert [word for word in words if word.lower() not in text.lower()] == [], text
        assert f"/runbooks/{alert}" in text
        assert "/d/llm-training?var-run=" in text
    fault = world.state(run).fault
    assert fault is not None
    first = min(m.received for m in world.messages if run in json.dumps(m.body) and alert in json.dumps(m.body))
    assert first > fault.time, "nothing was said before the fault"


def test_a_full_gpu_reaches_both_channels(world: World) -> None:
    """From a replayed capture: it passes 90 % and then 97 % of the card."""

    def arrived() -> bool:
        return all("GpuMemoryHigh, critical" in world.told("GPU 0", channel) for channel in ("slack", "email"))

    assert wait_until(arrived), world.prometheus.query("gpu:llm_gpu_memory_used:ratio")


def test_what_a_fault_links_to_is_there(world: World) -> None:
    runbook = urllib.request.urlopen(f"{world.servers.inbox.url}/runbooks/LossRising", timeout=10).read().decode()
    assert "What to do" in runbook


def test_nothing_was_said_about_the_healthy_run(world: World) -> None:
    """Last, when all the others have been told of."""
    assert [world.told("e2e-healthy", channel) for channel in ("slack", "email")] == ["", ""]
    assert world.prometheus.query('last_over_time(ALERTS{run="e2e-healthy"}[30m])') == []

"""The main job on real servers: trainings are scraped by a real Prometheus, faults fire their rules, and a real
Alertmanager delivers to a Slack webhook and to an SMTP server. In between Prometheus is stopped and started again.

One stack serves all tests, and the trainings run side by side, so that the whole takes a few minutes on two cores. The
tests follow each other: each waits for what the stack has been doing since it was started.
"""

from __future__ import annotations

import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator

import pytest
from e2e_world import World, wait_until
from gpu_past import lived_through, rest_of

from training_exporter.stack.launch import start_servers
from training_exporter.stack.messages import Message
from training_exporter.stack.servers import Stack

#: Run name -> what is injected into it. The healthy run is the control: nothing may be said about it.
RUNS = {
    "e2e-healthy": None,
    "e2e-rising": "loss_rising@0.3",
    "e2e-nan": "loss_nan@0.3",
    "e2e-failed": "run_failed@0.3",
    "e2e-oom": "oom@0.3",
    "e2e-killed": "run_vanished@0.3",
    "e2e-stalled": "run_stalled@3",
}
#: Two that have the processor to themselves, when the others have ended: one that becomes slow, until it is stopped
#: by hand, and one that goes on for as long as the tests do.
SLOW, LASTING = "e2e-slow", "e2e-lasting"

#: Of the capture `memory_growing`: the past of Prometheus when the tests begin.
GROWN_SECONDS = 960
#: RunVanished waits a minute, for a scrape before it and a round of the rules after it.
RESTART_SECONDS = 100.0


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    work = tmp_path_factory.mktemp("e2e")
    for folder, records in (("data", 320), ("much", 4000)):
        command = [sys.executable, "-m", "trading_llm.train_llm", "generate", "--output-dir", work / folder]
        subprocess.run([*command, "--records", str(records), "--eval-records", "16"], check=True, capture_output=True)
    lived_through("memory_growing", GROWN_SECONDS, int(time.time()) // 5 * 5, work / "past", work / "prometheus")
    messages: list[Message] = []
    with Stack(work / "logs") as stack:
        servers = start_servers(stack, work, on_message=messages.append)
        try:
            world = World(work, stack, servers, messages)
            world.replay("memory_high", "gpu-high")
            world.replay(rest_of("memory_growing", GROWN_SECONDS, work / "rest.json"), "gpu-growing")
            for run, fault in RUNS.items():
                world.train(run, work / "data", fault=fault)
            yield world
        finally:
            servers.inbox.close()


@pytest.fixture(scope="module")
def later_runs(world: World) -> None:
    """Starts SLOW and LASTING, the latter at the killed run's address: the one is not to be taken for the other."""
    killed = world.trainings["e2e-killed"]
    assert wait_until(lambda: not killed.running), killed.log_tail()
    port = str(world.target("e2e-killed")).rpartition(":")[2]
    world.train(LASTING, world.work / "much", "--num-epochs", "2", "--metrics-port", port)
    world.train(SLOW, world.work / "data", "--num-epochs", "8", fault="throughput_drop@32")


def test_runs_are_found_and_their_pages_are_clean(world: World) -> None:
    """Many processes on one machine: each found its own port, announced it, and serves a page that promtool accepts."""
    healthy = world.trainings["e2e-healthy"]
    assert wait_until(lambda: not healthy.running or (world.state("e2e-healthy").step or 0) >= 2)
    assert healthy.running, healthy.log_tail()
    page = urllib.request.urlopen(f"http://{world.target('e2e-healthy')}/metrics", timeout=10).read().decode()
    checked = subprocess.run(["promtool", "check", "metrics"], input=page, capture_output=True, text=True)
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")
    found = "group by (run) (last_over_time(llm_training_state[10m]))"
    assert wait_until(lambda: len(world.prometheus.query(found)) == len(RUNS)), world.prometheus.query(found)


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
        ("llm_training_forward_backward_seconds_total", state.forward_backward_seconds),
        ('llm_training_state{state="completed"}', 1),
    ):
        selector = (
            expression.replace("{", '{run="e2e-healthy",') if "{" in expression else expression + '{run="e2e-healthy"}'
        )
        [(_, value)] = world.prometheus.query(f"last_over_time({selector}[10m])")
        assert value == pytest.approx(expected), expression
    assert world.target("e2e-healthy") is None, "a run that ended in good order takes its address back"


def reaches_both_channels(world: World, run: str, alert: str, words: list[str]) -> None:
    def arrived() -> bool:
        return all(f"/runbooks/{alert}" in world.told(run, channel) for channel in ("slack", "email"))

    log = world.trainings[run].log_tail() if run in world.trainings else ""
    assert wait_until(arrived), f"{alert} of {run} did not come; firing: {world.firing()}\n{log}"
    for channel in ("slack", "email"):
        text = world.told(run, channel)
        assert [word for word in words if word.lower() not in text.lower()] == [], text


@pytest.mark.usefixtures("later_runs")
@pytest.mark.parametrize(
    ("run", "alert", "words"),
    [
        ("e2e-rising", "LossRising", ["earning rate"]),
        ("e2e-nan", "LossNaN", ["NaN"]),
        ("e2e-failed", "RunFailed", ["failed"]),
        ("e2e-oom", "OutOfMemory", ["memory", "batch size"]),
        ("e2e-killed", "RunVanished", ["no longer answers", "last seen"]),
        (SLOW, "ThroughputDrop", ["tokens/s", "waiting for data", "CPU bottlenecks"]),
    ],
)
def test_a_fault_reaches_both_channels(world: World, run: str, alert: str, words: list[str]) -> None:
    reaches_both_channels(world, run, alert, words)


def test_the_memory_of_a_gpu_reaches_both_channels(world: World) -> None:
    """From a replayed capture: it passes 90 % and then 97 % of the card."""

    def arrived() -> bool:
        return all("GpuMemoryHigh, critical" in world.told("GPU 0", channel) for channel in ("slack", "email"))

    assert wait_until(arrived), world.prometheus.query("gpu:llm_gpu_memory_used:ratio")


def test_memory_that_grows_reaches_both_channels(world: World) -> None:
    """From another capture, whose first 16 minutes Prometheus has had already."""
    reaches_both_channels(world, "GPU 0", "GpuMemoryGrowing", ["more memory every second", "detach()", "python3"])


def test_what_a_fault_links_to_is_there(world: World) -> None:
    runbook = urllib.request.urlopen(f"{world.servers.inbox.url}/runbooks/LossRising", timeout=10).read().decode()
    assert "What to do" in runbook


def test_a_restart_of_prometheus_is_no_alert(world: World) -> None:
    """With runs at work, one that has ended, one that has vanished, and one whose end nobody saw: nothing is said that
    was not said before, but for the run that goes on to be stalled."""
    lasting = world.state(LASTING).step
    assert lasting, world.trainings[LASTING].log_tail()
    before = world.firing()
    assert ("RunVanished", "e2e-killed") in before
    killed = world.told("e2e-killed", "slack")
    world.servers.prometheus.stop()
    world.trainings[SLOW].interrupt()
    assert wait_until(lambda: not world.trainings[SLOW].running, 60), world.trainings[SLOW].log_tail()
    assert world.state(SLOW).state == "interrupted"
    world.start_prometheus_again()

    seen: set[tuple[str, str]] = set()
    assert not wait_until(lambda: seen.update(world.firing()), RESTART_SECONDS)
    # How busy the machine is has nothing to do with it.
    expected = {("RunStalled", "e2e-stalled"), ("ThroughputDrop", LASTING)}
    assert seen - before <= expected
    assert {run for alert, run in seen if alert == "RunVanished"} == {"e2e-killed"}
    assert world.told("e2e-killed", "slack") == killed, "what fires on is not told again, and not taken back in between"
    assert world.state(LASTING).step > lasting, "or nothing was at work"


def test_a_run_that_stands_still_reaches_both_channels(world: World) -> None:
    """The restart came in between."""
    reaches_both_channels(world, "e2e-stalled", "RunStalled", ["nothing has moved", "where a step takes", "py-spy"])


def test_one_message_names_the_cause(world: World) -> None:
    """NaN silences what the losses do after it, out of memory the failure that it ends in."""
    assert world.alerts_told("e2e-nan") == {"LossNaN"}
    assert world.alerts_told("e2e-oom") == {"OutOfMemory"}
    assert ("RunFailed", "e2e-oom") in world.firing()


def test_nothing_was_said_about_the_healthy_runs(world: World) -> None:
    """Last, when all the others have been told of."""
    assert [world.told("e2e-healthy", channel) for channel in ("slack", "email")] == ["", ""]
    assert world.prometheus.query('last_over_time(ALERTS{run="e2e-healthy"}[30m])') == []
    assert world.alerts_told(LASTING) <= {"ThroughputDrop"}

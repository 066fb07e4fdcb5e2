"""`docker compose up` on a real engine, from the first `up` to `down --volumes`: built, healthy, scraped, a fault told,
servers restarted, the run stopped, all taken down, and taken up again with its history.

One project serves all tests, as an `up` takes half a minute. Each test asks for the stage that it speaks of, and the
stages follow each other: a test alone goes through the stages before its own.
"""

from __future__ import annotations

import json
import re
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

import pytest
from compose_project import ROOT, SERVICES, Project

from training_exporter import RunState, journal

pytestmark = pytest.mark.timeout(1500)

FIRST, SECOND = "compose-first", "compose-second"
#: Goes on until it is stopped; one thread, as the engine, Prometheus and pytest work beside it.
ENDLESS = "--threads 1 --num-epochs 100 --lr-scheduler constant --warmup-ratio 0 --quality-prompts 0"
SECRET = "XW7ydT2sQ9"
#: All volumes that the four services and `config` use.
VOLUMES = {"models", "data", "targets", "rendered", "prometheus", "alertmanager", "inbox"}


def files_of_the_checkout() -> str:
    """What git does not know, ignored files too, but for what the tests' own tools keep."""
    tools = [f":!{each}" for each in ("*.pyc", ".venv", ".pytest_cache", ".mypy_cache", ".ruff_cache", ".hypothesis")]
    listed = ["git", "status", "--porcelain", "--ignored", "--untracked-files=all", "--", ".", *tools]
    return subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def steps(project: Project, run: str) -> float:
    return project.value(f'last_over_time(llm_training_steps_total{{run="{run}"}}[1h])') or 0


def fetch(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as answer:
        text: str = answer.read().decode()
        return text


# -- stages ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def before() -> str:
    return files_of_the_checkout()


@pytest.fixture(scope="module")
def up(project: Project, before: str) -> Project:
    """The first `up`, with a fault at step 60, and a secret of the user's own."""
    secret = project.work / "slack_webhook_url"
    secret.write_text(f"http://inbox:8025/slack?token={SECRET}\n")
    project.settings["SLACK_WEBHOOK_URL_FILE"] = str(secret)
    project.up(TRAIN_ARGS=f"--run-name {FIRST} {ENDLESS} --inject loss_rising@60")
    healthy = {**dict.fromkeys(SERVICES, "healthy"), "config": "exited"}
    project.wait("all are healthy", lambda: project.health() == healthy, 120)
    return project


@pytest.fixture(scope="module")
def notified(up: Project) -> Project:
    """The fault has been told on both channels."""
    up.wait("LossRising on both channels", lambda: up.told("LossRising", FIRST) == {"slack", "email"})
    return up


@pytest.fixture(scope="module")
def messages(notified: Project) -> list[int]:
    """All that the inbox had before it was taken down."""
    return [message.id for message in notified.messages()]


@pytest.fixture(scope="module")
def down(notified: Project, messages: list[int]) -> Project:
    """`docker compose down` during the training."""
    notified.run("down")
    return notified


@pytest.fixture(scope="module")
def up_again(down: Project) -> Project:
    """The second `up`, with another run."""
    down.up(TRAIN_ARGS=f"--run-name {SECOND} {ENDLESS}")
    down.wait("the second run's steps", lambda: steps(down, SECOND) > 0)
    return down


@pytest.fixture(scope="module")
def removed(up_again: Project) -> Project:
    up_again.run("down", "--volumes")
    return up_again


# -- the first up ------------------------------------------------------------------------------------------------------


def test_they_start_in_order(up: Project) -> None:
    """Configuration, then who reads it, then the run: a figure that was never scraped is lost."""
    states = {name: up.container(name).attrs["State"] for name in (*SERVICES, "config")}
    assert states["config"]["ExitCode"] == 0, up.logs("config")
    for server in ("prometheus", "alertmanager"):
        assert states["config"]["FinishedAt"] <= states[server]["StartedAt"] < states["trainer"]["StartedAt"]


def test_the_log_says_where_alerts_go(up: Project) -> None:
    assert "Mails go to the local inbox" in up.logs("config")


def test_containers_may_do_nothing(up: Project) -> None:
    for service in SERVICES:
        host = up.container(service).attrs["HostConfig"]
        assert host["ReadonlyRootfs"] is True, service
        assert not host["Privileged"], service
        said = up.inside(service, "cat", "/proc/1/status")
        status = dict(line.split(":\t", 1) for line in said.splitlines() if ":\t" in line)
        assert "0" not in status["Uid"].split() + status["Gid"].split(), service
        assert {status[each].strip("0") for each in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {""}, service
        assert status["NoNewPrivs"] == "1", service
        assert status["Seccomp"] == "2", service
        code, _ = up.container(service).exec_run(["sh", "-c", "echo x >/etc/x || echo x >/usr/bin/x"], user="0:0")
        assert code != 0, f"{service}: its root file system can be written to"


def test_ports_are_open_to_this_machine_only(up: Project) -> None:
    assert "llm_training_steps_total" in fetch(f"{up.url('trainer')}/metrics")
    for service in SERVICES:
        published = [each for each in up.container(service).ports.values() if each]
        assert published == [[{"HostIp": "127.0.0.1", "HostPort": up.settings[f"{service.upper()}_PORT"]}]]
    # The address under which others reach this machine, where it has one. No packet is sent.
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return
        outside = probe.getsockname()[0]
    for service in SERVICES:
        with socket.socket() as caller:
            caller.settimeout(2)
            assert caller.connect_ex((outside, int(up.settings[f"{service.upper()}_PORT"]))) != 0, service


def test_the_run_is_scraped(up: Project) -> None:
    seen = steps(up, FIRST)
    up.wait("more steps", lambda: steps(up, FIRST) > max(seen, 5))
    assert up.value('sum(up{job="training"})') == 1
    assert up.value(f'llm_training_state{{run="{FIRST}",state="training"}}') is not None


def test_a_fault_is_notified(notified: Project) -> None:
    slack = next(m for m in notified.messages() if m.channel == "slack" and "LossRising" in m.text)
    (link,) = set(re.findall(r"http://localhost:\d+/runbooks/LossRising", slack.text))
    assert "What to do" in fetch(link.replace("localhost", "127.0.0.1"))
    page = fetch(notified.url("inbox"))
    assert FIRST in page
    assert "LossRising" in page


def test_no_secret_is_shown(notified: Project) -> None:
    """Alertmanager has used it by now; nobody else can see it."""
    client = notified.engine.client
    shown = {
        f"inspect {each.name}": json.dumps(client.api.inspect_container(each.id)) for each in notified.containers()
    }
    for service in ("config", "trainer"):
        image = client.images.get(notified.container(service).image.id)
        shown[f"image of {service}"] = json.dumps([image.attrs, image.history()])
    shown["logs"] = notified.run("logs").stdout
    shown["rendered"] = notified.inside("alertmanager", "cat", "/rendered/alertmanager.yml", "/rendered/prometheus.yml")
    shown["Alertmanager's API"] = fetch(f"{notified.url('alertmanager')}/api/v2/status")
    shown["Prometheus' API"] = fetch(f"{notified.url('prometheus')}/api/v1/status/config")
    assert "/run/secrets/slack_webhook_url" in shown["rendered"]
    assert [where for where, text in shown.items() if SECRET in text] == []


def test_a_restart_loses_and_repeats_nothing(notified: Project) -> None:
    def told() -> int:
        return sum("/runbooks/LossRising" in message.text for message in notified.messages())

    told_before, restarted = told(), time.time()
    for server in ("prometheus", "alertmanager"):
        notified.container(server).restart()
    both = {"prometheus": "healthy", "alertmanager": "healthy"}
    notified.wait("both are healthy again", lambda: both.items() <= notified.health().items(), 60)
    first = f'min_over_time(timestamp(llm_training_steps_total{{run="{FIRST}"}})[1h:5s])'
    notified.wait("a value from before the restart", lambda: (notified.value(first) or restarted) < restarted, 30)
    seen = steps(notified, FIRST)
    notified.wait("more steps", lambda: steps(notified, FIRST) > seen)
    # Prometheus tells Alertmanager of it again at once, and the message of a critical alert waits for five seconds.
    firing = f'ALERTS{{alertname="LossRising",run="{FIRST}",alertstate="firing"}}'
    notified.wait("LossRising fires on", lambda: notified.prometheus.query(firing))
    time.sleep(15)
    assert told() == told_before


# -- down -------------------------------------------------------------------------------------------------------------


def test_down_leaves_only_the_volumes(down: Project, before: str) -> None:
    assert down.containers() == []
    assert down.networks() == []
    assert down.volumes() == VOLUMES
    assert files_of_the_checkout() == before


# -- the second up, and a run that is killed ---------------------------------------------------------------------------


def test_down_ended_the_run_in_order(up_again: Project, tmp_path: Path) -> None:
    """With a checkpoint, and watched until it had ended: Prometheus has the last that its journal has."""
    copied = tmp_path / "journal.jsonl"
    copied.write_text(up_again.inside("trainer", "sh", "-c", f"cat $(grep -l {FIRST} models/*/journal*.jsonl)"))
    state = RunState()
    for event in journal.read(copied):
        state.apply(event)
    assert (state.run, state.state) == (FIRST, "interrupted")
    assert state.step is not None
    assert state.step > 60
    assert steps(up_again, FIRST) == state.step
    for series, last in (
        ('llm_training_state{run="%s",state="interrupted"}', 1),
        ('llm_training_loss{run="%s"}', state.loss),
        ('llm_training_tokens_total{run="%s"}', state.tokens),
    ):
        assert up_again.value(f"last_over_time({series % FIRST}[1h])") == pytest.approx(last), series
    assert "checkpoint-" in up_again.inside("trainer", "ls", "models/trading_llm")


def test_the_history_is_kept(up_again: Project, messages: list[int]) -> None:
    assert messages
    assert [message.id for message in up_again.messages()][: len(messages)] == messages
    assert SECOND in up_again.inside("trainer", "cat", "models/trading_llm/journal.jsonl")


def test_a_killed_run_is_notified(up_again: Project) -> None:
    up_again.container("trainer").kill()

    def told() -> bool:
        return any(up_again.told(alert, SECOND) == {"slack", "email"} for alert in ("RunVanished", "RunFailed"))

    up_again.wait("RunVanished or RunFailed on both channels", told)
    assert up_again.told("RunVanished", FIRST) == up_again.told("RunFailed", FIRST) == set(), "it was stopped"


def test_down_with_volumes_leaves_nothing(removed: Project, before: str) -> None:
    assert removed.containers() == []
    assert removed.networks() == []
    assert removed.volumes() == set()
    assert files_of_the_checkout() == before


# -- what goes wrong ---------------------------------------------------------------------------------------------------


def test_a_taken_port_is_named(removed: Project) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        done = removed.run("up", "--detach", "inbox", check=False, INBOX_PORT=port)
    assert done.returncode != 0
    assert re.search(rf"127\.0\.0\.1:{port}.*address already in use", done.stderr), done.stderr
    removed.run("down", "--volumes")


def test_a_missing_secret_is_named(removed: Project, tmp_path: Path) -> None:
    missing = str(tmp_path / "slack_webhook_url")
    done = removed.run("up", "--detach", *SERVICES, check=False, SLACK_WEBHOOK_URL_FILE=missing)
    assert done.returncode != 0
    assert missing in done.stderr
    assert not Path(missing).exists(), "the engine made a folder of it"
    removed.run("down", "--volumes")

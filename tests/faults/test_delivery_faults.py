"""Slack answers with errors, slowly or never; the mail server refuses; Alertmanager is away: everything arrives, and no
way waits for another. A real Alertmanager with the shipped configuration, in which only the waits are shorter."""

from __future__ import annotations

import json
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session
from faults_world import Watch, wait_until

from training_exporter import Monitor, events
from training_exporter.stack import binaries, files
from training_exporter.stack.launch import start_alertmanager
from training_exporter.stack.render import AlertmanagerSettings, MailSettings, render_alertmanager
from training_exporter.stack.servers import Child, Stack, free_port

#: In these tests a group is looked at again after so many seconds; as shipped, after a minute.
GROUP_INTERVAL = 10


@dataclass
class World:
    """Both ways to a person, which do what the name of the run says, and what has arrived on each, and when."""

    work: Path
    arrived: dict[tuple[str, str], float] = field(default_factory=dict)
    tried: Counter[tuple[str, str]] = field(default_factory=Counter)
    #: What the mail server answers to the next recipients that it is told.
    refusals: list[str] = field(default_factory=lambda: ["550 no", "451 later", "451 later"])

    def __post_init__(self) -> None:
        ports = [free_port(0)]
        while len(ports) < 3:
            ports.append(free_port(0, taken=ports))
        self.alertmanager_port, http, self.smtp_port = ports
        self.http = ThreadingHTTPServer(("127.0.0.1", http), _slack(self))
        threading.Thread(target=self.http.serve_forever, daemon=True).start()
        self.smtp: Controller | None = None
        (self.work / "url").write_text(f"http://127.0.0.1:{http}/slack")
        mail = MailSettings(f"127.0.0.1:{self.smtp_port}", "a@example.com", "b@example.com", require_tls=False)
        root = files.root()
        settings = AlertmanagerSettings(root=root, slack_url_file=self.work / "url", mail=mail)
        config = yaml.safe_load(render_alertmanager(root / "alerts" / "alertmanager.yml", settings))
        for route in (config["route"], *config["route"]["routes"]):
            route["group_wait"], route["group_interval"] = "1s", f"{GROUP_INTERVAL}s"
        (self.work / "alertmanager.yml").write_text(yaml.safe_dump(config))

    def listen_to_mail(self) -> None:
        self.smtp = Controller(_Mail(self), hostname="127.0.0.1", port=self.smtp_port, ready_timeout=20)
        self.smtp.start()

    def start_alertmanager(self, stack: Stack) -> Child:
        program = binaries.require([binaries.ALERTMANAGER])["alertmanager"]
        return start_alertmanager(stack, program, self.work, self.work, self.alertmanager_port)

    def fire(self, run: str) -> float:
        """An alert about a run; the time at which it began."""
        now = time.time()
        alert = {
            "labels": {"alertname": "RunFailed", "severity": "critical", "sign": "run_failed", "run": run},
            "annotations": {"summary": "S", "description": f"Run {run}"},
            "endsAt": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now + 600)),
        }
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.alertmanager_port}/api/v2/alerts", json.dumps([alert]).encode(),
            {"Content-Type": "application/json"},
        )  # fmt: skip
        urllib.request.urlopen(request, timeout=20).close()
        return now

    def within(self, way: str, run: str, seconds: float) -> bool:
        return wait_until(lambda: (way, run) in self.arrived, seconds)

    def take(self, way: str, text: str) -> tuple[str, int]:
        """The run that a message is about, and how often it was sent so far, this time included."""
        run = next((name for name in RUNS if name in text), "other")
        self.tried[way, run] += 1
        return run, self.tried[way, run]

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()
        if self.smtp is not None:
            self.smtp.stop()


RUNS = ("well", "slack-500", "slack-slow", "slack-never", "mail-down", "late")


def _slack(world: World) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            text = self.rfile.read(int(self.headers["Content-Length"])).decode()
            run, times = world.take("slack", text)
            if run == "slack-500" and times <= 3:
                self.send_error(500)
                return
            if run == "slack-slow":
                time.sleep(4)
            if run == "slack-never" and times == 1:
                # Longer than Alertmanager waits for anything.
                time.sleep(3 * GROUP_INTERVAL)
                return
            world.arrived.setdefault(("slack", run), time.time())
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"ok")

        def log_message(self, *args: object) -> None:
            pass

    return Handler


class _Mail:
    def __init__(self, world: World) -> None:
        self.world = world

    async def handle_RCPT(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if self.world.refusals:
            return self.world.refusals.pop()
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        run, _ = self.world.take("mail", str(envelope.content))
        self.world.arrived.setdefault(("mail", run), time.time())
        return "250 OK"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """All alerts are sent at the beginning, side by side; that of `mail-down` while no mail server is there."""
    work = tmp_path_factory.mktemp("delivery")
    world = World(work)
    try:
        with Stack(work / "logs") as stack:
            world.start_alertmanager(stack).wait_ready("/-/ready")
            world.fire("mail-down")
            assert world.within("slack", "mail-down", 20)
            world.listen_to_mail()
            for run in RUNS[:-2]:
                world.fire(run)
            yield world
    finally:
        world.close()


def test_slack_is_told_while_the_mail_server_is_away_and_mail_comes_when_it_is_back(world: World) -> None:
    assert world.within("mail", "mail-down", 3 * GROUP_INTERVAL)
    assert world.arrived["slack", "mail-down"] < world.arrived["mail", "mail-down"]


def test_a_mail_server_that_refuses_is_asked_again_and_slack_does_not_wait(world: World) -> None:
    for run in RUNS[:-1]:
        assert world.within("mail", run, 5 * GROUP_INTERVAL), run
    assert world.refusals == []


@pytest.mark.parametrize(("run", "tries"), [("slack-500", 4), ("slack-slow", 1), ("slack-never", 2)])
def test_a_webhook_that_fails_is_asked_again_and_mail_does_not_wait(world: World, run: str, tries: int) -> None:
    assert world.within("slack", run, 5 * GROUP_INTERVAL)
    assert world.tried["slack", run] >= tries
    assert world.arrived["mail", run] < world.arrived["slack", run]
    # Nor does what is said of another run.
    assert world.arrived["slack", "well"] < world.arrived["slack", run]


def test_nothing_is_told_twice(world: World) -> None:
    """Last: what has arrived is not sent again."""
    assert world.within("slack", "slack-never", 5 * GROUP_INTERVAL)
    assert world.tried["slack", "well"] == world.tried["mail", "well"] == 1


def test_alertmanager_is_away_while_an_alert_fires(tmp_path: Path) -> None:
    """Prometheus goes on to send what fires, as shipped every minute; here every two seconds."""
    world = World(tmp_path)
    world.listen_to_mail()
    monitor = Monitor("late", port=0, gpu=False, linger_seconds=0, targets_dir=tmp_path / "targets")
    try:
        with Stack(tmp_path / "logs") as stack:
            address = f"127.0.0.1:{world.alertmanager_port}"
            watch = Watch(stack, tmp_path, rules=True, alertmanager=address, options=("--rules.alert.resend-delay=2s",))
            watch.start()
            monitor.emit(events.RunStarted(time=time.time(), run="late"))
            monitor.end("failed", "ValueError: x")
            assert wait_until(lambda: watch.query('ALERTS{alertname="RunFailed",alertstate="firing"}'))
            assert wait_until(lambda: (watch.value("prometheus_notifications_errors_total") or 0) >= 0)
            time.sleep(3)
            world.start_alertmanager(stack)
            assert world.within("slack", "late", 60)
            assert world.within("mail", "late", 60)
    finally:
        monitor.close()
        world.close()

"""A real Prometheus, with the project's rules, that has watched real runs: live, crashed, backfilled, and a GPU.

Beside it a real Alertmanager with the project's configuration, whose messages go to an inbox.
"""

from __future__ import annotations

import json
import math
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grafana_runs
import yaml

from training_exporter.events import LossLogged
from training_exporter.monitor import Monitor
from training_exporter.stack import binaries, launch
from training_exporter.stack.inbox_server import Inbox
from training_exporter.stack.render import AlertmanagerSettings, MailSettings, render_alertmanager
from training_exporter.stack.servers import Child, Stack, free_port

ROOT = Path(__file__).resolve().parents[2]

#: Two runs that are played: one completes, one produces NaN and vanishes; their names have what names can have.
HEALTHY, BROKEN = "healthy-run.1", 'broken "run"'
#: Real trainings of the embedded model: one that is still at work, one that is killed with signal 9 on the way.
LIVE, CRASHED = "demo-live", "demo-crashed"
#: One that ended before this Prometheus began, from its journal.
PAST = "demo-past"
PAST_SECONDS = 3 * 3600.0


class QueryFailed(AssertionError):
    """Prometheus refused a query; the message is its own."""


@dataclass(frozen=True)
class Situation:
    """A run and a time range (Unix seconds), as somebody may look at them in a dashboard."""

    run: str
    since: float
    until: float

    @property
    def step(self) -> int:
        """Seconds between two points of a chart, as at a scrape each second."""
        return max(1, round((self.until - self.since) / 300))


@dataclass
class Recording:
    """What was recorded: `calm` while nothing fired, `broken` when an alert did, `ended` at the end (Unix seconds)."""

    url: str
    began: float
    calm: float = 0.0
    broken: float = 0.0
    ended: float = 0.0
    situations: dict[str, Situation] = field(default_factory=dict)  # by run

    def call(self, path: str, **parameters: Any) -> Any:
        data = urllib.parse.urlencode(parameters).encode()
        try:
            with urllib.request.urlopen(f"{self.url}/api/v1/{path}", data, timeout=10) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise QueryFailed(f"{parameters.get('query')}\n{error.read().decode()}") from None

    def instant(self, expr: str, at: float) -> list[dict[str, Any]]:
        """The series of an instant query, each with `metric` and `value` (time, text)."""
        return list(self.call("query", query=expr, time=at)["result"])

    def range(self, expr: str, until: float, since: float | None = None, step: int = 1) -> list[dict[str, Any]]:
        """The series until exactly then, in steps of some seconds, each with `metric` and `values`."""
        start = until - int((until - (since or self.began)) / step) * step
        return list(self.call("query_range", query=expr, start=start, end=until, step=step)["result"])

    def wait(self, condition: str, timeout: float = 20.0) -> float:
        """Waits until the query gives a series; returns when that was (Unix seconds)."""
        end = time.time() + timeout
        while not self.instant(condition, time.time()):
            assert time.time() < end, f"after {timeout:g} s still no series: {condition}"
            time.sleep(0.2)
        return time.time()


@contextmanager
def record(directory: Path) -> Iterator[Recording]:
    """Starts the servers, makes the runs, and leaves Prometheus running while the caller looks."""
    targets = directory / "targets"
    targets.mkdir()
    past = time.time() - PAST_SECONDS
    grafana_runs.backfill(PAST, past, directory / "past", directory / "data")
    with inbox(directory) as receiver, Stack(directory) as stack:
        alertmanager = start_alertmanager(stack, directory, receiver)
        url = start_prometheus(stack, directory, targets, pace="1s", alertmanager=alertmanager).url
        gpu = [sys.executable, "-m", "training_exporter.cli", "gpu", "--replay", "healthy", "--port", "0"]
        stack.start("gpu", [*gpu, "--targets-dir", str(targets)])
        recording = Recording(url, began=time.time())
        live = grafana_runs.train(stack, directory, targets, LIVE, 1000, supervised=True)  # outlasts us
        crashed = grafana_runs.train(stack, directory, targets, CRASHED, 12, "--inject", "run_vanished@0.8")
        monitors = {
            run: Monitor(run, port=0, gpu=False, targets_dir=targets, linger_seconds=3.0) for run in (HEALTHY, BROKEN)
        }
        try:
            grafana_runs.play(monitors)
            recording.wait(f'llm_training_validation_fluctuation_ratio{{run="{LIVE}"}}', 200)  # the last signal known
            recording.calm = recording.wait('ALERTS{alertname="Watchdog"} and on () gpu:llm_gpu_memory_used:ratio')
            assert live.running
            _end(recording, monitors)
            crashed.process.wait()
            live.stop()  # all has been seen: the tests get its core
            for run, since, until in (
                (HEALTHY, recording.began, recording.calm),
                (LIVE, recording.began, recording.calm),
                (BROKEN, recording.began, recording.broken),
                (CRASHED, recording.began, time.time()),
                (PAST, past, past + 2 * grafana_runs.STEPS * 5.0),
            ):
                recording.situations[run] = Situation(run, since, until)
            yield recording
        finally:
            for monitor in monitors.values():
                monitor.close()


def _end(recording: Recording, monitors: dict[str, Monitor]) -> None:
    """One run produces NaN and is gone without a word, the other completes."""
    monitors[BROKEN].emit(LossLogged(time=time.time(), step=grafana_runs.STEPS, loss=math.nan))
    recording.broken = recording.wait('ALERTS{alertname="LossNaN",alertstate="firing"}')
    server = monitors[BROKEN].server
    assert server is not None
    server.stop()  # as after kill -9: its target file stays
    monitors[HEALTHY].end("completed")
    monitors[HEALTHY].close()
    last_word = "last_over_time(run:llm_training_state:active{{run='{}'}}[1m])"
    recording.wait(last_word.format(HEALTHY) + " == 0")
    recording.ended = recording.wait(last_word.format(BROKEN) + " == 1 unless on (run) llm_training_state")


def inbox(directory: Path) -> Inbox:
    """Where the alerts' messages go, instead of Slack and a mail server."""
    http = free_port(0)
    return Inbox(port=http, smtp_port=free_port(0, taken=[http]), data=directory / "messages.jsonl")


def start_alertmanager(stack: Stack, directory: Path, receiver: Inbox) -> Child:
    """Starts it with the project's own configuration; returns when it is ready. Raises StackError."""
    directory.mkdir(parents=True, exist_ok=True)
    webhook = directory / "slack_webhook_url"
    webhook.write_text(f"{receiver.url}/slack\n", encoding="utf-8")
    mail = MailSettings(f"{receiver.host}:{receiver.smtp_port}", "from@example.com", "to@example.com", False)
    settings = AlertmanagerSettings(root=ROOT, slack_url_file=webhook, mail=mail)
    (directory / "alertmanager.yml").write_text(
        render_alertmanager(ROOT / "alerts" / "alertmanager.yml", settings), encoding="utf-8"
    )
    program = binaries.require((binaries.ALERTMANAGER,))["alertmanager"]
    child = launch.start_alertmanager(stack, program, directory, directory, free_port(0))
    child.wait_ready("/-/ready")
    return child


def start_prometheus(
    stack: Stack, directory: Path, targets: Path, pace: str | None = None, alertmanager: Child | None = None
) -> Child:
    """Starts it with the project's own configuration and rules, but for the `pace` of all of them; returns when ready.

    It scrapes what announces itself in `targets`. Its data lie in `directory`/data. Raises StackError.
    """
    port = free_port(0)
    config = yaml.safe_load((ROOT / "prometheus" / "prometheus.yml").read_text(encoding="utf-8"))
    if pace:
        config["global"].update(scrape_interval=pace, evaluation_interval=pace)
    config["rule_files"] = ["*.rules.yml"]
    config["scrape_configs"][0]["file_sd_configs"] = [{"files": [f"{targets}/*.json"], "refresh_interval": "1s"}]
    config["scrape_configs"][1]["static_configs"] = [{"targets": [f"127.0.0.1:{port}"]}]
    if alertmanager is None:  # not here, and its absence would fire TargetDown
        config["alerting"]["alertmanagers"] = []
        del config["scrape_configs"][2]
    else:
        there = [{"targets": [alertmanager.url.removeprefix("http://")]}]
        config["alerting"]["alertmanagers"][0]["static_configs"] = there
        config["scrape_configs"][2]["static_configs"] = there
    (directory / "prometheus.yml").write_text(yaml.safe_dump(config), encoding="utf-8")
    for file in [*(ROOT / "prometheus" / "rules").glob("*.yml"), *(ROOT / "alerts" / "rules").glob("*.yml")]:
        rules = yaml.safe_load(file.read_text(encoding="utf-8"))
        for group in rules["groups"] if pace else ():
            group.pop("interval", None)
        text = yaml.safe_dump(rules, allow_unicode=True)
        (directory / f"{file.parent.parent.name}-{file.stem}.rules.yml").write_text(text, encoding="utf-8")
    command = [
        binaries.require((binaries.PROMETHEUS,))["prometheus"],
        f"--config.file={directory / 'prometheus.yml'}",
        f"--storage.tsdb.path={directory / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    child = stack.start("prometheus", command, url=f"http://127.0.0.1:{port}")
    child.wait_ready("/-/ready")
    return child

"""How long does it take from a fault to the message, stage by stage, on the real servers?

Some runs in this process feed a Monitor each, ten steps a second. At a moment that nobody has chosen the loss of each
becomes NaN (critical) or rises (warning); Prometheus, Alertmanager and the inbox are the real ones with the shipped
configuration, and tell when each stage was reached.
"""

from __future__ import annotations

import contextlib
import random
import tempfile
import threading
import time
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import yaml
from tests.bench.measuring import percentile, table

from training_exporter import Monitor, events
from training_exporter.stack import files
from training_exporter.stack.launch import Servers, start_servers
from training_exporter.stack.messages import Message
from training_exporter.stack.query import Prometheus
from training_exporter.stack.servers import Stack

STEP_SECONDS = 0.1
MAX_STEPS = 2000
PATIENCE_SECONDS = 90.0

#: Alert, severity, and a series that the rule reads, when it is beyond the threshold.
FAULTS = {
    "LossNaN": ("critical", 'llm_training_nonfinite_total{{kind="loss",run="{run}"}}', lambda value: value > 0),
    "LossFluctuating": ("warning", 'llm_training_loss_fluctuation{{run="{run}"}}', lambda value: value > 0.42),
}
STAGES = ("step", "scrape", "rule", "message")


@dataclass
class Trial:
    """One run with a fault; `at` holds the Unix time at which each stage was reached."""

    name: str
    alert: str
    monitor: Monitor
    at: dict[str, float] = field(default_factory=dict)

    def train(self, fault_after: float, ended: threading.Event) -> None:
        """Emit events until `ended`; the fault begins after `fault_after` seconds."""
        draw = random.Random(self.name)
        self.monitor.emit(events.RunStarted(time=time.time(), run=self.name, max_steps=MAX_STEPS))
        begin = time.time() + fault_after
        for step in range(1, MAX_STEPS):
            if ended.wait(STEP_SECONDS):
                break
            now = time.time()
            loss = 2.0 - step / MAX_STEPS + draw.gauss(0.0, 0.02)
            if now >= begin:
                loss = float("nan") if self.alert == "LossNaN" else loss + (1.5 if step % 2 else -1.2)
            self.monitor.emit(events.StepEnded(time=now, step=step, tokens=1000, duration_seconds=STEP_SECONDS))
            self.monitor.emit(events.LossLogged(time=now, step=step, loss=loss, gradient_norm=1.0))
            if "step" not in self.at and self._shows():
                # The first step after which the page says it.
                self.at["step"] = time.time()
        self.monitor.end("completed")

    def _shows(self) -> bool:
        state = self.monitor.state
        if self.alert == "LossNaN":
            return state.nonfinite["loss"] > 0
        signals = state.signals
        return signals is not None and (signals.fluctuation or 0.0) > 0.42


def intervals() -> tuple[float, float, dict[str, float]]:
    """Seconds between scrapes, between evaluations, and that a group waits, by severity: of the shipped files."""
    prometheus = yaml.safe_load((files.folder("prometheus") / "prometheus.yml").read_text())["global"]
    route = yaml.safe_load((files.folder("alerts") / "alertmanager.yml").read_text())["route"]
    waits = {"warning": _seconds(route["group_wait"])}
    waits["critical"] = next(
        _seconds(each["group_wait"]) for each in route["routes"] if each["matchers"] == ['severity="critical"']
    )
    return _seconds(prometheus["scrape_interval"]), _seconds(prometheus["evaluation_interval"]), waits


def _seconds(text: str) -> float:
    return float(text[:-1]) * {"s": 1, "m": 60}[text[-1]]


def run_trials(servers: Servers, messages: list[Message], count: int, work: Path) -> list[Trial]:
    """`count` runs of each fault, until all messages have come."""
    trials = [
        Trial(name, alert, Monitor(name, output_dir=work / name, port=0, gpu=False, targets_dir=servers.targets))
        for alert in FAULTS
        for name in (f"{alert.lower()}-{number}" for number in range(count))
    ]
    ended = threading.Event()
    threads = [
        threading.Thread(target=trial.train, args=(random.uniform(15.0, 30.0), ended), daemon=True) for trial in trials
    ]
    for thread in threads:
        thread.start()
    prometheus = Prometheus(servers.prometheus.url)
    end = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < end and not all(set(STAGES) <= set(trial.at) for trial in trials):
        time.sleep(1)
        for trial in trials:
            _note(trial, prometheus, messages)
    ended.set()
    for thread in threads:
        thread.join()
    for trial in trials:
        trial.monitor.linger_seconds = 0
        trial.monitor.close()
    return trials


def _note(trial: Trial, prometheus: Prometheus, messages: list[Message]) -> None:
    """Take what the servers say about the stages that the run has reached."""
    _, series, is_beyond = FAULTS[trial.alert]
    if "step" in trial.at and "scrape" not in trial.at:
        points = prometheus.samples(series.format(run=trial.name) + "[1m]")
        found = [at for at, value in points if is_beyond(value)]
        if found:
            trial.at["scrape"] = found[0]
    if "rule" not in trial.at:
        firing = f'ALERTS{{alertname="{trial.alert}",run="{trial.name}",alertstate="firing"}}[1m]'
        found = [at for at, _ in prometheus.samples(firing)]
        if found:
            trial.at["rule"] = found[0]
    if "message" not in trial.at:
        told = [
            message.received
            for message in messages
            if message.channel == "slack" and trial.name in message.text and f"/runbooks/{trial.alert}" in message.text
        ]
        if told:
            trial.at["message"] = told[0]


def main(quick: bool = False) -> None:
    messages: list[Message] = []
    with tempfile.TemporaryDirectory() as folder, Stack(Path(folder) / "logs") as stack:
        servers = start_servers(stack, Path(folder), on_message=messages.append)
        with contextlib.closing(servers.inbox):
            trials = run_trials(servers, messages, 3 if quick else 10, Path(folder))
            delivery = _delivery_seconds(Prometheus(servers.prometheus.url))
    scrape, evaluation, waits = intervals()
    rows = []
    for alert, (severity, _, _) in FAULTS.items():
        done = [trial.at for trial in trials if trial.alert == alert and set(STAGES) <= set(trial.at)]
        whole = [at["message"] - at["step"] for at in done]
        allowed = 2 * scrape + 2 * evaluation + waits[severity]
        cells = [_span([at[b] - at[a] for at in done]) for a, b in pairwise(STAGES)]
        missing = sum(trial.alert == alert for trial in trials) - len(done)
        late = sum(seconds > allowed for seconds in whole)
        rows.append((
            f"{alert}, {severity}", len(done), *cells, f"{delivery * 1e3:.0f} ms", _span(whole), f"{allowed:g} s",
            f"{late} late, {missing} lost" if late or missing else "all",
        ))  # fmt: skip
    table(
        f"From a fault to the message: scrapes and rules every {scrape:g} and {evaluation:g} s, groups wait "
        f"{waits['critical']:g} s (critical) or {waits['warning']:g} s",
        ("", "runs", "step to scrape", "scrape to rule", "rule to message", "of it delivery", "altogether", "allowed",
         "in time"),
        rows,
    )  # fmt: skip


def _delivery_seconds(prometheus: Prometheus) -> float:
    """Mean time that Alertmanager took to hand a message to the webhook."""
    name, only = "alertmanager_notification_latency_seconds", '{integration="slack"}'
    found = prometheus.query(f"{name}_sum{only} / {name}_count{only}")
    return found[0][1] if found else float("nan")


def _span(seconds: list[float]) -> str:
    """Median and largest."""
    return f"{percentile(seconds, 0.5):.1f} s ({max(seconds):.1f})" if seconds else "none"

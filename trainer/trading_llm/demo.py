"""`trading-llm demo`: the whole product on this machine, without Docker, in under five minutes.

Starts Prometheus, Alertmanager, the inbox, the GPU exporter and (where it is on PATH) Grafana on free ports, trains
on the embedded model, shows alerts as they are notified, and ends with a summary. All that it started ends with it.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any
from urllib.parse import urlencode

from training_exporter import RunState, journal
from training_exporter.events import StepEnded
from training_exporter.stack.errors import StackError
from training_exporter.stack.inbox_server import describe
from training_exporter.stack.launch import Servers, start_grafana, start_servers
from training_exporter.stack.messages import Message
from training_exporter.stack.query import Prometheus
from training_exporter.stack.servers import Child, Stack

OUTPUT = Path(".demo")
POLL_SECONDS = 1.0
PROGRESS_LINES = 10
# How long an alert may take: RunStalled waits for two minutes, 20 steps and half a minute.
FAULT_SECONDS = 480.0
# After the training: the rules' next evaluations, and the time for which Alertmanager holds a message back.
SETTLE_SECONDS = 12.0
NOTIFY_SECONDS = 60.0
GPU_SECONDS = 20.0
# A training saves a checkpoint when it is interrupted; a second interrupt ends it at once.
INTERRUPT_SECONDS = 20.0

CHANNELS = {"slack": "Slack", "email": "e-mail"}
# The line that alerts/templates put under each alert of a message: "LossRising, warning, since 2026-01-31 ...".
_ALERT_LINE = re.compile(r"^(?P<alert>\w+), (?P<severity>critical|warning|info|none), (?P<firing>since )?", re.M)


class Ended(BaseException):
    """SIGINT or SIGTERM came: leave in good order. `number` is the signal's."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


@dataclass(frozen=True)
class Notice:
    """One alert in one message. `received` is Unix seconds."""

    channel: str
    alert: str
    severity: str
    firing: bool
    received: float


def notices(message: Message) -> list[Notice]:
    """The alerts that a message of alerts/templates speaks of."""
    texts = [message.body["text"]] if message.channel == "email" else [a["text"] for a in message.body["attachments"]]
    return [
        Notice(message.channel, match["alert"], match["severity"], bool(match["firing"]), message.received)
        for text in texts
        for match in _ALERT_LINE.finditer(text.replace("\r", ""))
    ]


@dataclass
class Demo:
    """One demo below the folder `work`."""

    work: Path
    inject: str | None
    train_options: list[str]
    notices: list[Notice] = field(default_factory=list)

    def run(self, hold: bool) -> int:
        """Returns the exit status: 0, or 1 for a false alarm, an alert that did not come, or a failed run."""
        with Stack(self.work / "logs") as stack:
            servers = start_servers(stack, self.work, on_message=self._on_message, install=say)
            with contextlib.closing(servers.inbox):
                self._check_sign(servers)
                grafana = self._start_grafana(stack, servers)
                gpu = self._start_gpu(stack, servers)
                trainer = self._start_trainer(stack, servers)
                self._print_addresses(servers, grafana, gpu)
                with self._interrupting(trainer):
                    self._watch(trainer, servers)
                status = self._summary(trainer, servers)
                if hold:
                    say("\nThe servers stay up for you to look around, until Ctrl-C.")
                    with contextlib.suppress(Ended):
                        while True:
                            time.sleep(3600)
                return status

    # -- starting -----------------------------------------------------------------------------------------------------

    def _check_sign(self, servers: Servers) -> None:
        """A sign without a rule would be waited for in vain."""
        signs = {rule["labels"]["sign"] for rule in _rules(servers) if "sign" in rule["labels"]}
        if self.sign is not None and self.sign not in signs:
            raise StackError(f"--inject: found {self.sign!r}; signs with an alert rule: {', '.join(sorted(signs))}")

    @property
    def sign(self) -> str | None:
        """The sign to inject, without its start (`loss_rising@0.3`)."""
        return self.inject.partition("@")[0] if self.inject else None

    def _start_grafana(self, stack: Stack, servers: Servers) -> str:
        try:
            child = start_grafana(stack, servers, self.work)
        except StackError as error:
            return f"did not start: {error}"
        if child is None:
            return "not on PATH, so no dashboard here (docker compose up has it)"
        # The wall. A run of minutes would be lost in its usual hour; its runbooks are on this inbox' port.
        shown = {"var-runs": self.work.name, "var-runbooks": f"{servers.inbox.url}/runbooks", "refresh": "5s"}
        return f"{child.url}/d/llm-training-wall?{urlencode({'from': 'now-15m', 'to': 'now', **shown})}"

    def _start_gpu(self, stack: Stack, servers: Servers) -> str:
        """The GPU exporter: of this machine's GPUs, or of a recorded one. Returns what to tell about it."""
        command = [sys.executable, "-m", "training_exporter.cli", "gpu"]
        for name, more in (("gpu", []), ("gpu-replay", ["--replay", "healthy"])):
            child = stack.start(name, command + more, environment=_environment(servers))
            end = time.monotonic() + GPU_SECONDS
            while child.running and time.monotonic() < end:
                log = child.log.read_text(errors="replace")
                if served := re.search(r"GPU metrics at (\S+)", log):
                    source = re.search(r"^replaying \S+: (.+)", log, re.M)
                    told = f"no NVIDIA GPU here: a REPLAYED CAPTURE, {source[1]}" if source else "of this machine"
                    return f"{served[1]}  ({told})"
                time.sleep(0.1)
        return f"no figures: the GPU exporter did not start ({child.log})"

    def _start_trainer(self, stack: Stack, servers: Servers) -> Child:
        command = [sys.executable, "-m", "trading_llm.train_llm", "train"]
        command += ["--output-dir", str(self.model), "--run-name", self.work.name]
        if self.sign != "run_vanished":  # below a supervisor no run vanishes: it is there to say how it ended
            command = [sys.executable, "-m", "training_exporter.cli", "run", "--", *command]
        command += ["--inject", self.inject] if self.inject else []
        return stack.start("trainer", command + self.train_options, environment=_environment(servers))

    @property
    def model(self) -> Path:
        return self.work / "model"

    def _print_addresses(self, servers: Servers, grafana: str, gpu: str) -> None:
        say(
            f"Inbox (Slack, mail)  {servers.inbox.url}\n"
            f"Prometheus           {servers.prometheus.url}\n"
            f"Alertmanager         {servers.alertmanager.url}\n"
            f"Grafana              {grafana}\n"
            f"GPU figures          {gpu}\n"
            f"Training's output    {self.work / 'logs' / 'trainer.log'}\n"
        )
        say(f"Training with a fault on purpose: {self.inject}" if self.inject else "Training on the embedded model:")

    # -- while it runs ------------------------------------------------------------------------------------------------

    def _on_message(self, message: Message) -> None:
        """Called by the inbox' threads."""
        self.notices += notices(message)
        say("  " + describe(message))

    def _watch(self, trainer: Child, servers: Servers) -> None:
        """Until the training has ended, or the injected fault has been notified; then until alerts have settled."""
        told = -1
        while trainer.running and not (self.sign and self._delays(servers)):
            state = self.state()
            if state.step and state.max_steps and told < (part := PROGRESS_LINES * state.step // state.max_steps):
                told = part
                say("  " + _progress(state))
            if state.fault and time.time() > state.fault.time + FAULT_SECONDS:
                return
            time.sleep(POLL_SECONDS)
        if self.sign:
            end = time.monotonic() + (NOTIFY_SECONDS + 2 * 60 if self.state().fault else 0)
            while not self._delays(servers) and time.monotonic() < end:
                time.sleep(POLL_SECONDS)
            return
        end = time.monotonic() + SETTLE_SECONDS
        latest = time.monotonic() + NOTIFY_SECONDS
        while time.monotonic() < end or (self._unnotified(servers) and time.monotonic() < latest):
            time.sleep(POLL_SECONDS)

    def state(self) -> RunState:
        """What the run's journal says so far."""
        state = RunState()
        with contextlib.suppress(journal.JournalError):
            for event in journal.read(self.model / journal.JOURNAL_NAME):
                state.apply(event)
        return state

    def _delays(self, servers: Servers) -> dict[str, Notice]:
        """The first notice of the injected sign's alert after the fault for each channel; empty unless on all."""
        fault = self.state().fault
        names = {rule["name"] for rule in _rules(servers) if rule["labels"].get("sign") == self.sign}
        found: dict[str, Notice] = {}
        for notice in list(self.notices):
            if fault and notice.firing and notice.alert in names and notice.received >= fault.time:
                found.setdefault(notice.channel, notice)
        return found if len(found) == len(CHANNELS) else {}

    def _unnotified(self, servers: Servers) -> bool:
        """Whether a warning or critical alert fires that has not come on all channels."""
        firing = {a["labels"]["alertname"] for a in Prometheus(servers.prometheus.url).alerts()
                  if a["state"] == "firing" and a["labels"].get("severity") in {"warning", "critical"}}  # fmt: skip
        return any(
            not any(n.alert == alert and n.channel == channel for n in list(self.notices))
            for alert in firing
            for channel in CHANNELS
        )

    @contextlib.contextmanager
    def _interrupting(self, trainer: Child) -> Iterator[None]:
        """On Ctrl-C the training ends first, with its checkpoint, while it is still watched."""
        try:
            yield
        except Ended:
            say("\nEnding: the training saves a checkpoint (Ctrl-C once more ends at once)")
            _interrupt(trainer)
            raise

    # -- the end ------------------------------------------------------------------------------------------------------

    def _summary(self, trainer: Child, servers: Servers) -> int:
        delays = self._delays(servers) if self.sign else {}
        if trainer.running:
            say("\nThe alert has come; ending the training." if delays else "\nEnding the training.")
            _interrupt(trainer)
        state = self.state()
        say("\n" + _figures(state))
        problem = self._verdict(trainer, state, delays)
        self._print_alerts(servers)
        say(f"Files        {self.work}  (model/ logs/ config/ messages.jsonl)")
        say(f"\nNOT AS IT SHOULD BE: {problem}" if problem else "\nAll as it should be.")
        return 1 if problem else 0

    def _verdict(self, trainer: Child, state: RunState, delays: dict[str, Notice]) -> str:
        """What is wrong, in words; empty where nothing is."""
        if self.sign:
            if state.fault is None:
                return f"the fault never happened; the training's log ends with:\n{trainer.log_tail()}"
            if not delays:
                came = sorted({n.alert for n in self.notices if n.firing}) or ["none"]
                return f"no alert for {self.sign} came on both channels after the fault; what came: {', '.join(came)}"
            moments = _step_times(self.model)
            for channel, notice in delays.items():
                seconds = notice.received - state.fault.time
                steps = sum(state.fault.time < moment <= notice.received for moment in moments)
                say(
                    f"{CHANNELS[channel]:<12} {notice.alert} came {seconds:.1f} s and {steps} steps after the fault, "
                    f"which was at step {state.fault.step}"
                )
            return ""
        if trainer.exit_status != 0:
            return f"the training ended with exit status {trainer.exit_status}\n{trainer.log_tail()}"
        alarms = sorted({n.alert for n in self.notices if n.firing and n.severity in {"warning", "critical"}})
        return f"false alarm in a healthy training: {', '.join(alarms)}" if alarms else ""

    def _print_alerts(self, servers: Servers) -> None:
        fired = Prometheus(servers.prometheus.url).query(
            'group by (alertname, severity) (last_over_time(ALERTS{alertstate="firing",severity!="none"}[1h]))'
        )
        names = sorted(f"{labels['alertname']} ({labels.get('severity', '')})" for labels, _ in fired)
        say(f"Alerts       fired: {', '.join(names) or 'none'}")
        counts = [f"{sum(n.channel == c and n.firing for n in self.notices)} by {told}" for c, told in CHANNELS.items()]
        say(f"             notified: {', '.join(counts)}")


def main(argv: list[str] | None = None) -> int:
    """Run the demo; returns the exit status: 0, 1 (not as it should be), 2 (wrong input), 130/143 (SIGINT/SIGTERM)."""
    parser = argparse.ArgumentParser(prog="trading-llm demo", description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--inject", metavar="SIGN", help="make a real fault happen (trading-llm train --inject list); "
                        "exit 0 only if its alert comes on both channels")  # fmt: skip
    parser.add_argument("--hold", action="store_true", help="keep the servers up after the run, until Ctrl-C")
    parser.add_argument("--output", type=Path, default=OUTPUT, metavar="DIR", help="where its files go (%(default)s)")
    parser.add_argument("train_options", nargs="*", metavar="-- OPTIONS", help="more options of trading-llm train")
    options = parser.parse_args(argv)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _end)
    work = options.output / time.strftime("demo-%Y%m%d-%H%M%S")
    try:
        return Demo(work.resolve(), options.inject or None, options.train_options).run(options.hold)
    except StackError as error:
        print(f"trading-llm demo: {error}", file=sys.stderr)
        return 2
    except Ended as ended:
        say("Ended; nothing is left running.")
        return 128 + ended.number


def _end(number: int, _: FrameType | None) -> None:
    raise Ended(number)


def say(text: str) -> None:
    print(text, flush=True)


def _interrupt(trainer: Child) -> None:
    for _ in range(2):
        trainer.interrupt()
        end = time.monotonic() + INTERRUPT_SECONDS
        while trainer.running and time.monotonic() < end:
            time.sleep(0.1)
        if not trainer.running:
            return
    trainer.stop()


def _environment(servers: Servers) -> dict[str, str]:
    return {
        **os.environ,
        "TRAINING_EXPORTER_TARGETS_DIR": str(servers.targets),
        "PYTHONUNBUFFERED": "1",
    }


def _rules(servers: Servers) -> list[dict[str, Any]]:
    return Prometheus(servers.prometheus.url).alerting_rules()


def _step_times(model: Path) -> list[float]:
    return [event.time for event in journal.read(model / journal.JOURNAL_NAME) if isinstance(event, StepEnded)]


def _progress(state: RunState) -> str:
    parts = [f"step {state.step}/{state.max_steps}"]
    parts += [f"loss {state.loss:.3f}"] if state.loss is not None else []
    parts += [f"validation loss {state.validation_loss:.3f}"] if state.validation_loss is not None else []
    parts += [f"{state.tokens_per_second:.0f} tokens/s"] if state.tokens_per_second else []
    return f"{time.strftime('%H:%M:%S')}  {', '.join(parts)}"


def _figures(state: RunState) -> str:
    """Loss, steps, duration and speed of a run, a line each; what is not known is left out."""
    lines = [f"Run          {state.run}: {state.state}"]
    if state.signals and state.signals.initial is not None and state.signals.smoothed is not None:
        lines.append(f"Loss         {state.signals.initial:.2f} -> {state.signals.smoothed:.2f}")
    if state.validation_loss is not None:
        lines.append(f"Validation   {state.validation_loss:.2f}")
    lines.append(f"Steps        {state.step or 0} of {state.max_steps}")
    if state.start_time and state.last_step_time:
        seconds = state.last_step_time - state.start_time
        lines.append(f"Duration     {seconds:.0f} s")
        if state.tokens and seconds:
            lines.append(f"Tokens       {state.tokens}, {state.tokens / seconds:.0f} per second")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())

"""A run below the supervisor, as the supervisor knows it: from what its monitor tells, and from its process."""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
from prometheus_client import Metric

from training_exporter import journal
from training_exporter.events import FINAL_STATES, CommandStarted, Event, RunEnded, RunStarted, from_record
from training_exporter.families import RUN_FAMILIES, collect
from training_exporter.history import taken_up
from training_exporter.labels import run_label
from training_exporter.profile import ProfileError, from_yaml
from training_exporter.state import RunState
from training_exporter.supervise import protocol
from training_exporter.supervise.protocol import Figures, Hello, ProtocolError

log = logging.getLogger(__name__)


class WatchedRun:
    """One run. Not thread-safe: the hub's lock is around all that changes it, and around no I/O.

    `hello` is None for the command itself, as long as no monitor in it has spoken.
    """

    def __init__(self, run: str, started: float, hello: Hello | None = None) -> None:
        self.run = run
        self.figures = Figures({}, 0)
        self.journal = Path(hello.journal) if hello is not None and hello.journal else None
        self.connected = hello is not None
        #: When its process was first found to be gone (time.monotonic()).
        self.gone_since: float | None = None
        self.bad_lines = 0
        self._process: psutil.Process | None = None
        profile = None
        if hello is not None:
            with contextlib.suppress(psutil.Error):
                self._process = psutil.Process(hello.pid)
            if hello.profile:
                with contextlib.suppress(ProfileError):
                    profile = from_yaml(hello.profile)
        self.state = RunState(profile)
        self.state.apply(CommandStarted(time=started))

    @property
    def ended(self) -> bool:
        return self.state.state in FINAL_STATES

    @property
    def begun(self) -> bool:
        """Whether a training has told of its start."""
        return self.state.run is not None

    @property
    def alive(self) -> bool:
        """Whether the process of its monitor is there."""
        try:
            process = self._process
            return process is not None and process.is_running() and process.status() != psutil.STATUS_ZOMBIE
        except psutil.Error:
            return False

    def read(self, line: bytes) -> Event | Figures | None:
        """What a line from the monitor says. What is none is counted and passed over."""
        try:
            record = json.loads(line)
            if isinstance(record, dict) and "figures" in record:
                return protocol.of_record(record, Figures)
            return from_record(record)
        except (ValueError, RecursionError, ProtocolError) as error:
            self.bad_lines += 1
            log.debug("%s: a line that is no event: %s", self.run, error)
            return None

    def before(self, event: Event) -> RunState:
        """The state to which the event is to be applied. May read the journal: to be called without the lock."""
        if isinstance(event, RunStarted):
            with contextlib.suppress(journal.JournalError):
                return taken_up(event, self.state, self.journal)
        return self.state

    def own_end(self) -> RunEnded | None:
        """The last word of the run that reached its journal alone. To be called without the lock."""
        own = journal.ending(self.journal) if self.journal is not None and self.begun and not self.ended else None
        return own if own is not None and own.time >= (self.state.start_time or 0.0) else None

    def end(self, state: str, reason: str) -> RunEnded:
        """Say how a run ended that could not say so itself. The event is for its journal: see `write`."""
        event = RunEnded(time=time.time(), state=state, reason=reason)
        self.state.apply(event)
        return event

    def write(self, event: RunEnded) -> None:
        """Append an end to the run's journal, where it has one. To be called without the lock."""
        if self.journal is None or not self.begun:
            return
        # The writer begins a line of its own where the killed process has left a torn one.
        writer = journal.JournalWriter(self.journal)
        writer.put(event)
        writer.close()
        # What waited in the process for its disk died with it.
        lost = self.figures.waiting_events + writer.dropped
        self.figures = Figures(self.figures.errors, self.figures.dropped_events + lost)

    def add_to_reason(self, more: str) -> None:
        """Show `more` beside the reason that a failed run gave itself, where it is not there already."""
        reason, ended = self.state.end_reason, self.state.end_time
        if more not in reason and ended is not None:
            self.state.apply(RunEnded(time=ended, state="failed", reason=f"{reason} ({more})" if reason else more))

    def collect(self, *, shown: bool) -> Iterator[Metric]:
        """Its families. Not `shown`: it turned out to have another name, so that this name is in no state."""
        families = list(collect(RUN_FAMILIES, self.state, {"run": run_label(self.run)}))
        if shown:
            return iter(families)
        states = [metric for metric in families if metric.name == "llm_training_state"]
        for metric in states:
            metric.samples = [sample._replace(value=0.0) for sample in metric.samples]
        return iter(states)

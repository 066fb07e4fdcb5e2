"""One run under watch: takes events, keeps the state, writes the journal, serves `/metrics`.

`emit` is what a training loop calls. It takes microseconds, raises nothing and waits for nobody.
"""

from __future__ import annotations

import atexit
import dataclasses
import logging
import os
import re
import socket
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from prometheus_client import Metric

from training_exporter import journal, ports
from training_exporter._version import __version__
from training_exporter.clock import Clock
from training_exporter.event_writer import EventWriter, Source, line_of
from training_exporter.events import (
    FINAL_STATES,
    ClockSet,
    Event,
    LossLogged,
    RunEnded,
    RunStarted,
    StepEnded,
    checked,
)
from training_exporter.families import MONITOR_FAMILIES, RUN_FAMILIES, collect
from training_exporter.gpu import GpuCollector, open_gpu_collector
from training_exporter.history import taken_up
from training_exporter.labels import run_label
from training_exporter.profile import Profile, to_yaml
from training_exporter.profile import default as default_profile
from training_exporter.profile import load as load_profile
from training_exporter.redaction import redacted
from training_exporter.sinks.collectors import Collect
from training_exporter.sinks.endpoint import Endpoint
from training_exporter.sinks.server import MetricsServer
from training_exporter.state import RunState
from training_exporter.supervise import link, protocol
from training_exporter.web.options import ServeOptions

log = logging.getLogger(__name__)

#: Events of steps that may wait until they are taken: by the journal's thread, a scrape, whoever asks for the state.
#: Between two steps the processor's caches hold the training's data and not our code: there one event takes four times
#: as long as elsewhere. Where nobody is there to take them, it is done after so many.
UNTAKEN_EVENTS = 64
OF_STEPS = (StepEnded, LossLogged)

#: Called with each event after the state has taken it. An error is logged once and counted, never passed on.
Sink = Callable[[Event, RunState], None]

#: Makes the events of a step, once and on any thread.
Maker = Callable[[], tuple[Event, ...]]


def run_name(output_dir: str | os.PathLike[str] | None, now: float | None = None) -> str:
    """A name that no other run has: the output directory's and the time of the start (UTC)."""
    stem = re.sub(r"\s+", "-", Path(output_dir).resolve().name) if output_dir else "run"
    return f"{stem or 'run'}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime(now))}"


class Monitor:
    """Watches one run.

    `run` is the name that all its series carry as a label, cut where it is too long for one. With `output_dir` every
    event goes to `<output_dir>/journal.jsonl`.
    `port` None serves on the usual port or the next free one, a number demands that port (PortTaken when it is not to
    be had), 0 takes any; `serve=False` serves none. `targets_dir` (or TRAINING_EXPORTER_TARGETS_DIR) announces the
    address to Prometheus. `web_config` (or TRAINING_EXPORTER_WEB_CONFIG) is a file with TLS and passwords, as
    Prometheus' exporters have it (WebConfigError when it is none). `linger_seconds` bounds how long `close` waits for
    the last scrapes. `profile` is what this run is expected to look like, or a YAML file of it (ProfileError when it is
    none); default: the guide's numbers.

    Below `training-exporter run` the page is served by that process, which lives on when this one does not: how it is
    served, announced and kept is that command's matter, and so is the name of the run if it was given one.
    """

    def __init__(
        self,
        run: str | None = None,
        *,
        output_dir: str | os.PathLike[str] | None = None,
        host: str = "127.0.0.1",
        port: int | None = None,
        serve: bool = True,
        gpu: bool = True,
        linger_seconds: float = 30.0,
        targets_dir: str | os.PathLike[str] | None = None,
        web_config: str | os.PathLike[str] | None = None,
        profile: str | os.PathLike[str] | Profile | None = None,
    ) -> None:
        supervisor = link.connect() if serve else None
        if supervisor is not None:
            self._welcome = supervisor[1]
            run = self._welcome.run or run
        self.run = run or run_name(output_dir)
        self.label = run_label(self.run)
        if profile is not None and not isinstance(profile, Profile):
            profile = load_profile(Path(profile))
        self._state = RunState(profile)
        #: What makes the events that are still to be taken.
        self._untaken: deque[Maker] = deque()
        self.errors: Counter[str] = Counter()
        self._guards: dict[str, Guard] = {}
        self._clock = Clock()
        self.linger_seconds = linger_seconds
        self.gpu: GpuCollector | None = None
        # A handler of a signal may come in between, and say something as well.
        self._lock = threading.RLock()
        self._sinks: list[tuple[str, Sink]] = []
        self._closed = False
        self._journal: journal.JournalWriter | None = None
        self._endpoint: Endpoint | None = None
        self._link: link.SupervisorLink | None = None
        #: The journal and the link, those of them that there are.
        self._writers: tuple[EventWriter, ...] = ()

        sources: list[tuple[str, Collect]] = [("run", self._collect_run), ("exporter", self._collect_exporter)]
        if gpu:
            with self.guard("gpu"):
                self.gpu = open_gpu_collector()
                if self.gpu is not None:
                    sources.append(("gpu", self.gpu))

        def serve_here() -> None:
            title = f"training-exporter {__version__}: run {self.label}"
            options = ServeOptions(host, port, web_config, targets_dir)
            self._endpoint = Endpoint(sources, lambda: title, options, ports.RUN_METRICS)
            with self.guard("targets"):
                self._endpoint.announce(self.run)

        if serve and supervisor is None:
            serve_here()
        if output_dir is not None:
            with self.guard("journal"):
                path = Path(output_dir) / journal.JOURNAL_NAME
                journal.make_room(path, self.run)
                self._journal = journal.JournalWriter(path, source=_Untaken(self))
                self._writers = (self._journal,)
        if supervisor is not None:
            with self.guard("supervisor"):
                self._link = self._report_to(supervisor[0], serve_here)
                self._writers = (*self._writers, self._link)
        atexit.register(self._at_exit)

    @property
    def url(self) -> str | None:
        """Address of the metrics page, None when none is served."""
        if self._endpoint is not None:
            return self._endpoint.url
        return self._welcome.url if self._link is not None else None

    @property
    def server(self) -> MetricsServer | None:
        """What serves the metrics page in this process, None when nothing does."""
        return self._endpoint.server if self._endpoint else None

    @property
    def state(self) -> RunState:
        """The run as it stands, with every event so far in it. Ask again rather than keep it: events of steps that come
        later may not be in it at once."""
        with self._lock:
            return self._taken()

    @property
    def ended(self) -> bool:
        return self.state.state in FINAL_STATES

    def add_sink(self, sink: Sink, name: str | None = None) -> None:
        """Have `sink` called with every event from now on, on the thread that emits it."""
        self._sinks.append((name or str(getattr(sink, "__name__", type(sink).__name__)), sink))

    def emit(self, event: Event) -> None:
        """Take an event. Never raises, never waits for a disk, a network or a device.

        But for the first event of a process that takes up a run: its past is read from its journal. An event that
        says what none can say (a word for a number, a step below 0) is counted among the errors and goes nowhere.
        """
        if isinstance(event, OF_STEPS):
            self.emit_steps([lambda: (event,)])
            return
        with self.guard("event"):
            if isinstance(event, RunStarted):
                # The name that the supervisor gave, if it gave one.
                event = dataclasses.replace(checked(event), run=self.run)
                with self.guard("history"):
                    self._take_up(event)
            self._take_now(event)
            for writer in self._writers:
                writer.wake()

    def emit_steps(self, makers: Sequence[Maker]) -> None:
        """Take the events of steps that `makers` give, as `emit` does. They are made where that costs the training
        least: soon, once, in their order, on any thread."""
        if self._sinks:
            for make in makers:
                with self.guard("event"):
                    for event in make():
                        with self.guard("event"):
                            self._take_now(event)
        else:
            self._untaken.extend(makers)
        for writer in self._writers:
            writer.poke()
        if len(self._untaken) >= UNTAKEN_EVENTS:
            with self._lock:
                self._taken()

    def _take_now(self, event: Event) -> None:
        with self._lock:
            state = self._taken()
            taken = self._take(event)
        for each in taken:
            for name, sink in self._sinks:
                with self.guard(name):
                    sink(each, state)

    def _taken(self) -> RunState:
        """The state, with all events taken; the lock is held."""
        while self._untaken:
            with self.guard("event"):
                for event in self._untaken.popleft()():
                    with self.guard("event"):
                        self._take(event)
        return self._state

    def _take(self, event: Event) -> list[Event]:
        """Take the event into the state and put it into the writers, with what it tells of the clock; the lock is held.
        Gives the events as they were taken. Raises InvalidEvent."""
        event = checked(event)
        taken: list[Event] = []
        set_by = self._clock.set_by()
        if set_by and self._state.run is not None:
            log.warning("the clock was set by %+.0f s while %s was at work", set_by, self.run)
            taken.append(ClockSet(time=time.time(), by_seconds=set_by))
        if (now := self._clock.now(event.time)) != event.time:
            event = dataclasses.replace(event, time=now)
        if not isinstance(event, OF_STEPS):
            with self.guard("redaction"):
                event = redacted(event)
        taken.append(event)
        for each in taken:
            with self.guard("state"):
                self._state.apply(each)
            line = line_of(each)
            for writer in self._writers:
                writer.put_line(line)
        return taken

    def end(self, state: str, reason: str = "") -> None:
        """Say how the run ended; the first word counts."""
        if not self.ended:
            self.emit(RunEnded(time=time.time(), state=state, reason=reason))

    def guard(self, name: str) -> Guard:
        """A context in which no error passes: it is logged the first time and counted under `name`."""
        found = self._guards.get(name)
        if found is None:
            found = self._guards[name] = Guard(self, name)
        return found

    def failed(self, name: str, error: Exception) -> None:
        """Take note of an error of ours, as `guard` does."""
        self.errors[name] += 1
        if self.errors[name] == 1:
            log.warning("monitoring: %s failed; the training goes on", name, exc_info=error)

    def close(self) -> None:
        """End in good order: the journal is on disk and Prometheus has had the final state, then the server stops.

        Waits until the page was scraped twice after the end, but no longer than the scrapes so far let expect and at
        most `linger_seconds`; not at all when nobody scrapes. Safe to call more than once; also called when the
        interpreter exits.
        """
        if self._closed:
            return
        self._closed = True
        atexit.unregister(self._at_exit)
        if self.state.run is not None:
            self.end("failed", "the training loop was left before its end")
        self._close()

    def _at_exit(self) -> None:
        """The interpreter ends. By what, a supervisor knows better."""
        if self._link is None or self._endpoint is not None:
            self.close()
        elif not self._closed:
            self._closed = True
            self._close()

    def _close(self) -> None:
        if self._journal is not None:
            self._journal.close()
        if self._link is not None:
            self._link.close()
        if self._endpoint is not None:
            if self.ended:
                self._endpoint.linger(self.run, self.linger_seconds)
            with self.guard("server"):
                self._endpoint.close()

    def _take_up(self, event: RunStarted) -> None:
        path = None
        if self._journal is not None:
            self._journal.flush()
            path = self._journal.path
        state = taken_up(event, self.state, path)
        with self._lock:
            self._state = state

    def _report_to(self, connection: socket.socket, serve_here: Callable[[], None]) -> link.SupervisorLink:
        def take_over() -> None:
            with self.guard("supervisor"):
                if not self._closed:
                    serve_here()
                    log.warning("the metrics of %s are at %s from now on", self.run, self.url)

        own = self.state.profile != default_profile()
        path = str(self._journal.path.resolve()) if self._journal is not None else None
        hello = protocol.Hello(self.run, os.getpid(), path, to_yaml(self.state.profile) if own else "")
        return link.SupervisorLink(connection, hello, self._figures, take_over, _Untaken(self))

    def _figures(self) -> protocol.Figures:
        return protocol.Figures(dict(self.errors), self.dropped_events, self.waiting_events)

    def _collect_run(self) -> Iterator[Metric]:
        with self._lock:
            metrics = list(collect(RUN_FAMILIES, self._taken(), {"run": self.label}))
        return iter(metrics)

    def _collect_exporter(self) -> Iterator[Metric]:
        return collect(MONITOR_FAMILIES, self, {})

    @property
    def dropped_events(self) -> int:
        """Events that could not be written to the journal."""
        return self._journal.dropped if self._journal else 0

    @property
    def waiting_events(self) -> int:
        """Events that wait in memory for the journal's disk to take them."""
        return self._journal.waiting if self._journal else 0


class _Untaken(Source):
    """What a monitor's writers fetch."""

    def __init__(self, monitor: Monitor) -> None:
        self._monitor = monitor

    def waits(self) -> bool:
        return bool(self._monitor._untaken)

    def fetch(self) -> None:
        with self._monitor._lock:
            self._monitor._taken()


class Guard:
    """Keeps an error of ours from the training: logs it once per name, counts it, and goes on."""

    __slots__ = ("_monitor", "_name")

    def __init__(self, monitor: Monitor, name: str) -> None:
        self._monitor, self._name = monitor, name

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        if error is None or not isinstance(error, Exception):
            return False
        self._monitor.failed(self._name, error)
        return True

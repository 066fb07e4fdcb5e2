"""One run under watch: takes events, keeps the state, writes the journal, serves `/metrics`.

`emit` is what a training loop calls. It takes microseconds, raises nothing and waits for nobody.
"""

from __future__ import annotations

import atexit
import logging
import os
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from prometheus_client import Metric

from training_exporter import journal, ports
from training_exporter._version import __version__
from training_exporter.events import FINAL_STATES, Event, RunEnded, RunStarted
from training_exporter.families import MONITOR_FAMILIES, RUN_FAMILIES, collect
from training_exporter.gpu import GpuCollector, open_gpu_collector
from training_exporter.history import restored
from training_exporter.profile import Profile
from training_exporter.profile import load as load_profile
from training_exporter.sinks.collectors import Collect
from training_exporter.sinks.endpoint import Endpoint
from training_exporter.sinks.server import MetricsServer
from training_exporter.state import RunState
from training_exporter.web.options import ServeOptions

log = logging.getLogger(__name__)

#: Called with each event after the state has taken it. An error is logged once and counted, never passed on.
Sink = Callable[[Event, RunState], None]


def run_name(output_dir: str | os.PathLike[str] | None, now: float | None = None) -> str:
    """A name that no other run has: the output directory's and the time of the start (UTC)."""
    stem = re.sub(r"\s+", "-", Path(output_dir).resolve().name) if output_dir else "run"
    return f"{stem or 'run'}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime(now))}"


class Monitor:
    """Watches one run.

    `run` is the label that all its series carry. With `output_dir` every event goes to `<output_dir>/journal.jsonl`.
    `port` None serves on the usual port or the next free one, a number demands that port (PortTaken when it is not to
    be had), 0 takes any; `serve=False` serves none. `targets_dir` (or TRAINING_EXPORTER_TARGETS_DIR) announces the
    address to Prometheus. `web_config` (or TRAINING_EXPORTER_WEB_CONFIG) is a file with TLS and passwords, as
    Prometheus' exporters have it (WebConfigError when it is none). `linger_seconds` bounds how long `close` waits for
    the last scrapes. `profile` is what this run is expected to look like, or a YAML file of it (ProfileError when it is
    none); default: the guide's numbers.
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
        self.run = run or run_name(output_dir)
        if profile is not None and not isinstance(profile, Profile):
            profile = load_profile(Path(profile))
        self.state = RunState(profile)
        self.errors: Counter[str] = Counter()
        self.linger_seconds = linger_seconds
        self.gpu: GpuCollector | None = None
        self._lock = threading.Lock()
        self._sinks: list[tuple[str, Sink]] = []
        self._closed = False
        self._journal: journal.JournalWriter | None = None
        self._endpoint: Endpoint | None = None

        sources: list[tuple[str, Collect]] = [("run", self._collect_run), ("exporter", self._collect_exporter)]
        if gpu:
            with self.guard("gpu"):
                self.gpu = open_gpu_collector()
                if self.gpu is not None:
                    sources.append(("gpu", self.gpu))
        if serve:
            title = f"training-exporter {__version__}: run {self.run}"
            options = ServeOptions(host, port, web_config, targets_dir)
            self._endpoint = Endpoint(sources, lambda: title, options, ports.RUN_METRICS)
            with self.guard("targets"):
                self._endpoint.announce(self.run)
        if output_dir is not None:
            with self.guard("journal"):
                path = Path(output_dir) / journal.JOURNAL_NAME
                journal.make_room(path, self.run)
                self._journal = journal.JournalWriter(path)
        atexit.register(self.close)

    @property
    def url(self) -> str | None:
        """Address of the metrics page, None when none is served."""
        return self._endpoint.url if self._endpoint else None

    @property
    def server(self) -> MetricsServer | None:
        """What serves the metrics page, None when none is served."""
        return self._endpoint.server if self._endpoint else None

    @property
    def ended(self) -> bool:
        return self.state.state in FINAL_STATES

    def add_sink(self, sink: Sink, name: str | None = None) -> None:
        """Have `sink` called with every event from now on, on the thread that emits it."""
        self._sinks.append((name or str(getattr(sink, "__name__", type(sink).__name__)), sink))

    def emit(self, event: Event) -> None:
        """Take an event. Never raises, never waits for a disk, a network or a device.

        But for the first event of a process that takes up a run: its past is read from its journal.
        """
        if isinstance(event, RunStarted):
            with self.guard("history"):
                self._take_up(event)
        with self.guard("state"), self._lock:
            self.state.apply(event)
        if self._journal is not None:
            self._journal.put(event)
        for name, sink in self._sinks:
            with self.guard(name):
                sink(event, self.state)

    def end(self, state: str, reason: str = "") -> None:
        """Say how the run ended; the first word counts."""
        if not self.ended:
            self.emit(RunEnded(time=time.time(), state=state, reason=reason))

    def guard(self, name: str) -> Guard:
        """A context in which no error passes: it is logged the first time and counted under `name`."""
        return Guard(self, name)

    def close(self) -> None:
        """End in good order: the journal is on disk and Prometheus has had the final state, then the server stops.

        Waits until the page was scraped twice after the end, but no longer than the scrapes so far let expect and at
        most `linger_seconds`; not at all when nobody scrapes. Safe to call more than once; also called when the
        interpreter exits.
        """
        if self._closed:
            return
        self._closed = True
        atexit.unregister(self.close)
        if self.state.run is not None:
            self.end("failed", "the training loop was left before its end")
        if self._journal is not None:
            self._journal.close()
        if self._endpoint is not None:
            if self.ended:
                self._endpoint.linger(self.run, self.linger_seconds)
            with self.guard("server"):
                self._endpoint.close()

    def _take_up(self, event: RunStarted) -> None:
        """The state as it was at the step at which the run goes on: its counters go on, and what is made again counts
        once."""
        if event.step == 0 and self.state.run is None:
            return
        state = RunState(self.state.profile)
        if self._journal is not None:
            self._journal.flush()
            starts = [each.step for each in journal.starts(self._journal.path)]
            if starts:
                state = restored(journal.read(self._journal.path), [*starts, event.step], state.profile)
        elif event.step > 0:
            # Nobody knows what of the past is made again.
            return
        with self._lock:
            self.state = state

    def _collect_run(self) -> Iterator[Metric]:
        with self._lock:
            metrics = list(collect(RUN_FAMILIES, self.state, {"run": self.run}))
        return iter(metrics)

    def _collect_exporter(self) -> Iterator[Metric]:
        return collect(MONITOR_FAMILIES, self, {})

    @property
    def dropped_events(self) -> int:
        """Events that could not be written to the journal."""
        return self._journal.dropped if self._journal else 0


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
        errors = self._monitor.errors
        errors[self._name] += 1
        if errors[self._name] == 1:
            log.warning("monitoring: %s failed; the training goes on", self._name, exc_info=error)
        return True

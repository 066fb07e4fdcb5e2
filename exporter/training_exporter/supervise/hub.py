"""Where the monitors below a supervisor report, and what a scrape sees of their runs."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from prometheus_client import Metric

from training_exporter.events import PhaseChanged
from training_exporter.families import MONITOR_FAMILIES, collect
from training_exporter.supervise import protocol
from training_exporter.supervise.protocol import Figures, Hello, ProtocolError, Welcome
from training_exporter.supervise.watched import WatchedRun

log = logging.getLogger(__name__)

#: A command that has told of no run by then is taken for one that will not.
QUIET_SECONDS = 300.0

#: A process below the command may be gone for so long before its run counts as ended by that: if the command ends too,
#: its exit status says more.
GONE_SECONDS = 2.0

#: Scrapes after which a run that has ended makes room for the next one of the same command.
SCRAPES_OF_THE_PAST = 3

#: Runs that have ended and that nobody has scraped, at most.
MOST_OF_THE_PAST = 20


class Hub:
    """The runs of one command. Thread-safe.

    `run` is what the command is called as long as no monitor in it has spoken; `named`: a person has given it, so that
    it goes before what the monitor calls its run. `path` is the socket's, None: no monitor can report.
    """

    def __init__(self, path: Path | None, run: str, *, named: bool) -> None:
        self._path, self._run, self._named = path, run, named
        self._url = ""
        self._lock = threading.Lock()
        self._command = WatchedRun(run, time.time())
        self._command_shown = named
        self._since = time.monotonic()
        self._runs: list[WatchedRun] = []
        self._scrapes: Counter[int] = Counter()
        self._past_errors: Counter[str] = Counter()
        self._past_drops = 0
        self._listener: socket.socket | None = None

    def open(self, url: str) -> None:
        """Listen to monitors from now on, who are told `url`. Raises OSError."""
        self._url = url
        if self._path is not None:
            self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self._listener.bind(str(self._path))
            self._listener.listen(64)
            threading.Thread(target=self._accept, args=(self._listener,), name="supervisor", daemon=True).start()

    def label(self) -> str | None:
        """What the command's run is called, None as long as that is not known."""
        with self._lock:
            if self._runs:
                return self._runs[-1].run
            return self._command.run if self._command_shown else None

    @property
    def current(self) -> WatchedRun:
        """The latest run; the command itself as long as there is none."""
        with self._lock:
            return self._runs[-1] if self._runs else self._command

    def tick(self) -> None:
        """To be called every second or so: notes what only time tells."""
        now = time.monotonic()
        with self._lock:
            if not self._runs and not self._command.ended and now - self._since > QUIET_SECONDS:
                self._command_shown = True
                if self._command.state.state == "starting":
                    self._command.state.apply(PhaseChanged(time=time.time(), state="training"))
            runs = [run for run in self._runs if run.begun and not run.ended]
        for run in runs:
            if run.alive:
                run.gone_since = None
            elif run.gone_since is None:
                run.gone_since = now
            elif now - run.gone_since > GONE_SECONDS:
                self._end(
                    run, "failed", "its process is gone without a word, while the command that started it goes on"
                )

    def command_ended(self, state: str, reason: str, status: int) -> None:
        """The command is over; `state` and `reason` are what is to be said of a run that has not said it itself."""
        self._hear_out()
        with self._lock:
            self._command_shown = self._command_shown or not self._runs
            runs = list(self._runs or [self._command])
        for run in runs:
            if not run.alive:  # Else it outlives its command, and will serve itself.
                self._end(run, state, reason)
        latest = runs[-1]
        if state != "failed" or not latest.ended or status == 0:
            return
        if latest.state.state == "completed":
            with self._lock:
                event = latest.end("failed", f"{reason}, after the training had completed")
            latest.write(event)
        elif latest.state.state == "failed":
            with self._lock:
                latest.add_to_reason(f"exit status {status}")

    def _end(self, run: WatchedRun, state: str, reason: str) -> None:
        """End a run that has not said how it ended; its own last word counts."""
        own = run.own_end()
        with self._lock:
            if run.ended:
                return
            if own is not None:
                run.state.apply(own)
                return
            event = run.end(state, reason)
        run.write(event)

    def _hear_out(self, seconds: float = 2.0) -> None:
        """Read what the monitors have said before they ended."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            with self._lock:
                if not any(run.connected and not run.alive for run in self._runs):
                    return
            time.sleep(0.02)

    # -- what a scrape sees -------------------------------------------------------------------------------------------

    def collect(self) -> Iterator[Metric]:
        """The families of all runs, each once."""
        merged: dict[str, Metric] = {}
        with self._lock:
            self._forget()
            for run, shown in self._visible():
                for metric in run.collect(shown=shown):
                    known = merged.setdefault(metric.name, metric)
                    if known is not metric:
                        known.samples.extend(metric.samples)
        return iter(merged.values())

    def collect_exporter(self) -> Iterator[Metric]:
        """What the exporter says about itself."""
        return collect(MONITOR_FAMILIES, self, {})

    @property
    def errors(self) -> Mapping[str, int]:
        with self._lock:
            total = Counter(self._past_errors)
            for run in self._runs:
                total.update(run.figures.errors)
                if run.bad_lines:
                    total["supervisor"] += run.bad_lines
            return total

    @property
    def dropped_events(self) -> int:
        with self._lock:
            return self._past_drops + sum(run.figures.dropped_events for run in self._runs)

    @property
    def waiting_events(self) -> int:
        with self._lock:
            return sum(run.figures.waiting_events for run in self._runs)

    def _visible(self) -> Iterator[tuple[WatchedRun, bool]]:
        names = {run.run for run in self._runs}
        if self._command_shown and self._command.run not in names:
            yield self._command, not self._runs
        yield from ((run, True) for run in self._runs)

    def _forget(self) -> None:
        """Ended runs have been seen, or there are too many of them."""
        past = [run for run in self._runs[:-1] if run.ended]
        self._scrapes.update(id(run) for run in past)
        for run in past:
            if self._scrapes[id(run)] > SCRAPES_OF_THE_PAST or len(past) > MOST_OF_THE_PAST:
                self._remove(run)
                past = past[1:]

    def _remove(self, run: WatchedRun) -> None:
        self._runs.remove(run)
        self._scrapes.pop(id(run), None)
        self._past_errors.update(run.figures.errors)
        self._past_drops += run.figures.dropped_events

    # -- the monitors -------------------------------------------------------------------------------------------------

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._converse, args=(connection,), name="supervisor", daemon=True).start()

    def _converse(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as lines:
            run = None
            try:
                connection.sendall(protocol.line(self._welcome()))
                run = self._begin(protocol.parse(lines.readline(), Hello))
                for line in lines:
                    self._take(run, line)
            except (OSError, ProtocolError) as error:
                log.debug("a monitor's line broke: %s", error)
            finally:
                if run is not None:
                    with self._lock:
                        run.connected = False

    def _take(self, run: WatchedRun, line: bytes) -> None:
        said = run.read(line)
        if said is None:
            return
        if isinstance(said, Figures):
            run.figures = said
            return
        # Of a run that is taken up the past is read, which may take a while: without the lock.
        state = run.before(said)
        with self._lock:
            run.state = state
            state.apply(said)

    def _welcome(self) -> Welcome:
        """A name that a person gave goes to the first run, and to the next that tries what that one did not end."""
        with self._lock:
            before = [run for run in self._runs if run.run == self._run]
            free = all(not run.alive and run.state.state != "completed" for run in before)
            first = not self._runs or bool(before)
            return Welcome(self._url, self._run if self._named and free and first else None)

    def _begin(self, hello: Hello) -> WatchedRun:
        run = WatchedRun(hello.run, self._command.state.start_time or time.time(), hello)
        with self._lock:
            for before in [each for each in self._runs if each.run == hello.run]:
                self._remove(before)
            self._runs.append(run)
        return run

    def close(self) -> None:
        """Monitors that are still there serve themselves from now on."""
        if self._listener is not None:
            # The thread that waits in accept wakes up by a shutdown only.
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()

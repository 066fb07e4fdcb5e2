"""One command from its start to its exit status, watched and shown."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from training_exporter import ports
from training_exporter._version import __version__
from training_exporter.gpu import open_gpu_collector
from training_exporter.sinks.collectors import Collect
from training_exporter.sinks.endpoint import Endpoint
from training_exporter.supervise import protocol
from training_exporter.supervise.child import Child, check
from training_exporter.supervise.ending import OutOfMemoryKills, ending_of, exit_status
from training_exporter.supervise.hub import Hub
from training_exporter.supervise.tree import ProcessTree
from training_exporter.web.options import ServeOptions

log = logging.getLogger(__name__)

#: How often is looked at what only time tells.
TICK_SECONDS = 0.5


def supervise(
    command: Sequence[str],
    *,
    run: str,
    named: bool,
    options: ServeOptions,
    gpu: bool = True,
    linger_seconds: float = 30.0,
) -> int:
    """Run `command` and show its run; returns its exit status as a shell gives it.

    `named` says that a person gave the name `run`. Raises CommandError, PortTaken and WebConfigError, and then nothing
    was started. To be called by the main thread, before there are others.
    """
    check(command)
    child = Child()
    try:
        with _socket_path() as path:
            return _Supervision(child, path, run, named, linger_seconds).run(command, options, gpu)
    finally:
        child.close()


class _Supervision:
    def __init__(self, child: Child, path: Path | None, run: str, named: bool, linger_seconds: float) -> None:
        self._child, self._path, self._name, self._named = child, path, run, named
        self._linger_seconds = linger_seconds
        self._announced: str | None = None

    def run(self, command: Sequence[str], options: ServeOptions, gpu: bool) -> int:
        child = self._child
        hub = Hub(self._path, self._name, named=self._named)
        gpus = open_gpu_collector() if gpu else None
        tree = ProcessTree(hub.label, child.own, gpus.reader.read if gpus is not None else None)
        sources: list[tuple[str, Collect]] = [
            ("run", hub.collect),
            ("process", tree),
            ("exporter", hub.collect_exporter),
        ]
        if gpus is not None:
            sources.append(("gpu", gpus))
        endpoint = Endpoint(
            sources, lambda: f"training-exporter {__version__}: run {hub.current.run}", options, ports.RUN_METRICS
        )
        try:
            try:
                hub.open(endpoint.url)
            except OSError as error:
                log.warning(
                    "%s: no socket (%s): a training in the command serves its metrics itself", self._path, error
                )
                self._path = None
            self._announce(endpoint, self._name)
            environment = dict(os.environ)
            if self._path is not None:
                environment[protocol.SOCKET_VARIABLE] = str(self._path)
            kills = OutOfMemoryKills()
            child.start(command, environment)
            _let_go_of_streams()
            tree.started(time.time())
            print(f"training-exporter: the metrics are at {endpoint.url}", file=sys.stderr, flush=True)
            while not child.wait(TICK_SECONDS, lambda _: None):
                with _no_harm():
                    hub.tick()
                    self._announce(endpoint, hub.current.run)
            assert child.returncode is not None
            status = exit_status(child.returncode)
            with _no_harm():
                ending = ending_of(child.returncode, child.asked, kills.since(), begun=hub.current.begun)
                # In this order: no page has an exit status beside a run that is said to train.
                hub.command_ended(ending.state, ending.reason, status)
                tree.ended(status)
                self._linger(endpoint, hub)
            return status
        finally:
            hub.close()
            endpoint.close()

    def _announce(self, endpoint: Endpoint, name: str) -> None:
        """Under the run's name, so that a run that is taken up again replaces what an earlier process left."""
        if name == self._announced:
            return
        self._announced = name
        try:
            endpoint.announce(name)
        except OSError as error:
            log.warning("%s: cannot announce the address: %s", error.filename, error.strerror)

    def _linger(self, endpoint: Endpoint, hub: Hub) -> None:
        """Until the end was scraped, or somebody asks for the end of that, too."""
        leave, done = threading.Event(), threading.Event()

        def linger() -> None:
            endpoint.linger(hub.current.run, self._linger_seconds, first=True)
            done.set()

        threading.Thread(target=linger, name="linger", daemon=True).start()
        while not done.is_set() and not leave.is_set():
            self._child.wait(0.1, lambda _: leave.set())


def _let_go_of_streams() -> None:
    """Whoever reads the command's output, or feeds its input, waits for the command alone."""
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(nothing, 1)
    os.close(nothing)


@contextlib.contextmanager
def _no_harm() -> Iterator[None]:
    """An error of ours must cost neither the training nor its exit status."""
    try:
        yield
    except Exception:
        log.warning("monitoring failed; the command goes on", exc_info=True)


@contextlib.contextmanager
def _socket_path() -> Iterator[Path | None]:
    """A place for the socket that only this user can reach; None where there is none."""
    try:
        folder = tempfile.mkdtemp(prefix="training-exporter-")
    except OSError as error:
        log.warning("no place for temporary files (%s): a training in the command serves its metrics itself", error)
        yield None
        return
    try:
        path = Path(folder, "supervisor")
        if len(os.fsencode(path)) > 100:
            log.warning("%s is too long for a socket's path: a training in the command serves its metrics itself", path)
        yield path if len(os.fsencode(path)) <= 100 else None
    finally:
        shutil.rmtree(folder, ignore_errors=True)

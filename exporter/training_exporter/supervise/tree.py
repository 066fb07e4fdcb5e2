"""The processes of a supervised command: the command and all below it, read from the kernel at a scrape."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import psutil
from prometheus_client import Metric

from training_exporter.families import collect
from training_exporter.gpu.model import GpuSample, GpuUnavailable
from training_exporter.labels import run_label
from training_exporter.supervise.families import PROCESS_FAMILIES

#: Readings younger than this serve again: a walk through all processes of a machine takes milliseconds.
CACHE_SECONDS = 0.5


@dataclass(frozen=True)
class ProcessFigures:
    """Figures of a command. Memory in bytes, times in seconds; None: not known (any more)."""

    started: float | None = None
    processes: int = 0
    resident_memory: int | None = None
    cpu_seconds: float | None = None
    #: By GPU: (index, uuid).
    gpu_memory: Mapping[tuple[str, ...], float] = field(default_factory=dict)
    exit_status: int | None = None


class ProcessTree:
    """A source of metric families (`sinks.collectors.Collect`). Thread-safe.

    `run` is asked for the label at each scrape. Everything below this process belongs to the command, but for the
    processes `own`. `gpus` gives the readings of the machine's GPUs, None where there are none.
    """

    def __init__(
        self,
        run: Callable[[], str | None],
        own: Collection[int] = (),
        gpus: Callable[[], Sequence[GpuSample]] | None = None,
    ) -> None:
        self._run, self._own, self._gpus = run, frozenset(own), gpus
        self._lock = threading.Lock()
        self._figures = ProcessFigures()
        self._read_at = -CACHE_SECONDS

    def started(self, at: float) -> None:
        """The command was started, at Unix seconds."""
        with self._lock:
            self._figures = replace(self._figures, started=at)

    def ended(self, exit_status: int) -> None:
        """The command is over; its status as a shell gives it."""
        with self._lock:
            self._figures = replace(self._figures, exit_status=exit_status)
            self._read_at = -CACHE_SECONDS

    def __call__(self) -> Iterable[Metric]:
        run = self._run()
        return collect(PROCESS_FAMILIES, self.read(), {"run": run_label(run)}) if run is not None else ()

    def read(self) -> ProcessFigures:
        """The figures now, or those of half a second ago."""
        with self._lock:
            if self._figures.started is not None and time.monotonic() >= self._read_at + CACHE_SECONDS:
                self._figures = self._read()
                self._read_at = time.monotonic()
            return self._figures

    def _read(self) -> ProcessFigures:
        pids, memory, cpu = set(), 0, 0.0
        for process in psutil.Process(os.getpid()).children(recursive=True):
            if process.pid in self._own:
                continue
            with contextlib.suppress(psutil.Error), process.oneshot():
                times = process.cpu_times()
                # The time of children that have ended and were waited for is their parent's.
                cpu += times.user + times.system + times.children_user + times.children_system
                if process.status() != psutil.STATUS_ZOMBIE:
                    memory += process.memory_info().rss
                    pids.add(process.pid)
        return replace(
            self._figures,
            processes=len(pids),
            resident_memory=memory if pids else None,
            # A counter: the time of a process that nobody of the command has waited for is not forgotten.
            cpu_seconds=max(cpu, self._figures.cpu_seconds or 0.0),
            gpu_memory=self._gpu_memory(pids),
        )

    def _gpu_memory(self, pids: Collection[int]) -> dict[tuple[str, ...], float]:
        held: dict[tuple[str, ...], float] = {}
        with contextlib.suppress(GpuUnavailable):
            for sample in self._gpus() if self._gpus is not None else ():
                for process in sample.processes:
                    if process.pid in pids:
                        key = (str(sample.index), sample.uuid)
                        held[key] = held.get(key, 0.0) + process.memory_used
        return held

"""A reader that never makes a scrape wait for a hung driver, and never asks the driver more than once a second."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from training_exporter.gpu import raw
from training_exporter.gpu.containers import ContainerNames
from training_exporter.gpu.model import GpuReader, GpuSample, GpuUnavailable
from training_exporter.gpu.nvml import NvmlReader
from training_exporter.gpu.raw import NvmlError, Pynvml, RawNvml

log = logging.getLogger(__name__)

T = TypeVar("T")


class _Call(Generic[T]):
    """A function that runs once in a thread of its own: a thread stuck in the driver cannot be stopped, only left."""

    def __init__(self, function: Callable[[], T]) -> None:
        self.started = time.monotonic()
        self.ended: float | None = None
        self._function = function
        self._done = threading.Event()
        self._value: T
        self._error: BaseException | None = None
        # A daemon, so that a stuck one does not keep the process from ending.
        threading.Thread(target=self._run, name="gpu-reader", daemon=True).start()

    def _run(self) -> None:
        try:
            self._value = self._function()
        except BaseException as error:  # handed on to whoever waits
            self._error = error
        self.ended = time.monotonic()
        self._done.set()

    def wait(self, until: float) -> bool:
        """Whether the function has returned by `until` (time.monotonic)."""
        return self._done.wait(max(0.0, until - time.monotonic()))

    def result(self) -> T:
        if self._error is not None:
            raise self._error
        return self._value


class BoundedReader:
    """Reads another GpuReader in a thread. Thread-safe.

    timeout_seconds:  a reading that takes longer is given up: GpuUnavailable, now and at once for every further call
                      until the driver answers again; what it then says is old and is thrown away
    cache_seconds:    readings (and failures) younger than this serve again, so that scrapes cannot load the driver
    """

    def __init__(
        self,
        reader: GpuReader,
        *,
        timeout_seconds: float = 2.0,
        cache_seconds: float = 1.0,
        opening: _Call[int] | None = None,  # the reader is still being opened: not to be read before that is over
    ) -> None:
        self._reader = reader
        self._opening = opening
        self._timeout = timeout_seconds
        self._cache = cache_seconds
        self._lock = threading.Lock()
        self._call: _Call[Sequence[GpuSample]] | None = None
        self._closed = False
        self._late = False

    def read(self) -> Sequence[GpuSample]:
        """See GpuReader.read. Returns or raises within timeout_seconds."""
        with self._lock:
            if self._closed:
                raise GpuUnavailable("the GPU reader is closed")
            if self._opening is not None and self._opening.ended is None:
                raise GpuUnavailable("the NVIDIA driver has not started yet")
            call = self._call
            # At most one thread at a time: as long as one is stuck in the driver, no other is sent after it.
            if call is None or (call.ended is not None and not self._serves(call)):
                call = self._call = _Call(self._reader.read)
        if not call.wait(call.started + self._timeout) or self._is_late(call):
            self._say(late=True)
            raise GpuUnavailable(f"the NVIDIA driver did not answer within {self._timeout:g} s")
        self._say(late=False)
        return call.result()

    def close(self) -> None:
        """Closes the reader behind, unless it is stuck."""
        with self._lock:
            self._closed = True
            call = self._call
        idle = self._opening is None or self._opening.ended is not None
        if idle and (call is None or call.wait(time.monotonic() + self._timeout)):
            _Call(self._reader.close).wait(time.monotonic() + self._timeout)

    def _is_late(self, call: _Call[Sequence[GpuSample]]) -> bool:
        return call.ended is not None and call.ended > call.started + self._timeout

    def _serves(self, call: _Call[Sequence[GpuSample]]) -> bool:
        return call.ended is not None and not self._is_late(call) and time.monotonic() < call.ended + self._cache

    def _say(self, *, late: bool) -> None:
        if late != self._late:
            self._late = late
            if late:
                log.warning("the NVIDIA driver did not answer within %g s; no GPU figures until it does", self._timeout)
            else:
                log.info("the NVIDIA driver answers again")


def open_gpu_reader(
    *,
    nvml: RawNvml | None = None,
    processes: bool = True,
    containers: ContainerNames | None = None,
    timeout_seconds: float = 2.0,
    open_seconds: float = 5.0,
) -> BoundedReader | None:
    """The reader of this machine's GPUs; None, with one log message, when it has no NVIDIA driver or no GPU.

    nvml:             what to read instead of the real driver (a `replay.ReplayNvml`)
    processes:        also read the processes that hold memory
    containers:       names the containers of these processes
    timeout_seconds:  see BoundedReader
    open_seconds:     how long to wait for the driver to start (seconds, where nothing keeps it loaded)

    Never raises. A driver that is there but fails or hangs gives a reader: it may work at a later reading.
    """
    nvml = nvml if nvml is not None else Pynvml()
    reader = NvmlReader(nvml, processes=processes, container_of=containers.name if containers is not None else None)
    call = _Call(reader.open)
    try:
        if not call.wait(time.monotonic() + open_seconds):
            log.warning("the NVIDIA driver has not started within %g s; GPU figures begin when it has", open_seconds)
        elif call.result() == 0:
            log.info("no GPU figures: the NVIDIA driver reports no GPU")
            return None
    except NvmlError as error:
        if error.code in (raw.LIBRARY_NOT_FOUND, raw.DRIVER_NOT_LOADED):
            log.info("no GPU figures: %s", error)
            return None
        log.warning("no GPU figures yet, will try again: %s", error)
    except Exception:
        log.exception("no GPU figures: NVML could not be opened")
        return None
    return BoundedReader(reader, timeout_seconds=timeout_seconds, opening=call)

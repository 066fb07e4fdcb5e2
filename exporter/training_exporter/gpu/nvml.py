"""All GPUs of the machine, through NVML: sessions, lost devices, and one message per change."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable

from training_exporter.gpu import decode, raw
from training_exporter.gpu.model import GpuProcess, GpuSample, GpuUnavailable
from training_exporter.gpu.raw import NvmlError, RawNvml

log = logging.getLogger(__name__)

#: The session itself is gone: driver unloaded or reloaded.
_SESSION_GONE = frozenset({raw.UNINITIALIZED, raw.DRIVER_NOT_LOADED, raw.LIB_RM_VERSION_MISMATCH})
#: This device is gone, whatever the other calls still say.
_DEVICE_GONE = frozenset({raw.GPU_IS_LOST, raw.RESET_REQUIRED, raw.GPU_NOT_FOUND})
#: Every device answers these. Unknown Error here means a broken session (in a container: its device files were
#: taken away, e.g. by `systemctl daemon-reload`); elsewhere some cards say it for what they do not have.
_VITAL = frozenset({"uuid", "memory"})

_MAX_RETRY_SECONDS = 30.0


class _DeviceGone(Exception):
    pass


class NvmlReader:
    """A GpuReader on a raw NVML. Not thread-safe; may block as long as the driver does: see `bounded.py`.

    processes:       also read who holds the memory
    container_of:    pid -> name of its container, "" if none
    retry_seconds:   time between two attempts to initialise NVML again; doubles up to 30 s while it is of no use
    """

    def __init__(
        self,
        nvml: RawNvml,
        *,
        processes: bool = True,
        container_of: Callable[[int], str] | None = None,
        retry_seconds: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._nvml = nvml
        self._processes = processes
        self._container_of = container_of
        self._retry_seconds = retry_seconds
        self._clock = clock
        self._initialised = False
        self._suspect = False  # a device says what it says when the session broke
        self._delay = retry_seconds
        self._retry_at = float("-inf")
        self._mig_logged: set[str] = set()
        self._trouble: dict[int | None, str] = {}  # device, or None for the session -> what was last logged

    def open(self) -> int:
        """Starts the NVML session if there is none, and counts devices. Raises NvmlError."""
        if not self._initialised:
            self._retry_at = self._clock() + self._delay
            self._delay = min(2 * self._delay, _MAX_RETRY_SECONDS)
            self._nvml.init()
            self._initialised = True
        return decode.integer(self._nvml.device_count(), 0, decode.MAX_DEVICES) or 0

    def read(self) -> list[GpuSample]:
        """See GpuReader.read."""
        retry = self._clock() >= self._retry_at
        if self._suspect and retry:
            self._end_session()
        if not self._initialised and not retry:
            raise GpuUnavailable(self._trouble.get(None, "NVML is not initialised"))
        try:
            count = self.open()
            driver_version = decode.text(self._tolerant(self._nvml.driver_version))
            samples = [s for i in range(count) if (s := self._device(i, driver_version)) is not None]
        except NvmlError as error:
            self._end_session()
            self._changed(None, f"no GPU figures: {error}")
            raise GpuUnavailable(str(error)) from None
        self._changed(None, None)
        if not samples:
            reasons = "; ".join(self._trouble[i] for i in range(count) if i in self._trouble)
            raise GpuUnavailable(reasons or "the NVIDIA driver reports no GPU")
        if not self._suspect:
            self._delay = self._retry_seconds
        return samples

    def close(self) -> None:
        self._end_session()

    def _device(self, index: int, driver_version: str | None) -> GpuSample | None:
        try:
            fields = {f: self._field(index, f) for f in raw.DEVICE_FIELDS if f != "processes" or self._processes}
        except _DeviceGone as error:
            self._changed(index, f"GPU {index} gives no figures: {error}")
            return None
        uuid = decode.text(fields["uuid"])
        if uuid is None:  # without it, figures could not be told from another card's
            self._changed(index, f"GPU {index} gives no figures: it has no UUID")
            return None
        self._changed(index, None)
        memory = decode.memory(fields["memory"])
        mig = decode.mig_mode(fields["mig_mode"])
        if mig and uuid not in self._mig_logged:
            self._mig_logged.add(uuid)
            log.info("GPU %d (%s) is split by MIG: figures are the whole card's, not an instance's", index, uuid)
        return GpuSample(
            index=index,
            uuid=uuid,
            name=decode.text(fields["name"]),
            driver_version=driver_version,
            memory_used=memory.used,
            memory_reserved=memory.reserved,
            memory_total=memory.total,
            utilization=decode.utilization(fields["utilization"]),
            temperature=decode.temperature(fields["temperature"]),
            power=decode.power(fields["power_usage"]),
            power_limit=decode.power_limit(fields["power_limit"]),
            energy=decode.energy(fields["energy"]),
            throttle_reasons=decode.throttle_reasons(fields["clock_event_reasons"]),
            mig_enabled=mig,
            processes=tuple(self._process(pid, used) for pid, used in decode.processes(fields.get("processes"))),
        )

    def _field(self, index: int, field: str) -> object:
        """One raw value, None if the device does not tell it. Raises NvmlError (session gone) and _DeviceGone."""
        try:
            return self._nvml.device(index, field)
        except NvmlError as error:
            if error.code in _SESSION_GONE:
                raise
            if error.code == raw.UNKNOWN and field in _VITAL:
                self._suspect = True  # a later reading starts a new session; other cards may still answer in this one
                raise _DeviceGone(str(error)) from None
            if error.code in _DEVICE_GONE:
                raise _DeviceGone(str(error)) from None
            log.debug("GPU %d does not tell its %s: %s", index, field, error)
            return None

    def _process(self, pid: int, used: int) -> GpuProcess:
        name = decode.process_name(self._tolerant(lambda: self._nvml.process_name(pid)))
        return GpuProcess(pid, used, name or "", self._container_of(pid) if self._container_of is not None else "")

    def _tolerant(self, call: Callable[[], object]) -> object:
        try:
            return call()
        except NvmlError as error:
            if error.code in _SESSION_GONE:
                raise
            return None

    def _end_session(self) -> None:
        if self._initialised:
            self._initialised = self._suspect = False
            with contextlib.suppress(NvmlError):  # a session that is gone cannot be closed
                self._nvml.shutdown()

    def _changed(self, device: int | None, trouble: str | None) -> None:
        """Logs what is wrong with a device (None: with all) when it begins, changes, or ends; not at every scrape."""
        if trouble is None:
            if self._trouble.pop(device, None) is not None:
                log.info("%s again", "GPUs are read" if device is None else f"GPU {device} is read")
        elif self._trouble.get(device) != trouble:
            self._trouble[device] = trouble
            log.warning("%s; will try again", trouble)

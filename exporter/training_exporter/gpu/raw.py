"""The boundary to NVML: values exactly as the driver gives them, and error codes.

Everything behind this Protocol can be captured to a file and replayed (`replay.py`), nonsense and errors included;
everything in front of it (`decode.py`, `nvml.py`) is the same code for a real driver and for a capture.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

# NVML's return codes (nvml.h, nvmlReturn_t), here so that a capture can be replayed without pynvml.
UNINITIALIZED = 1
NOT_SUPPORTED = 3
DRIVER_NOT_LOADED = 9
LIBRARY_NOT_FOUND = 12
FUNCTION_NOT_FOUND = 13
GPU_IS_LOST = 15
RESET_REQUIRED = 16
LIB_RM_VERSION_MISMATCH = 18
NO_DATA = 21
ARGUMENT_VERSION_MISMATCH = 25
GPU_NOT_FOUND = 28
UNKNOWN = 999

_MESSAGES = {
    UNINITIALIZED: "NVML is not initialised",
    NOT_SUPPORTED: "not supported by this device",
    DRIVER_NOT_LOADED: "the NVIDIA driver is not loaded",
    LIBRARY_NOT_FOUND: "libnvidia-ml.so.1 is not on this machine: no NVIDIA driver",
    FUNCTION_NOT_FOUND: "this driver has no such function",
    GPU_IS_LOST: "the GPU is lost (fallen off the bus)",
    RESET_REQUIRED: "the GPU needs a reset",
    LIB_RM_VERSION_MISMATCH: "NVML and the loaded driver have different versions (driver updated: reload or reboot)",
    NO_DATA: "no data",
    GPU_NOT_FOUND: "GPU not found",
    UNKNOWN: "NVML's Unknown Error",
}


class NvmlError(Exception):
    """An NVML call returned an error code."""

    def __init__(self, code: int) -> None:
        super().__init__(f"{_MESSAGES.get(code, 'NVML error')} (code {code})")
        self.code = code


#: What `device` may be asked, in the order in which a reading asks it.
DEVICE_FIELDS = (
    "uuid",  # str
    "memory",  # {"total", "used", "free"[, "reserved"]}, bytes
    "name",  # str
    "utilization",  # percent
    "temperature",  # degrees Celsius
    "power_usage",  # milliwatts
    "power_limit",  # milliwatts
    "energy",  # millijoules
    "clock_event_reasons",  # bit mask
    "mig_mode",  # 0 or 1
    "processes",  # [[pid, bytes or null], ...]
)


class RawNvml(Protocol):
    """NVML, as far as it is used here. Every method raises NvmlError."""

    def init(self) -> None: ...

    def shutdown(self) -> None: ...

    def driver_version(self) -> object: ...

    def device_count(self) -> object: ...

    def device(self, index: int, field: str) -> object:
        """One of DEVICE_FIELDS of one device."""

    def process_name(self, pid: int) -> object: ...


class Pynvml:
    """The real driver, through nvidia-ml-py. Handles are asked for anew each time: they do not survive a reload."""

    def __init__(self) -> None:
        self._nvml: Any = None  # the module pynvml, imported at init()
        self._fields: dict[str, Callable[[Any], object]] = {}

    def init(self) -> None:
        try:
            import pynvml
        except ImportError:
            raise NvmlError(LIBRARY_NOT_FOUND) from None
        self._nvml = n = pynvml
        self._fields = {
            "uuid": lambda h: n.nvmlDeviceGetUUID(h),
            "memory": self._memory,
            "name": lambda h: n.nvmlDeviceGetName(h),
            "utilization": lambda h: n.nvmlDeviceGetUtilizationRates(h).gpu,
            "temperature": self._temperature,
            "power_usage": lambda h: n.nvmlDeviceGetPowerUsage(h),
            "power_limit": lambda h: n.nvmlDeviceGetEnforcedPowerLimit(h),
            "energy": lambda h: n.nvmlDeviceGetTotalEnergyConsumption(h),
            "clock_event_reasons": self._clock_event_reasons,
            "mig_mode": lambda h: n.nvmlDeviceGetMigMode(h)[0],
            "processes": lambda h: [[p.pid, p.usedGpuMemory] for p in n.nvmlDeviceGetComputeRunningProcesses(h)],
        }
        self._call(n.nvmlInit)

    def shutdown(self) -> None:
        self._call(self._nvml.nvmlShutdown)

    def driver_version(self) -> object:
        return self._call(self._nvml.nvmlSystemGetDriverVersion)

    def device_count(self) -> object:
        return self._call(self._nvml.nvmlDeviceGetCount)

    def device(self, index: int, field: str) -> object:
        return self._call(lambda: self._fields[field](self._nvml.nvmlDeviceGetHandleByIndex(index)))

    def process_name(self, pid: int) -> object:
        try:
            return self._call(lambda: self._nvml.nvmlSystemGetProcessName(pid))
        except NvmlError:
            try:
                return Path(f"/proc/{pid}/comm").read_bytes()
            except OSError:
                raise NvmlError(NO_DATA) from None

    def _call(self, function: Callable[[], object]) -> object:
        try:
            return function()
        except self._nvml.NVMLError as error:
            raise NvmlError(int(error.value)) from None
        except AttributeError:  # an older nvidia-ml-py
            raise NvmlError(FUNCTION_NOT_FOUND) from None
        except ValueError:  # bytes that are no UTF-8, from a process that named itself so
            raise NvmlError(NO_DATA) from None

    def _first(self, *functions: Callable[[], object]) -> object:
        """The first function that driver and library know: new ones first, deprecated ones for older drivers."""
        for function in functions[:-1]:
            try:
                return self._call(function)
            except NvmlError as error:
                if error.code not in (FUNCTION_NOT_FOUND, ARGUMENT_VERSION_MISMATCH):
                    raise
        return functions[-1]()

    def _memory(self, handle: Any) -> object:
        n = self._nvml
        memory: Any = self._first(
            lambda: n.nvmlDeviceGetMemoryInfo(handle, version=n.nvmlMemory_v2),
            lambda: n.nvmlDeviceGetMemoryInfo(handle),
        )
        keys = ("total", "used", "free", "reserved")
        return {key: getattr(memory, key) for key in keys if hasattr(memory, key)}

    def _temperature(self, handle: Any) -> object:
        n = self._nvml
        return self._first(
            lambda: n.nvmlDeviceGetTemperatureV(handle, n.NVML_TEMPERATURE_GPU),
            lambda: n.nvmlDeviceGetTemperature(handle, n.NVML_TEMPERATURE_GPU),
        )

    def _clock_event_reasons(self, handle: Any) -> object:
        n = self._nvml
        return self._first(
            lambda: n.nvmlDeviceGetCurrentClocksEventReasons(handle),
            lambda: n.nvmlDeviceGetCurrentClocksThrottleReasons(handle),
        )

"""The table of GPU metric families; see training_exporter.families for how a table is read."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from training_exporter.families import Family, Reading
from training_exporter.gpu.model import GpuSample

Samples = Sequence[GpuSample]
_DEVICE = ("gpu", "uuid")


def _each(read: Callable[[GpuSample], float | None]) -> Callable[[Samples], Reading]:
    """One value per device that tells it."""
    return lambda samples: {(str(s.index), s.uuid): float(v) for s in samples if (v := read(s)) is not None}


def _info(samples: Samples) -> Reading:
    return {(str(s.index), s.uuid, s.name or "", s.driver_version or ""): 1.0 for s in samples}


def _throttle_reasons(samples: Samples) -> Reading:
    return {
        (str(s.index), s.uuid, reason): float(active)
        for s in samples
        for reason, active in (s.throttle_reasons or {}).items()
    }


def _process_memory(samples: Samples) -> Reading:
    return {
        (str(s.index), s.uuid, str(p.pid), p.name, p.container): float(p.memory_used)
        for s in samples
        for p in s.processes
    }


GPU_FAMILIES: tuple[Family[Samples], ...] = (
    Family(
        "llm_gpu_info",
        "info",
        "The GPU's model and driver; the value is always 1.",
        _info,
        (*_DEVICE, "name", "driver_version"),
    ),
    Family(
        "llm_gpu_memory_used_bytes",
        "gauge",
        "GPU memory allocated by processes.",
        _each(lambda s: s.memory_used),
        _DEVICE,
    ),
    Family(
        "llm_gpu_memory_reserved_bytes",
        "gauge",
        "GPU memory that driver and firmware keep for themselves: part of the total, never of what is used.",
        _each(lambda s: s.memory_reserved),
        _DEVICE,
    ),
    Family(
        "llm_gpu_memory_total_bytes", "gauge", "GPU memory that the card has.", _each(lambda s: s.memory_total), _DEVICE
    ),
    Family(
        "llm_gpu_utilization_ratio",
        "gauge",
        "Share of the driver's last sampling window (1/6 to 1 s) in which a kernel ran, 0 to 1.",
        _each(lambda s: s.utilization),
        _DEVICE,
    ),
    Family(
        "llm_gpu_temperature_celsius",
        "gauge",
        "Temperature of the GPU's core.",
        _each(lambda s: s.temperature),
        _DEVICE,
    ),
    Family("llm_gpu_power_watts", "gauge", "Power that the card draws.", _each(lambda s: s.power), _DEVICE),
    Family("llm_gpu_power_limit_watts", "gauge", "Power limit in force.", _each(lambda s: s.power_limit), _DEVICE),
    Family(
        "llm_gpu_energy_joules_total",
        "counter",
        "Energy used since the driver was loaded.",
        _each(lambda s: s.energy),
        _DEVICE,
    ),
    Family(
        "llm_gpu_throttle_reasons",
        "gauge",
        "1 while this holds the GPU's clocks down, else 0.",
        _throttle_reasons,
        (*_DEVICE, "reason"),
    ),
    Family(
        "llm_gpu_process_memory_bytes",
        "gauge",
        "GPU memory of a process; container is empty outside of one.",
        _process_memory,
        (*_DEVICE, "pid", "process", "container"),
    ),
)

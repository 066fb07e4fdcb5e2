"""What is known of a GPU at one moment, in base units."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from training_exporter.errors import SourceUnavailable


class GpuUnavailable(SourceUnavailable):
    """No GPU could be read just now. The message says why; a later reading may succeed."""


@dataclass(frozen=True, slots=True)
class GpuProcess:
    """A process that holds memory of a GPU.

    `memory_used` is in bytes; `name` and `container` are "" when they are not known (or not in a container).
    """

    pid: int
    memory_used: int
    name: str = ""
    container: str = ""


@dataclass(frozen=True, slots=True)
class GpuSample:
    """One device, read once. A field is None when the device does not tell it or tells nonsense."""

    index: int  # NVML's index: PCI bus order, not CUDA_VISIBLE_DEVICES
    uuid: str  # "GPU-..."
    name: str | None = None
    driver_version: str | None = None
    memory_used: int | None = None  # bytes allocated, without what driver and firmware reserve
    memory_reserved: int | None = None  # bytes
    memory_total: int | None = None  # bytes, the reserved ones included
    utilization: float | None = None  # 0 to 1: share of the driver's last window in which a kernel ran
    temperature: float | None = None  # degrees Celsius
    power: float | None = None  # watts
    power_limit: float | None = None  # watts, the limit in force
    energy: float | None = None  # joules since the driver was loaded
    throttle_reasons: Mapping[str, bool] | None = None  # every known reason -> whether it holds the clocks down now
    mig_enabled: bool | None = None
    processes: tuple[GpuProcess, ...] = field(default=())


class GpuReader(Protocol):
    """Reads all GPUs of the machine."""

    def read(self) -> Sequence[GpuSample]:
        """The GPUs that answered just now, by index.

        Never an earlier reading in place of one that failed.
        Raises GpuUnavailable when none answered (driver gone, read too slow, GPU lost).
        """

    def close(self) -> None:
        """Gives NVML back. `read` must not be called afterwards."""


def find_gpu(samples: Iterable[GpuSample], device: str | int) -> GpuSample | None:
    """The sample of one device: by UUID (with or without "GPU-", as torch spells it), or by NVML index."""
    if isinstance(device, int):
        return next((s for s in samples if s.index == device), None)
    wanted = device.removeprefix("GPU-").lower()
    return next((s for s in samples if s.uuid.removeprefix("GPU-").lower() == wanted), None)

"""GPU figures as metric families, for one scrape; and for whoever prints them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from prometheus_client import Metric

from training_exporter.families import collect
from training_exporter.gpu.bounded import open_gpu_reader
from training_exporter.gpu.families import GPU_FAMILIES
from training_exporter.gpu.model import GpuReader, GpuUnavailable, find_gpu


class GpuCollector:
    """A source of metric families (`sinks.collectors.Collect`). Thread-safe when the reader is."""

    def __init__(self, reader: GpuReader) -> None:
        self.reader = reader

    def __call__(self) -> Iterable[Metric]:
        """The families of one reading. Raises GpuUnavailable: then there are no GPU figures, old ones least of all."""
        return collect(GPU_FAMILIES, self.reader.read(), {})

    def memory(self, device: str | int = 0) -> tuple[int, int] | None:
        """(used, total) bytes of a device now, None when it does not tell. Never raises.

        Costs a reading, at most one a second (milliseconds); a driver that hangs costs its time-out, once.

        `device` is a UUID, as `str(torch.cuda.get_device_properties(i).uuid)` gives it, or an NVML index. Prefer the
        UUID: CUDA counts devices in another order, and only those of CUDA_VISIBLE_DEVICES.
        """
        try:
            sample = find_gpu(self.reader.read(), device)
        except GpuUnavailable:
            return None
        if sample is None or sample.memory_used is None or sample.memory_total is None:
            return None
        return sample.memory_used, sample.memory_total

    def close(self) -> None:
        """Gives NVML back."""
        self.reader.close()


def open_gpu_collector(**options: Any) -> GpuCollector | None:
    """The collector of this machine's GPUs, None (logged once) when it has none. `options`: see `open_gpu_reader`."""
    reader = open_gpu_reader(**options)
    return None if reader is None else GpuCollector(reader)

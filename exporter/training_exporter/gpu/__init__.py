"""Figures of the NVIDIA GPUs of this machine: read through NVML, or replayed from a capture.

    NVML or capture (raw.py, replay.py) -> decode.py -> nvml.py -> bounded.py -> families.py, collector.py -> a scrape

`open_gpu_collector` is all that a training needs; importing this package loads neither pynvml nor docker.
"""

from training_exporter.gpu.bounded import BoundedReader, open_gpu_reader
from training_exporter.gpu.collector import GpuCollector, open_gpu_collector
from training_exporter.gpu.families import GPU_FAMILIES
from training_exporter.gpu.model import GpuProcess, GpuReader, GpuSample, GpuUnavailable, find_gpu

__all__ = [
    "GPU_FAMILIES",
    "BoundedReader",
    "GpuCollector",
    "GpuProcess",
    "GpuReader",
    "GpuSample",
    "GpuUnavailable",
    "find_gpu",
    "open_gpu_collector",
    "open_gpu_reader",
]

"""What the tests of the GPU part share."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from typing import Any

from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from training_exporter.gpu.collector import GpuCollector
from training_exporter.gpu.model import GpuReader
from training_exporter.gpu.nvml import NvmlReader
from training_exporter.gpu.replay import CAPTURES, Capture, Frame, ReplayNvml, load
from training_exporter.sinks.collectors import registry_of

GIB = 2**30


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def shipped(name: str) -> Capture:
    return load(CAPTURES / f"{name}.json")


def still(answers: Mapping[str, Any]) -> Capture:
    """A capture that never changes."""
    return Capture("made by a test", 1.0, (Frame(0.0, dict(answers)),))


def reader_of(capture: Capture, clock: Clock, **options: Any) -> NvmlReader:
    return NvmlReader(ReplayNvml(capture, clock=clock), clock=clock, **options)


def page_of(reader: GpuReader) -> str:
    """The page that a scrape of this reader gets."""
    return generate_latest(registry_of([("gpu", GpuCollector(reader))])).decode()


def values(page: str) -> dict[str, list[tuple[dict[str, str], float]]]:
    """Series of a page by sample name. Raises when the page is not Prometheus' text format."""
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            found.setdefault(sample.name, []).append((dict(sample.labels), sample.value))
    return found


def promtool(page: str) -> str:
    """What `promtool check metrics` complains of; "" when it accepts the page."""
    result = subprocess.run(["promtool", "check", "metrics"], input=page, capture_output=True, text=True, check=False)
    return "" if result.returncode == 0 else result.stdout + result.stderr

"""A driver that hangs must not hang a scrape, nor pile up threads; many scrapes must not load it."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from gpu_helpers import page_of, values

from training_exporter.gpu import open_gpu_reader
from training_exporter.gpu.bounded import BoundedReader
from training_exporter.gpu.model import GpuSample, GpuUnavailable
from training_exporter.gpu.replay import ReplayNvml, find, load


class Driver:
    """A reader that counts, and blocks while `answers` is not set."""

    def __init__(self) -> None:
        self.answers = threading.Event()
        self.answers.set()
        self.reads = 0
        self.closed = False
        self.error: Exception | None = None

    def read(self) -> list[GpuSample]:
        self.reads += 1
        self.answers.wait(30)
        if self.error is not None:
            raise self.error
        return [GpuSample(0, "GPU-a", temperature=float(self.reads))]

    def close(self) -> None:
        self.closed = True


def stuck_threads() -> int:
    return sum(thread.name == "gpu-reader" for thread in threading.enumerate())


@pytest.fixture
def driver():
    driver = Driver()
    yield driver
    driver.answers.set()


def test_many_scrapes_read_the_driver_once_a_second(driver) -> None:
    reader = BoundedReader(driver, cache_seconds=0.5)
    with ThreadPoolExecutor(8) as pool:
        began = time.monotonic()
        temperatures = {s[0].temperature for s in pool.map(lambda _: reader.read(), range(400))}
        took = time.monotonic() - began
    assert driver.reads <= 1 + took / 0.5
    assert temperatures <= set(range(1, driver.reads + 1))
    time.sleep(0.51)
    assert reader.read()[0].temperature == driver.reads
    assert driver.reads >= 2


def test_a_hung_driver_costs_a_scrape_the_time_out_then_nothing_and_never_a_second_thread(driver) -> None:
    reader = BoundedReader(driver, timeout_seconds=0.3, cache_seconds=0.0)
    before = stuck_threads()
    driver.answers.clear()
    began = time.monotonic()
    with pytest.raises(GpuUnavailable, match=r"did not answer within 0\.3 s"):
        reader.read()
    assert 0.25 < time.monotonic() - began < 2
    began = time.monotonic()
    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(lambda _: page_of(reader), range(50)))
    assert time.monotonic() - began < 5
    for page in outcomes:
        assert values(page)["training_exporter_collector_success"] == [({"collector": "gpu"}, 0.0)]
        assert "llm_gpu_" not in page
    assert driver.reads == 1
    assert stuck_threads() - before == 1


def test_after_a_hang_the_late_answer_is_thrown_away_and_a_new_one_is_read(driver, caplog) -> None:
    caplog.set_level("INFO")
    reader = BoundedReader(driver, timeout_seconds=0.2, cache_seconds=60.0)
    driver.answers.clear()
    with pytest.raises(GpuUnavailable):
        reader.read()
    driver.answers.set()
    deadline = time.monotonic() + 10
    while stuck_threads() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert driver.reads == 1
    assert reader.read()[0].temperature == 2.0
    assert [r.levelname for r in caplog.records] == ["WARNING", "INFO"]


def test_a_failure_is_kept_as_long_as_a_reading(driver) -> None:
    driver.error = GpuUnavailable("gone")
    reader = BoundedReader(driver, cache_seconds=60.0)
    for _ in range(5):
        with pytest.raises(GpuUnavailable, match="gone"):
            reader.read()
    assert driver.reads == 1


def test_closing(driver) -> None:
    reader = BoundedReader(driver, timeout_seconds=0.2)
    reader.read()
    reader.close()
    assert driver.closed
    with pytest.raises(GpuUnavailable, match="closed"):
        reader.read()


def test_closing_leaves_a_stuck_driver_alone(driver) -> None:
    reader = BoundedReader(driver, timeout_seconds=0.2)
    driver.answers.clear()
    with pytest.raises(GpuUnavailable):
        reader.read()
    began = time.monotonic()
    reader.close()
    assert time.monotonic() - began < 2
    assert not driver.closed


def test_a_driver_that_hangs_at_the_start_gives_a_reader_that_works_later() -> None:
    started = threading.Event()

    class Slow(ReplayNvml):
        def init(self) -> None:
            started.wait(30)
            super().init()

    reader = open_gpu_reader(nvml=Slow(load(find("healthy"))), open_seconds=0.1)
    assert reader is not None
    with pytest.raises(GpuUnavailable, match="not started yet"):
        reader.read()
    started.set()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            assert reader.read()[0].memory_total == 16 * 2**30
            return
        except GpuUnavailable:
            time.sleep(0.02)
    pytest.fail("the reader never worked")

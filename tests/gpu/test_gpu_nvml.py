"""The reader over time: faults, lost cards, a reloaded driver; and this machine, as it is."""

from __future__ import annotations

import itertools
import logging
import subprocess
import sys

import pytest
from gpu_helpers import GIB, Clock, page_of, promtool, reader_of, shipped, still, values

from training_exporter.gpu import decode, open_gpu_collector, open_gpu_reader
from training_exporter.gpu.model import GpuSample, GpuUnavailable, find_gpu
from training_exporter.gpu.nvml import NvmlReader
from training_exporter.gpu.raw import Pynvml
from training_exporter.gpu.replay import ReplayNvml


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def faulty(clock: Clock):
    return reader_of(shipped("faulty"), clock)


def at(clock: Clock, seconds: float) -> None:
    clock.now = 1000.0 + seconds


def both(samples: list[GpuSample]) -> None:
    assert [(s.index, s.memory_used) for s in samples] == [(0, 14 * GIB), (1, 2 * GIB)]


def test_sentinels_are_absent_and_the_rest_is_there(faulty, clock) -> None:
    both(faulty.read())
    at(clock, 11)
    good, bad = faulty.read()
    assert good.memory_used == 14 * GIB
    assert [p.name for p in good.processes] == [""]  # its name is an error, its memory is not
    assert (bad.uuid, bad.name) == ("GPU-00000000-0000-4000-8000-000000000001",
                                    "Synthetic 16 GiB GPU (replayed capture)")  # fmt: skip
    assert (bad.memory_used, bad.memory_total, bad.utilization, bad.temperature) == (None, None, None, None)
    assert (bad.power, bad.power_limit, bad.energy) == (None, None, None)
    assert (bad.throttle_reasons, bad.mig_enabled, bad.processes) == (None, None, ())
    found = values(page_of(faulty))
    assert [labels["gpu"] for labels, _ in found["llm_gpu_temperature_celsius"]] == ["0"]


def test_an_error_of_one_call_costs_that_value_only(faulty, clock) -> None:
    both(faulty.read())
    at(clock, 21)
    samples = faulty.read()
    both(samples)
    assert (samples[1].power, samples[1].power_limit, samples[1].energy) == (None, None, None)
    assert samples[1].temperature == 41.0


def test_a_lost_card_has_no_figures_at_all_and_is_logged_once(faulty, clock, caplog) -> None:
    caplog.set_level(logging.INFO)
    both(faulty.read())
    for second in (31, 33, 35):
        at(clock, second)
        assert [s.index for s in faulty.read()] == [0]
    assert 'gpu="1"' not in page_of(faulty)
    at(clock, 41)
    both(faulty.read())
    assert [r.getMessage() for r in caplog.records] == [
        "GPU 1 gives no figures: the GPU is lost (fallen off the bus) (code 15); will try again",
        "GPU 1 is read again",
    ]


def test_a_reloaded_driver_gives_nothing_and_then_a_new_session(faulty, clock, caplog) -> None:
    both(faulty.read())
    for second in (50, 51, 52, 60, 61):
        at(clock, second)
        with pytest.raises(GpuUnavailable):
            faulty.read()
    at(clock, 71)
    samples = faulty.read()
    both(samples)
    assert {s.driver_version for s in samples} == {"581.00"}
    assert len([r for r in caplog.records if r.levelno >= logging.WARNING]) == 2  # not loaded, mismatch


def test_a_session_that_outlived_its_driver_is_noticed(clock) -> None:
    reader = reader_of(shipped("faulty"), clock)
    both(reader.read())
    at(clock, 72)  # the reload at 50 to 70 s passed unseen
    with pytest.raises(GpuUnavailable, match="not initialised"):
        reader.read()
    both(reader.read())


def test_unknown_error_of_a_vital_call_ends_the_session_after_the_others_were_read(clock) -> None:
    reader = reader_of(shipped("faulty"), clock)
    at(clock, 0)
    both(reader.read())
    at(clock, 81)
    # The session is of before the reload; one reading is lost to noticing that.
    with pytest.raises(GpuUnavailable):
        reader.read()
    assert [s.index for s in reader.read()] == [1]
    at(clock, 91)
    with pytest.raises(GpuUnavailable, match=r"GPU 0 gives no figures: .*Unknown Error.*; GPU 1 .* lost"):
        reader.read()
    at(clock, 101)
    with pytest.raises(GpuUnavailable, match="reports no GPU"):
        reader.read()
    at(clock, 111)
    both(reader.read())


def test_initialising_again_is_tried_ever_less_often(clock) -> None:
    calls = []

    class Nvml(ReplayNvml):
        def init(self) -> None:
            calls.append(clock.now)
            super().init()

    reader = NvmlReader(Nvml(still({"init": {"error": 999}}), clock=clock), clock=clock)
    for _ in range(300):
        with pytest.raises(GpuUnavailable):
            reader.read()
        clock.now += 1
    assert [b - a for a, b in itertools.pairwise(calls)][:6] == [5, 10, 20, 30, 30, 30]


def test_mig_is_said_once(clock, caplog) -> None:
    caplog.set_level(logging.INFO)
    reader = reader_of(still({"device_count": 1, "devices.0.uuid": "GPU-a", "devices.0.mig_mode": 1}), clock)
    assert [reader.read()[0].mig_enabled for _ in range(3)] == [True] * 3
    assert len([r for r in caplog.records if "MIG" in r.getMessage()]) == 1


@pytest.mark.parametrize("name", ["healthy", "memory_high", "memory_growing", "faulty"])
def test_pages_of_the_captures_pass_promtool(name, clock) -> None:
    capture = shipped(name)
    reader = reader_of(capture, clock)
    for second in range(0, int(capture.duration), 30):
        at(clock, second + 1)
        assert promtool(page_of(reader)) == ""


def test_find_gpu_by_uuid_and_index() -> None:
    samples = [GpuSample(0, "GPU-AAAA"), GpuSample(1, "GPU-bbbb")]
    assert find_gpu(samples, "bbbb") is samples[1]
    assert find_gpu(samples, "GPU-aaaa") is samples[0]
    assert find_gpu(samples, 1) is samples[1]
    assert find_gpu(samples, 2) is None


def test_memory_for_the_line_on_stdout() -> None:
    collector = open_gpu_collector(nvml=ReplayNvml(shipped("faulty")))
    assert collector is not None
    assert collector.memory() == (14 * GIB, 16 * GIB)
    assert collector.memory("00000000-0000-4000-8000-000000000001") == (2 * GIB, 16 * GIB)
    assert collector.memory("no-such") is None
    collector.close()
    assert collector.memory() is None


def has_driver() -> bool:
    try:
        Pynvml().init()
    except Exception:
        return False
    return True


@pytest.mark.skipif(has_driver(), reason="this machine has an NVIDIA driver")
def test_without_a_driver_there_is_no_reader_and_one_message(caplog) -> None:
    caplog.set_level(logging.INFO)
    assert open_gpu_reader() is None
    assert [r.getMessage() for r in caplog.records] == [
        "no GPU figures: libnvidia-ml.so.1 is not on this machine: no NVIDIA driver (code 12)"
    ]


@pytest.mark.skipif(not has_driver(), reason="this machine has no NVIDIA driver")
def test_with_a_driver_its_figures_are_plausible() -> None:
    reader = open_gpu_reader()
    assert reader is not None
    for sample in reader.read():
        assert sample.uuid.startswith("GPU-")
        assert sample.memory_total is None or sample.memory_total > GIB
    assert promtool(page_of(reader)) == ""
    reader.close()


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = "import sys, training_exporter.gpu.cli; print({'pynvml', 'docker', 'torch'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


def test_series_stay_within_bounds(clock) -> None:
    many = {"device_count": 1, "devices.0.uuid": "GPU-a", "devices.0.processes": [[p, p] for p in range(1, 1000)]}
    assert page_of(reader_of(still(many), clock)).count("llm_gpu_process_memory_bytes{") == decode.MAX_PROCESSES

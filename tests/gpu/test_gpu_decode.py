"""Raw NVML values: what is taken, what is not, and that nothing whatever breaks the page."""

from __future__ import annotations

import contextlib
import math

import pytest
from gpu_helpers import GIB, Clock, page_of, promtool, reader_of, still, values
from hypothesis import given, settings
from hypothesis import strategies as st

from training_exporter.gpu import decode
from training_exporter.gpu.model import GpuUnavailable
from training_exporter.gpu.raw import DEVICE_FIELDS

SENTINELS = [2**32 - 1, 2**64 - 1, 9_223_372_036_854_775_794, 2**63 - 1, -1, None, True, 1.5, [], {}, math.nan]
NUMBERS = [decode.utilization, decode.temperature, decode.power, decode.power_limit, decode.energy, decode.mig_mode,
           decode.throttle_reasons]  # fmt: skip
TEXTS = [decode.text, decode.process_name]


@pytest.mark.parametrize(
    ("decoder", "raw"),
    [(d, r) for d in (*NUMBERS, *TEXTS) for r in SENTINELS if (d, r) != (decode.energy, 2**32 - 1)]
    + [(d, "N/A") for d in NUMBERS]
    + [(d, r) for d in TEXTS for r in ("", " \x00\n", b"")],
)
def test_sentinels_and_nonsense_are_no_values(decoder, raw) -> None:
    assert decoder(raw) is None


def test_the_energy_counter_has_64_bits() -> None:
    assert decode.energy(2**32 - 1) == pytest.approx(4_294_967.295)  # passed after 50 days at 1 W
    assert decode.energy(2**32) == pytest.approx(4_294_967.296)


def test_units() -> None:
    assert decode.utilization(97) == 0.97
    assert decode.utilization(101) is None
    assert decode.temperature(61) == 61.0
    assert decode.temperature(201) is None
    assert decode.power(201_500) == 201.5
    assert decode.power_limit(0) is None
    assert decode.energy(1_500) == 1.5
    assert decode.text("NVIDIA\x00 H100\n") == "NVIDIA H100"
    assert decode.process_name("/usr/bin/python3 train.py --token=secret") == "python3"


def test_memory_used_is_without_what_the_driver_reserves() -> None:
    v2 = {"total": 16 * GIB, "reserved": GIB, "free": 5 * GIB, "used": 10 * GIB}
    driver_525 = {"total": 16 * GIB, "reserved": GIB, "free": 5 * GIB, "used": 11 * GIB}  # counts it as used
    v1 = {"total": 16 * GIB, "free": 5 * GIB, "used": 11 * GIB}
    assert decode.memory(v2) == (10 * GIB, GIB, 16 * GIB)
    assert decode.memory(driver_525) == (10 * GIB, GIB, 16 * GIB)
    assert decode.memory(v1) == (11 * GIB, None, 16 * GIB)


@pytest.mark.parametrize(
    "raw",
    [None, 7, {}, {"total": 0, "used": 0}, {"total": 2**64 - 1, "used": 5}, {"total": GIB, "used": 2 * GIB},
     {"total": GIB, "used": 2**64 - 1}, {"total": GIB, "used": -1}],
    ids=repr,
)  # fmt: skip
def test_contradictory_memory_is_absent(raw) -> None:
    assert decode.memory(raw) == (None, None, None)


def test_throttle_reasons_name_the_bits_and_idle_is_none() -> None:
    assert not any(decode.throttle_reasons(0x1).values())
    assert {k for k, v in decode.throttle_reasons(0x1 | 0x4 | 0x40).items() if v} == {
        "sw_power_cap", "hw_thermal_slowdown"}  # fmt: skip


def test_processes_are_summed_up_sorted_and_bounded() -> None:
    raw = [[10, 5], [11, 7], [10, 4], [12, None], [13, 2**64 - 1], [0, 3], ["x", 1], [14], None]
    assert decode.processes(raw) == [(10, 9), (11, 7)]
    assert len(decode.processes([[pid, pid] for pid in range(1, 500)])) == decode.MAX_PROCESSES


def test_throttle_bits_are_those_of_pynvml() -> None:
    import pynvml

    for name, bit in decode.THROTTLE_REASONS.items():
        suffix = "".join(word.capitalize() for word in name.split("_"))
        assert getattr(pynvml, f"nvmlClocksThrottleReason{suffix}") == bit


RAW = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([2**31 - 1, 2**32 - 1, 2**63, 2**64 - 1, 9_223_372_036_854_775_794]),
    st.floats(),
    st.text(max_size=300),
    st.binary(max_size=20),
    st.fixed_dictionaries({"error": st.sampled_from([1, 2, 3, 4, 9, 13, 15, 16, 18, 28, 999, 12345])}),
    st.dictionaries(st.sampled_from(["total", "used", "free", "reserved"]), st.integers(-5, 2**64)),
    st.lists(st.lists(st.integers(-5, 2**64) | st.none(), max_size=3), max_size=4),
)
ANSWERS = st.fixed_dictionaries(
    {"device_count": st.integers(0, 3) | RAW, "devices.0.uuid": st.just("GPU-0") | RAW},
    optional={
        "driver_version": RAW,
        **{f"devices.{i}.{field}": RAW for i in (0, 1, 2) for field in DEVICE_FIELDS if (i, field) != (0, "uuid")},
        **{f"processes.{pid}": RAW for pid in (1, 2)},
    },
)


def scraped(answers) -> str:
    return page_of(reader_of(still(answers), Clock()))


@settings(max_examples=400, deadline=None)
@given(ANSWERS)
def test_whatever_the_driver_says_the_page_parses_and_figures_are_plausible(answers) -> None:
    clock = Clock()
    reader = reader_of(still(answers), clock)
    for _ in range(3):
        with contextlib.suppress(GpuUnavailable):  # anything else that is raised fails this test
            reader.read()
        clock.now += 10
    found = values(scraped(answers))
    for name in ("llm_gpu_utilization_ratio", "llm_gpu_throttle_reasons"):
        assert all(0 <= value <= 1 for _, value in found.get(name, []))
    assert all(0 <= value <= 200 for _, value in found.get("llm_gpu_temperature_celsius", []))
    total = {labels["gpu"]: value for labels, value in found.get("llm_gpu_memory_total_bytes", [])}
    assert all(0 <= value <= total[labels["gpu"]] for labels, value in found.get("llm_gpu_memory_used_bytes", []))


@settings(max_examples=25, deadline=None)
@given(ANSWERS)
def test_whatever_the_driver_says_promtool_takes_the_page(answers) -> None:
    # promtool reads UTF-8; labels are the only place for foreign text.
    assert promtool(scraped(answers)) == ""

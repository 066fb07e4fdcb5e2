"""Captures: the shipped ones, the pace of a replay, recording, and files that are no captures."""

from __future__ import annotations

import itertools
import json

import pytest
from gpu_helpers import GIB, Clock, reader_of, shipped
from make_captures import captures

from training_exporter.gpu import replay
from training_exporter.gpu.model import GpuUnavailable
from training_exporter.gpu.record import record


def ratio(sample) -> float:
    return sample.memory_used / sample.memory_total


@pytest.mark.parametrize("name", ["faulty.json", "healthy.json", "memory_growing.json", "memory_high.json"])
def test_shipped_captures_are_what_the_script_writes_and_say_that_no_card_was_there(name) -> None:
    text = (replay.CAPTURES / name).read_text()
    assert text == captures()[name], "run python tests/gpu/make_captures.py"
    assert replay.load(replay.CAPTURES / name).source.endswith("not recorded from a card")
    assert sorted(captures()) == [f"{n}.json" for n in replay.shipped()]


def test_healthy_follows_the_guide() -> None:
    clock = Clock()
    reader = reader_of(shipped("healthy"), clock)
    seen = []
    for _ in range(600):
        (sample,) = reader.read()
        seen.append(ratio(sample))
        assert sample.name.endswith("(replayed capture)")
        clock.now += 1
    assert seen[0] < 0.1  # sharp increase during initialization
    assert seen[30] == pytest.approx(0.8875, abs=1e-4)  # then stable, the guide's 14.2 GB of 16 GB
    assert max(seen) < 0.90  # below 90 %, also in the spikes of the evaluations
    assert sum(b > a for a, b in itertools.pairwise(seen[30:])) == 9
    assert [p.name for p in sample.processes] == ["python3", "jupyter-lab"]


def test_memory_high_crosses_both_thresholds_because_of_another_process() -> None:
    clock = Clock()
    reader = reader_of(shipped("memory_high"), clock)
    first = {}
    for second in range(600):
        (sample,) = reader.read()
        for threshold in (0.90, 0.97):
            if ratio(sample) > threshold:
                first.setdefault(threshold, second)
        if second >= 120:
            assert ratio(sample) > 0.97
            assert sample.memory_used + sample.memory_reserved <= sample.memory_total
        clock.now += 1
    assert first[0.90] < first[0.97] <= 120
    assert {p.name: p.memory_used for p in sample.processes}["jupyter-lab"] > GIB


def test_memory_growing_grows_and_stays_below_the_marks() -> None:
    clock = Clock()
    reader = reader_of(shipped("memory_growing"), clock)
    seen = []
    for _ in range(1800):
        (sample,) = reader.read()
        seen.append(sample.memory_used / GIB)
        clock.now += 1
    assert all(b - a == pytest.approx(3 * 300 / 1024) for a, b in itertools.pairwise(seen[30:1800:300]))
    assert max(seen) < 0.9 * sample.memory_total / GIB


def test_a_replay_keeps_the_captures_pace_and_begins_again() -> None:
    clock = Clock()
    nvml = replay.ReplayNvml(shipped("healthy"), clock=clock)
    clock.now += 77  # time before the first init does not count
    nvml.init()
    first = nvml.device(0, "energy")
    clock.now += 4.9
    assert nvml.device(0, "energy") == first
    clock.now += 0.2
    assert nvml.device(0, "energy") > first
    clock.now += 600 - 5.1
    assert nvml.device(0, "energy") == first


def test_a_recording_replays_as_what_was_recorded(tmp_path) -> None:
    clock = Clock()
    path = tmp_path / "capture.json"

    def sleep(seconds: float) -> None:
        clock.now += seconds

    source = replay.ReplayNvml(shipped("faulty"), clock=clock)
    record(source, path, seconds=120, sleep=sleep, clock=clock)
    copy = replay.load(path)
    assert copy.source == "recorded from Synthetic 16 GiB GPU (replayed capture), driver 580.00"

    def story(capture) -> list[object]:
        clock = Clock()
        reader = reader_of(capture, clock, retry_seconds=0.0)
        told: list[object] = []
        for _ in range(119):
            try:
                told.append([(s.index, s.memory_used, s.temperature, s.processes) for s in reader.read()])
            except GpuUnavailable:
                told.append(None)
            clock.now += 1
        return told

    original, replayed = story(shipped("faulty")), story(copy)
    # A session that is gone is noticed one reading later by one or the other.
    assert sum(a != b for a, b in zip(original, replayed, strict=True)) <= 2
    assert None in replayed
    assert any(isinstance(x, list) and len(x) == 2 for x in replayed)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "x"}, "format: found 'x', allowed: training-exporter-gpu-capture"),
        ({"version": 2}, "version: found 2, allowed: 1"),
        ({"source": None}, "source: found nothing, allowed: a text"),
        ({"frames": []}, "frames: found [], allowed: a list of at least one frame"),
        ({"frames": [{"at": 1, "set": {}}]}, "frames[0].at: found 1, allowed: 0"),
        ({"frames": [{"at": 0, "set": {}}, {"at": 0, "set": {}}]}, "frames[1].at: found 0, allowed: a number above 0"),
        ({"frames": [{"at": 0, "set": {}}, {"at": float("nan"), "set": {}}]}, "frames[1].at: found nan"),
        ({"frames": [{"at": 0, "set": []}]}, "frames[0].set: found [], allowed: an object"),
        ({"duration": 0}, "duration: found 0, allowed: a number above 0"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_a_file_that_is_no_capture_is_one_clear_error(tmp_path, change, message) -> None:
    good = {"format": replay.FORMAT, "version": 1, "source": "x", "duration": 1, "frames": [{"at": 0, "set": {}}]}
    path = tmp_path / "c.json"
    path.write_text(json.dumps(good))
    replay.load(path)
    path.write_text(json.dumps({**good, **change}))
    with pytest.raises(replay.CaptureError) as error:
        replay.load(path)
    assert str(error.value).startswith(f"{path}: {message}")


def test_other_files_are_one_clear_error(tmp_path) -> None:
    path = tmp_path / "c.json"
    for content, message in ((b"{", "not JSON"), (b"\xff\xfe", "not JSON"), (b"[]", "top level: found []")):
        path.write_bytes(content)
        with pytest.raises(replay.CaptureError, match=message.replace("[", r"\[")):
            replay.load(path)
    with pytest.raises(replay.CaptureError, match=r"No such file.*faulty, healthy, memory_growing, memory_high"):
        replay.load(replay.find("no_such"))

"""The real nvidia-ml-py with its ctypes, on a library in C that answers like a driver (fake_nvml.c)."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from training_exporter.gpu.replay import load

GIB = 2**30


@pytest.fixture(scope="session")
def fake_driver(tmp_path_factory) -> dict[str, str]:
    """The environment in which `libnvidia-ml.so.1` is the stand-in; the file `state` changes how it behaves."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler on this machine")
    folder = tmp_path_factory.mktemp("driver")
    source, library = Path(__file__).with_name("fake_nvml.c"), folder / "libnvidia-ml.so.1"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", str(library), str(source)], check=True)
    return {**os.environ, "LD_LIBRARY_PATH": str(folder), "FAKE_NVML_STATE": str(folder / "state")}


def python(code: str, env: dict[str, str]) -> list[object]:
    """Runs `code` after an open reader `r`; returns what it printed, one JSON value a line."""
    prelude = """
import dataclasses, json, os, pathlib, time
from training_exporter.gpu.model import GpuUnavailable
from training_exporter.gpu.nvml import NvmlReader
from training_exporter.gpu.raw import Pynvml
state = pathlib.Path(os.environ["FAKE_NVML_STATE"])
state.write_text("ok")
r = NvmlReader(Pynvml(), retry_seconds=0.0)
def show():
    try:
        print(json.dumps([dataclasses.asdict(s) for s in r.read()]))
    except GpuUnavailable as error:
        print(json.dumps(str(error)))
"""
    result = subprocess.run(
        [sys.executable, "-c", prelude + code], env=env, capture_output=True, text=True, timeout=60, check=True
    )
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_every_field_arrives_in_base_units(fake_driver) -> None:
    ((sample,), pid) = python("show(); print(os.getpid())", fake_driver)
    reasons = sample.pop("throttle_reasons")
    processes = sample.pop("processes")
    assert sample == {
        "index": 0,
        "uuid": "GPU-00000000-0000-4000-8000-00000000000a",
        "name": "Fake GPU",
        "driver_version": "535.00",
        "memory_used": 14 * GIB,
        "memory_reserved": GIB // 4,
        "memory_total": 16 * GIB,
        "utilization": 0.97,
        "temperature": 61.0,  # by the old call: this driver has no nvmlDeviceGetTemperatureV
        "power": 201.5,
        "power_limit": None,  # no permission
        "energy": None,  # a sentinel
        "mig_enabled": None,  # not supported
    }
    assert {name for name, active in reasons.items() if active} == {"sw_power_cap", "hw_slowdown"}
    # The first is not known to NVML and named by /proc, the second's name is no UTF-8, the third tells no memory.
    assert [(p["pid"], p["memory_used"]) for p in processes] == [(pid, 13 * GIB), (999, GIB // 2)]
    assert processes[0]["name"].startswith("python")


def test_a_lost_card_and_a_reloaded_driver(fake_driver) -> None:
    code = """
for word in ("ok", "lost", "ok", "unloaded", "unloaded", "ok"):
    state.write_text(word)
    show()
"""
    good, lost, again, unloaded, still_unloaded, reloaded = python(code, fake_driver)
    assert isinstance(good, list)
    assert "GPU is lost" in lost
    assert again == good
    assert "driver is not loaded" in unloaded
    assert "driver is not loaded" in still_unloaded
    assert reloaded == good


def test_recording_the_driver(fake_driver, tmp_path) -> None:
    path = tmp_path / "capture.json"
    Path(fake_driver["FAKE_NVML_STATE"]).write_text("ok")
    command = [sys.executable, "-m", "training_exporter.cli", "gpu", "--record", str(path), "--seconds", "0.5"]
    result = subprocess.run(command, env=fake_driver, capture_output=True, text=True, timeout=60, check=False)
    assert (result.returncode, result.stdout) == (0, f"wrote 1 frames to {path}\n"), result.stderr
    capture = load(path)
    assert capture.source == "recorded from Fake GPU, driver 535.00"
    answers = capture.frames[0].answers
    assert answers["devices.0.energy"] == 9_223_372_036_854_775_794  # raw, sentinel or not
    assert answers["devices.0.power_limit"] == {"error": 4}
    assert answers["devices.0.memory"]["used"] == 14 * GIB
    assert "secret" not in path.read_text()

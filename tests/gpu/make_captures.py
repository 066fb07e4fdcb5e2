"""Writes the hand-made captures of training_exporter/gpu/captures. `test_replay.py` fails when they differ.

Run: python tests/gpu/make_captures.py
"""

from __future__ import annotations

from typing import Any

from training_exporter.gpu.raw import (
    DEVICE_FIELDS,
    DRIVER_NOT_LOADED,
    GPU_IS_LOST,
    LIB_RM_VERSION_MISMATCH,
    NOT_SUPPORTED,
    UNKNOWN,
)
from training_exporter.gpu.record import dumps
from training_exporter.gpu.replay import CAPTURES, FORMAT, VERSION

MIB, GIB = 2**20, 2**30
TOTAL = 16 * GIB
RESERVED = GIB // 4
SW_POWER_CAP = 0x4
STEP = 5  # seconds
TRAINER, BACKGROUND = 4242, 5151  # pids


def memory(used: int) -> dict[str, int]:
    return {"total": TOTAL, "reserved": RESERVED, "free": TOTAL - RESERVED - used, "used": used}


def card(index: int, used: int = 0) -> dict[str, Any]:
    values = {
        "uuid": f"GPU-00000000-0000-4000-8000-00000000000{index}",
        "memory": memory(used),
        "name": "Synthetic 16 GiB GPU",
        "utilization": 0,
        "temperature": 41,
        "power_usage": 31_000,
        "power_limit": 250_000,
        "energy": 1_000_000,
        "clock_event_reasons": 0x1,
        "mig_mode": {"error": NOT_SUPPORTED},
        "processes": [],
    }
    assert tuple(values) == DEVICE_FIELDS
    return {f"devices.{index}.{field}": value for field, value in values.items()}


def capture(duration: int, states: list[tuple[float, dict[str, Any]]]) -> dict[str, Any]:
    """From full states to frames of changes."""
    last: dict[str, Any] = {}
    frames = []
    for at, state in states:
        frames.append({"at": at, "set": {k: v for k, v in state.items() if k not in last or last[k] != v}})
        last = {**last, **state}
    source = "hand-made from NVML's documentation, not recorded from a card"
    return {"format": FORMAT, "version": VERSION, "source": source, "duration": duration, "frames": frames}


def training(
    background: Any, trained: Any = lambda at: int(14.0 * GIB), minutes: int = 10, step: int = STEP
) -> dict[str, Any]:
    """`background(seconds)` gives the bytes of a second process, `trained(seconds)` those of the training."""
    energy, states = 1_000_000.0, []
    for at in range(0, 60 * minutes, step):
        evaluating = at >= 60 and at % 60 < 10
        trainer = trained(at) if at >= 10 else int((0.3 + 1.2 * at / step) * GIB)
        trainer += GIB // 8 if evaluating else 0
        other = int(0.2 * GIB) + background(at)
        busy = at >= 10
        power = 31_000 if not busy else 181_000 if evaluating else 228_000 + 1_000 * (at // step % 21)
        energy += power * step
        states.append((at, {
            "init": None, "driver_version": "580.00", "device_count": 1,
            f"processes.{TRAINER}": "/usr/bin/python3", f"processes.{BACKGROUND}": "/usr/bin/jupyter-lab",
            **card(0, trainer + other),
            "devices.0.processes": [[TRAINER, trainer], [BACKGROUND, other]],
            "devices.0.utilization": 0 if not busy else 71 if evaluating else 94 + at // step % 5,
            "devices.0.temperature": 41 if not busy else min(72, 44 + at // step * 2),
            "devices.0.power_usage": power,
            "devices.0.energy": int(energy),
            "devices.0.clock_event_reasons": 0x1 if not busy else SW_POWER_CAP if power > 245_000 else 0,
        }))  # fmt: skip
    return capture(60 * minutes, states)


def on_card(uuid: str, made: dict[str, Any]) -> dict[str, Any]:
    """The same capture, of a card with another name."""
    made["frames"][0]["set"]["devices.0.uuid"] = uuid
    return made


def faulty() -> dict[str, Any]:
    """Two minutes; each 10 seconds something else. `test_nvml.py` says what is to be seen of it."""
    good = {"init": None, "driver_version": "580.00", "device_count": 2,
            f"processes.{TRAINER}": "/usr/bin/python3", **card(0, 14 * GIB), **card(1, 2 * GIB),
            "devices.0.processes": [[TRAINER, 14 * GIB]]}  # fmt: skip
    sentinels = {
        "devices.1.memory": {**memory(0), "used": 2**64 - 1},
        "devices.1.utilization": 255,
        "devices.1.temperature": 2**32 - 1,
        "devices.1.power_usage": 2**32 - 1,
        "devices.1.power_limit": 0,
        "devices.1.energy": 9_223_372_036_854_775_794,
        "devices.1.clock_event_reasons": 2**64 - 1,
        "devices.1.mig_mode": 2**32 - 1,
        "devices.1.processes": [[TRAINER, None], [0, 5], [77, 2**64 - 1]],
        f"processes.{TRAINER}": {"error": UNKNOWN},
    }
    single = {f"devices.1.{field}": {"error": UNKNOWN} for field in ("power_usage", "power_limit", "energy")}
    lost = {f"devices.1.{field}": {"error": GPU_IS_LOST} for field in DEVICE_FIELDS}
    unknown = {f"devices.0.{field}": {"error": UNKNOWN} for field in DEVICE_FIELDS}
    return capture(120, [
        (0, good),
        (10, {**good, **sentinels}),
        (20, {**good, **single}),
        (30, {**good, **lost}),
        (40, good),
        (50, {**good, "init": {"error": DRIVER_NOT_LOADED}}),
        (60, {**good, "init": {"error": LIB_RM_VERSION_MISMATCH}}),
        (70, {**good, "driver_version": "581.00"}),
        (80, {**good, **unknown}),
        (90, {**good, **unknown, **lost}),
        (100, {**good, "device_count": 0}),
        (110, good),
    ])  # fmt: skip


def captures() -> dict[str, str]:
    """File name -> content."""
    full = int(0.974 * TOTAL) - int(14.2 * GIB)
    return {
        "healthy.json": dumps(training(lambda at: 0)),
        "memory_high.json": dumps(training(lambda at: min(full, full * at // 110))),
        # A leak of 3 MiB every second, on another card than the others'.
        "memory_growing.json": dumps(
            on_card(
                "GPU-00000000-0000-4000-8000-000000000009",
                training(lambda at: 0, lambda at: (8 * 1024 + 3 * at) * MIB, 30, 15),
            )
        ),
        "faulty.json": dumps(faulty()),
    }


if __name__ == "__main__":
    for name, content in captures().items():
        (CAPTURES / name).write_text(content, encoding="utf-8")

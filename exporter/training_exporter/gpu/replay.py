"""Replays a capture of NVML through the same code that reads a driver, and records captures.

The format is described in captures/README.md. A capture holds raw values, so what a driver really answers (error
codes and nonsense included) is replayed as it was.
"""

from __future__ import annotations

import json
import time
from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training_exporter.errors import shown
from training_exporter.gpu.raw import NOT_SUPPORTED, UNINITIALIZED, NvmlError

FORMAT = "training-exporter-gpu-capture"
VERSION = 1
MAX_BYTES = 16 << 20  # a day of eight cards has a few
#: Answers of all frames together, each with those that it has from the one before: half a gigabyte of memory.
MAX_ANSWERS = 5_000_000
MAX_SECONDS = 1e9
CAPTURES = Path(__file__).with_name("captures")
REPLAYED = " (replayed capture)"  # at the end of every device's name, so that no one takes it for a live card


class CaptureError(ValueError):
    """A file is no capture. The message names file, place, what was found and what is allowed."""


@dataclass(frozen=True)
class Frame:
    """NVML's answers from `at` seconds on: a raw value, or {"error": code}, under each name."""

    at: float
    answers: Mapping[str, Any]  # "init", "driver_version", "device_count", "devices.<index>.<field>", "processes.<pid>"


@dataclass(frozen=True)
class Capture:
    source: str  # where it comes from: recorded from which card, or made by hand
    duration: float  # seconds
    frames: tuple[Frame, ...]


def shipped() -> list[str]:
    """Names of the captures that come with the package."""
    return sorted(path.stem for path in CAPTURES.glob("*.json"))


def find(name: str) -> Path:
    """A capture file by path, or by name (`healthy`) among those that come with the package."""
    return CAPTURES / f"{name}.json" if name in shipped() and not Path(name).exists() else Path(name)


def load(path: Path) -> Capture:
    """Reads a capture file. Raises CaptureError, also when it cannot be read."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise CaptureError(f"{path}: found more than {MAX_BYTES} bytes, allowed: a file of fewer")
        document = json.loads(data)
    except OSError as error:
        raise CaptureError(f"{path}: {error.strerror}; allowed: a capture file, or {', '.join(shipped())}") from None
    except CaptureError:
        raise
    except (ValueError, RecursionError) as error:
        raise CaptureError(f"{path}: not JSON: {str(error)[:100]}") from None

    def need(condition: bool, where: str, found: object, allowed: str) -> None:
        if not condition:
            raise CaptureError(f"{path}: {where}: found {shown(found)}, allowed: {allowed}")

    need(isinstance(document, dict), "top level", document, "an object")
    need(document.get("format") == FORMAT, "format", document.get("format"), FORMAT)
    need(document.get("version") == VERSION, "version", document.get("version"), str(VERSION))
    need(isinstance(document.get("source"), str), "source", document.get("source"), "a text")
    entries = document.get("frames")
    need(isinstance(entries, list) and len(entries) > 0, "frames", entries, "a list of at least one frame")
    frames: list[Frame] = []
    answers: dict[str, Any] = {}
    known = 0
    for i, entry in enumerate(entries):
        need(isinstance(entry, dict), f"frames[{i}]", entry, "an object")
        at, least = entry.get("at"), frames[-1].at if frames else 0.0
        need(
            _number(at) and (at > least if frames else at == 0),
            f"frames[{i}].at",
            at,
            f"a number above {least:g}" if frames else "0",
        )
        need(isinstance(entry.get("set"), dict), f"frames[{i}].set", entry.get("set"), "an object")
        if entry["set"]:
            answers = {**answers, **entry["set"]}
            known += len(answers)
            need(known <= MAX_ANSWERS, f"frames[{i}].set", known, f"{MAX_ANSWERS} answers in all frames together")
        frames.append(Frame(float(at), answers))
    duration = document.get("duration")
    need(_number(duration) and duration > frames[-1].at, "duration", duration, f"a number above {frames[-1].at:g}")
    return Capture(document["source"], float(duration), tuple(frames))


def _number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= MAX_SECONDS


class ReplayNvml:
    """A raw NVML that answers from a capture, at its pace from the first `init` on, over and over again."""

    def __init__(self, capture: Capture, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._capture = capture
        self._clock = clock
        self._offsets = [frame.at for frame in capture.frames]
        self._start: float | None = None
        self._session: int | None = None  # number of the frame, counted through all rounds, in which init() was called

    def init(self) -> None:
        if self._start is None:
            self._start = self._clock()
        number = self._number()
        self._value(self._frame(number).answers, "init")
        self._session = number

    def shutdown(self) -> None:
        self._session = None

    def driver_version(self) -> object:
        return self._answer("driver_version")

    def device_count(self) -> object:
        return self._answer("device_count")

    def device(self, index: int, field: str) -> object:
        value = self._answer(f"devices.{index}.{field}")
        return value + REPLAYED if field == "name" and isinstance(value, str) else value

    def process_name(self, pid: int) -> object:
        return self._answer(f"processes.{pid}")

    def _answer(self, key: str) -> object:
        number = self._number()
        answers = self._frame(number).answers
        self._value(answers, "init")
        # A session does not outlive the driver that it was opened with.
        if self._session is None or any(
            _error(self._frame(n).answers.get("init")) is not None for n in range(self._session, number)
        ):
            raise NvmlError(UNINITIALIZED)
        self._session = number
        return self._value(answers, key)

    def _value(self, answers: Mapping[str, Any], key: str) -> object:
        value = answers.get(key) if key == "init" else answers.get(key, {"error": NOT_SUPPORTED})
        code = _error(value)
        if code is not None:
            raise NvmlError(code)
        return value

    def _number(self) -> int:
        if self._start is None:
            return 0
        rounds, offset = divmod(self._clock() - self._start, self._capture.duration)
        return int(rounds) * len(self._offsets) + bisect_right(self._offsets, offset) - 1

    def _frame(self, number: int) -> Frame:
        return self._capture.frames[number % len(self._offsets)]


def _error(value: object) -> int | None:
    code = value.get("error") if isinstance(value, Mapping) else None
    return code if isinstance(code, int) else None

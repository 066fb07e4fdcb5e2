"""Records what NVML answers into a capture file that `replay.py` replays."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from training_exporter.gpu import decode
from training_exporter.gpu.raw import DEVICE_FIELDS, NvmlError, RawNvml
from training_exporter.gpu.replay import FORMAT, VERSION


def record(
    nvml: RawNvml,
    path: Path,
    *,
    seconds: float,
    interval: float = 1.0,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> int:
    """Writes a capture of `seconds` seconds to `path`; returns how many frames it has (those with a change).

    It holds the cards' UUIDs and the names of the processes on them, nothing else that identifies a machine.
    Raises NvmlError when NVML cannot be initialised at the start, and OSError.
    """
    nvml.init()
    began = clock()
    last: dict[str, Any] = {}
    frames: list[dict[str, Any]] = []
    cards: set[str] = set()
    initialised = True
    while (at := clock() - began) < seconds or not frames:
        answers: dict[str, Any] = {}
        if not initialised:
            answers["init"] = _ask(nvml.init)
            initialised = answers["init"] is None
        if initialised:
            answers["init"] = None
            answers.update(_snapshot(nvml))
            cards.update(v for k, v in answers.items() if k.endswith(".name") and isinstance(v, str))
            # A session that has ended must be begun again, as the reader does.
            if isinstance(answers["device_count"], dict):
                answers["init"], initialised = answers["device_count"], False
        changes = {k: v for k, v in answers.items() if k not in last or last[k] != v}
        if changes or not frames:
            frames.append({"at": round(at, 3) if frames else 0, "set": changes})
            last = {**last, **changes}
        sleep(interval)
    _ask(nvml.shutdown)
    document = {
        "format": FORMAT,
        "version": VERSION,
        "source": f"recorded from {', '.join(sorted(cards)) or 'no card'}, driver {last.get('driver_version')}",
        "duration": round(max(clock() - began, frames[-1]["at"] + interval), 3),
        "frames": frames,
    }
    partial = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    partial.write_text(dumps(document), encoding="utf-8")
    partial.replace(path)
    return len(frames)


def dumps(document: dict[str, Any]) -> str:
    """A capture as JSON, one frame a line."""
    head = {k: v for k, v in document.items() if k != "frames"}
    lines = ",\n    ".join(json.dumps(frame) for frame in document["frames"])
    return json.dumps(head, indent=2)[:-2] + f',\n  "frames": [\n    {lines}\n  ]\n}}\n'


def _ask(call: Callable[[], object]) -> Any:
    try:
        value = call()
    except NvmlError as error:
        return {"error": error.code}
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def _snapshot(nvml: RawNvml) -> dict[str, Any]:
    answers = {"driver_version": _ask(nvml.driver_version), "device_count": _ask(nvml.device_count)}
    for index in range(decode.integer(answers["device_count"], 0, decode.MAX_DEVICES) or 0):
        for field in DEVICE_FIELDS:
            value = _ask(lambda index=index, field=field: nvml.device(index, field))  # type: ignore[misc]
            answers[f"devices.{index}.{field}"] = value
            if field == "processes":
                for pid, _ in decode.processes(value):
                    name = _ask(lambda pid=pid: nvml.process_name(pid))  # type: ignore[misc]
                    # Without folders and arguments: they may hold secrets.
                    answers[f"processes.{pid}"] = decode.process_name(name) if isinstance(name, str) else name
    return answers

"""Runs in TensorBoard event files, with the tags that Hugging Face's `TensorBoardCallback` writes.

Read with the package `tensorboard` (the extra `backtest`), without torch or TensorFlow.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from training_exporter.events import MAX_INTEGER, MAX_TIME
from training_exporter.sources.log_history import Entry, Header, RecordError, validation_loss

#: Tag of the training arguments as JSON, in the form that TensorBoard gives to text.
_ARGUMENTS = "args/text_summary"

_TRAIN, _EVALUATION = "train/", "eval/"


def is_event_file(name: str) -> bool:
    """Whether a file of this name is one of TensorBoard's."""
    return "tfevents" in name


def event_files(path: Path) -> list[Path]:
    """The event files of one run: `path` itself, or those directly in the folder, oldest first."""
    if path.is_file():
        return [path]
    # Their names hold the time at which they were begun, in seconds.
    return sorted(each for each in path.iterdir() if each.is_file() and is_event_file(each.name))


def read(path: Path, run: str) -> tuple[Header, list[Entry]]:
    """The header and the log entries of the event files in a folder (or of one event file).

    Raises RecordError for a file that is none, that holds no training, or when the package `tensorboard` is missing.
    """
    entries: list[Entry] = []
    arguments: dict[str, Any] = {}
    for file in event_files(path):
        scalars: list[tuple[float, int, str, float]] = []
        for time, step, tag, value in _values(file):
            if tag == _ARGUMENTS and not arguments:
                arguments = _arguments(value)
            elif (number := _scalar(value)) is not None:
                scalars.append((time, step, tag, number))
        entries += _entries(scalars)
    if not entries:
        raise RecordError(f"{path}: found no scalar train/loss or eval/loss, allowed: event files of a training")
    return _header(arguments, entries, run), entries


def _values(file: Path) -> Iterator[tuple[float, int, str, Any]]:
    """(Unix seconds, step, tag, array) of each value of the file."""
    try:
        from tensorboard.backend.event_processing.event_file_loader import EventFileLoader  # type: ignore[import-untyped]
        from tensorboard.util import tensor_util  # type: ignore[import-untyped]
    except ImportError as error:
        raise RecordError(f"{file}: TensorBoard event files need training-exporter[backtest] ({error})") from None
    found = 0
    # The reader logs what it makes of a torn end of file; that is normal for a run that was killed.
    logging.getLogger("tensorboard").setLevel(logging.ERROR)
    try:
        for event in EventFileLoader(str(file)).Load():
            found += 1
            if not (0 <= event.wall_time < MAX_TIME and 0 <= event.step <= MAX_INTEGER):
                continue
            for value in event.summary.value:
                wanted = value.tag == _ARGUMENTS or value.tag.startswith((_TRAIN, _EVALUATION))
                if wanted and value.HasField("tensor") and _is_small(value.tensor):
                    yield event.wall_time, event.step, value.tag, tensor_util.make_ndarray(value.tensor)
    except RecordError:
        raise
    except Exception as error:  # protobuf, the record reader and numpy each have their own
        raise RecordError(
            f"{file}: after {found} records: not a TensorBoard event file: {_first_line(error)}"
        ) from None
    if not found:
        raise RecordError(f"{file}: found no record, allowed: a TensorBoard event file")


def _is_small(tensor: Any) -> bool:
    """Whether a tensor has a single value by its own words: a few bytes may declare gigabytes."""
    return all(dim.size == 1 for dim in tensor.tensor_shape.dim)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def _scalar(value: Any) -> float | None:
    return float(value.reshape(-1)[0]) if value.size == 1 and value.dtype.kind in "fiu" else None


def _entries(scalars: list[tuple[float, int, str, float]]) -> Iterator[Entry]:
    """The scalars that were written together as one entry."""
    group: dict[str, float] = {}
    at: tuple[int, float] = (0, 0.0)
    for time, step, tag, value in scalars:
        # The epoch is written with both, always under the training's name.
        kind = "" if tag == "train/epoch" else tag.split("/", 1)[0]
        others = any(not name.startswith(kind) for name in group if name != "train/epoch")
        if group and (step != at[0] or tag in group or (kind and others)):
            yield from _entry(group, *at)
            group = {}
        if not group:
            at = (step, time)
        group[tag] = value
    yield from _entry(group, *at)


def _entry(group: dict[str, float], step: int, time: float) -> Iterator[Entry]:
    evaluated = validation_loss({f"eval_{tag[5:]}": value for tag, value in group.items() if tag.startswith("eval/")})
    loss = group.get("train/loss")
    if loss is None and evaluated is None:
        return
    runtime = group.get("eval/runtime")
    tokens = group.get("train/num_input_tokens_seen", group.get("train/num_tokens"))
    yield Entry(
        step=step,
        time=time,
        epoch=group.get("train/epoch"),
        loss=loss,
        gradient_norm=group.get("train/grad_norm"),
        learning_rate=group.get("train/learning_rate"),
        tokens_per_second=group.get("train/tokens_per_second"),
        tokens_seen=int(tokens) if tokens is not None and 0 <= tokens <= MAX_INTEGER else None,
        validation_loss=evaluated,
        validation_seconds=runtime if runtime is not None and 0 <= runtime < 1e9 else None,
    )


def _arguments(value: Any) -> dict[str, Any]:
    """TrainingArguments as `TensorBoardCallback` wrote them; empty when they cannot be read."""
    try:
        text = value.reshape(-1)[0]
        found = json.loads(text.decode() if isinstance(text, bytes) else str(text))
    except (ValueError, IndexError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _header(arguments: dict[str, Any], entries: list[Entry], run: str) -> Header:
    def number(key: str) -> float | None:
        value = arguments.get(key)
        if not isinstance(value, int | float) or isinstance(value, bool) or not abs(value) < 1e15:
            return None
        return float(value)

    epochs = number("num_train_epochs")
    steps = number("max_steps") or 0
    last = max(entries, key=lambda entry: entry.step)
    if steps <= 0 and epochs and last.epoch and 1e-6 < last.epoch < epochs * 0.999 and last.step:
        steps = round(last.step * epochs / last.epoch)  # it was stopped, or is not over
    max_steps = min(int(steps), MAX_INTEGER) if steps > 0 else last.step
    warmup = number("warmup_steps") or 0.0
    if not warmup:
        warmup = number("warmup_ratio") or 0.0
    if 0 < warmup < 1:  # a share of the run
        warmup = math.ceil(warmup * max_steps)
    scheduler = arguments.get("lr_scheduler_type")
    names = {
        "batch_size": "per_device_train_batch_size",
        "gradient_accumulation_steps": "gradient_accumulation_steps",
        "learning_rate": "learning_rate",
        "num_epochs": "num_train_epochs",
    }
    settings = {key: f"{found:g}" for key, name in names.items() if (found := number(name)) is not None}
    if isinstance(scheduler, str):
        settings["lr_scheduler"] = scheduler
    return Header(
        run=run,
        max_steps=max_steps or None,
        num_epochs=epochs,
        peak_learning_rate=number("learning_rate"),
        lr_scheduler=scheduler if isinstance(scheduler, str) else None,
        warmup_steps=int(max(0.0, warmup)),
        settings=settings,
    )

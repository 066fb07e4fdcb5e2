"""Events from `trainer_state.json`, which the Hugging Face `Trainer` writes into every checkpoint."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from training_exporter.errors import shown
from training_exporter.sources.log_history import Entry, Header, RecordError, validation_loss

STATE_NAME = "trainer_state.json"

#: A log of a million entries is about 200 MB, and ten million values; what is larger is no trainer_state.json. In
#: memory a value may take forty times as much as in the file.
MAX_BYTES = 256 << 20
MAX_VALUES = 16_000_000

_NUMBERS = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}

#: Prometheus' numbers are exact up to here.
_MAX_INTEGER = 2**53


def read(path: Path, run: str) -> tuple[Header, list[Entry]]:
    """The header and the log entries of a trainer state.

    Beyond what `Trainer` writes, entries may have `wall_time` (Unix seconds) and `tokens_per_second`, and the top
    level `learning_rate` (the peak), `lr_scheduler_type` and `warmup_ratio` or `warmup_steps`. Keys that are missing
    or null count as unknown. Raises RecordError.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise RecordError(f"{path}: found {path.stat().st_size} bytes, allowed: at most {MAX_BYTES}")
        data = path.read_bytes()
        values = data.count(b",") + data.count(b"[") + data.count(b"{")
        if values > MAX_VALUES:
            raise RecordError(f"{path}: found {values} values, allowed: at most {MAX_VALUES}")
        # NaN and Infinity as bare words, which is how Python's json writes them.
        state = json.loads(data)
    except OSError as error:
        raise RecordError(f"{path}: cannot be read: {error.strerror}") from None
    except json.JSONDecodeError as error:
        raise RecordError(f"{path}: line {error.lineno}: not JSON: {error.msg} at column {error.colno}") from None
    except (ValueError, RecursionError) as error:
        raise RecordError(f"{path}: not JSON: {str(error)[:100]}") from None
    if not isinstance(state, dict):
        raise RecordError(f"{path}: found {shown(state)}, allowed: an object with the key 'log_history'")
    history = state.get("log_history")
    if not isinstance(history, list):
        raise RecordError(f"{path}: key 'log_history': found {shown(history)}, allowed: a list of log entries")
    try:
        header = _header(_Reader("", state), run)
        entries = [
            entry
            for number, item in enumerate(history)
            if (entry := _entry(f"log_history[{number}]", item)) is not None
        ]
    except RecordError as error:
        raise RecordError(f"{path}: {error}") from None
    return header, entries


def _header(state: _Reader, run: str) -> Header:
    max_steps = state.integer("max_steps", low=-1)
    max_steps = max_steps if max_steps and max_steps > 0 else state.integer("global_step", low=0)
    num_epochs = state.number("num_train_epochs")
    logging_steps = state.number("logging_steps")
    if logging_steps is not None and 0 < logging_steps < 1 and max_steps:
        logging_steps = math.ceil(logging_steps * max_steps)  # TrainingArguments: a share of the run
    peak = state.number("learning_rate")
    scheduler = state.text("lr_scheduler_type")
    warmup = state.number("warmup_steps") or 0.0
    ratio = state.number("warmup_ratio") or 0.0
    if not warmup and max_steps and 0 < ratio <= 1:
        warmup = math.ceil(ratio * max_steps)
    settings = {
        "base_model": state.text("model"),
        "batch_size": _plain(state.number("train_batch_size")),
        "learning_rate": _plain(peak),
        "lr_scheduler": scheduler,
        "num_epochs": _plain(num_epochs),
    }
    return Header(
        run=run,
        max_steps=max_steps or None,
        num_epochs=num_epochs,
        logging_steps=_steps_between(logging_steps),
        peak_learning_rate=peak,
        lr_scheduler=scheduler,
        warmup_steps=int(min(max(warmup, 0.0), _MAX_INTEGER)) if math.isfinite(warmup) else 0,
        settings={key: value for key, value in settings.items() if value is not None},
    )


def _steps_between(value: float | None) -> int | None:
    return int(min(max(value, 1.0), _MAX_INTEGER)) if value and math.isfinite(value) else None


def _entry(where: str, item: object) -> Entry | None:
    """One entry of the log; None for one that tells nothing of a step (the summary at the end, for example)."""
    if not isinstance(item, dict):
        raise RecordError(f"{where}: found {shown(item)}, allowed: an object")
    values = _Reader(where, item)
    loss = values.number("loss")
    evaluated = validation_loss(item)
    if loss is None and evaluated is None:
        return None
    step = values.integer("step", low=0)
    if step is None:
        raise RecordError(f"{where}: key 'step' is missing")
    tokens = values.number("num_input_tokens_seen")
    tokens = values.number("num_tokens") if tokens is None else tokens
    return Entry(
        step=step,
        time=values.number("wall_time", low=0.0, high=1e11),
        epoch=values.number("epoch"),
        loss=loss,
        gradient_norm=values.number("grad_norm"),
        learning_rate=values.number("learning_rate"),
        tokens_per_second=values.number("tokens_per_second"),
        tokens_seen=int(tokens) if tokens is not None and 0 <= tokens <= _MAX_INTEGER else None,
        validation_loss=values.checked("validation loss", evaluated),
        validation_seconds=values.number("eval_runtime", low=0.0, high=1e9),
    )


class _Reader:
    """Takes checked values out of a JSON object; absent and null are None. Raises RecordError."""

    def __init__(self, where: str, values: Mapping[str, Any]) -> None:
        self._where, self._values = f"{where}: " if where else "", values

    def number(self, key: str, low: float | None = None, high: float | None = None) -> float | None:
        value = self.checked(key, self._values.get(key))
        if value is not None and low is not None and not low <= value < (math.inf if high is None else high):
            raise RecordError(f"{self._where}key {key!r}: found {value!r}, allowed: {low:g} up to {high:g}")
        return value

    def checked(self, key: str, value: Any) -> float | None:
        if isinstance(value, str) and value in _NUMBERS:
            return _NUMBERS[value]
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise RecordError(f"{self._where}key {key!r}: found {shown(value)}, allowed: a number")
        try:
            return float(value)
        except OverflowError:
            raise RecordError(f"{self._where}key {key!r}: found a number beyond 1e308, allowed: a number") from None

    def integer(self, key: str, low: int) -> int | None:
        value = self._values.get(key)
        if value is None:
            return None
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= _MAX_INTEGER:
            raise RecordError(f"{self._where}key {key!r}: found {shown(value)}, allowed: an integer from {low}")
        return value

    def text(self, key: str) -> str | None:
        value = self._values.get(key)
        return value if isinstance(value, str) and value else None


def _plain(value: float | None) -> str | None:
    return None if value is None else f"{value:g}"

"""Training files: JSON, JSON Lines or Parquet, each record checked and named by its place when something is wrong.

A record is one of three kinds, told apart by its keys:

- the generator's own (`dataset.Record`): symbol, timestamp, market_state, action, explanation
- `{"prompt": "...", "completion": "..."}`
- `{"messages": [{"role": "system" | "user" | "assistant", "content": "..."}, ...]}`, the last one by the assistant
"""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, TypeAlias

from trading_llm.dataset import ACTIONS, Record
from trading_llm.errors import UsageError

ROLES = ("system", "user", "assistant")
SUFFIXES = (".json", ".jsonl", ".parquet")


@dataclass(frozen=True)
class Pair:
    """A text to read and the text to write after it; the loss covers the completion only."""

    prompt: str
    completion: str


@dataclass(frozen=True)
class Message:
    """One turn of a chat."""

    role: str
    content: str


@dataclass(frozen=True)
class Chat:
    """A chat that ends with the assistant; the loss covers what the assistant says."""

    messages: tuple[Message, ...]


Example: TypeAlias = Record | Pair | Chat


def read_examples(path: Path) -> list[Example]:
    """Read and check a file. Raises UsageError naming file, record and key for anything that is not as documented."""
    if path.suffix not in SUFFIXES:
        raise UsageError(f"{path}: found the file type {path.suffix or 'none'!r}; allowed: {', '.join(SUFFIXES)}")
    read = {".json": _json, ".jsonl": _json_lines, ".parquet": _parquet}[path.suffix]
    try:
        examples = [_checked(f"{path}: {place}", item) for place, item in read(path)]
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: byte {error.start} is not UTF-8; allowed: records as JSON") from None
    if not examples:
        raise UsageError(f"{path}: found no record; allowed: at least one record")
    return examples


def _json(path: Path) -> Iterator[tuple[str, Any]]:
    try:
        items = json.loads(path.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        hint = " (one record per line: name the file .jsonl)" if error.msg == "Extra data" else ""
        raise UsageError(f"{path}: line {error.lineno}: {error.msg}; allowed: a JSON array of records{hint}") from None
    if not isinstance(items, list):
        raise UsageError(f"{path}: found {_shown(items)}; allowed: a JSON array with at least one record")
    yield from ((f"record {number}", item) for number, item in enumerate(items, 1))


def _json_lines(path: Path) -> Iterator[tuple[str, Any]]:
    with path.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                try:
                    yield f"line {number}", json.loads(line)
                except json.JSONDecodeError as error:
                    raise UsageError(f"{path}: line {number}: {error.msg}; allowed: one JSON record per line") from None


def _parquet(path: Path) -> Iterator[tuple[str, Any]]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            number = 0
            for batch in file.iter_batches():
                for item in batch.to_pylist():
                    number += 1
                    yield f"record {number}", _without_nulls(item)
    except pyarrow.ArrowException as error:
        raise UsageError(f"{path}: {str(error).splitlines()[0]}; allowed: a Parquet file of records") from None


def _without_nulls(value: Any) -> Any:
    """A column of Parquet has a cell in every row; a null one is a key that the record does not have."""
    if isinstance(value, dict):
        return {key: _without_nulls(part) for key, part in value.items() if part is not None}
    if isinstance(value, list):
        return [_without_nulls(part) for part in value]
    return value.isoformat() if isinstance(value, date) else value  # a datetime is a date too


def _checked(place: str, item: object) -> Example:
    def complain(key: str, found: object, allowed: str) -> UsageError:
        return UsageError(f"{place}: {key}: found {_shown(found)}; allowed: {allowed}")

    def text(key: str, value: object) -> str:
        if not isinstance(value, str) or not value.strip():
            raise complain(key, "nothing" if value is None else value, "a text that is not empty")
        return value

    if not isinstance(item, dict):
        raise complain("record", item, "an object")
    if "messages" in item:
        messages = item["messages"]
        if not isinstance(messages, list) or len(messages) < 2:
            raise complain("messages", messages, "a list of a user's and an assistant's messages")
        for number, message in enumerate(messages):
            if not isinstance(message, dict):
                raise complain(f"messages[{number}]", message, "an object with role and content")
            if message.get("role") not in ROLES:
                raise complain(f"messages[{number}].role", message.get("role", "nothing"), ", ".join(ROLES))
            text(f"messages[{number}].content", message.get("content"))
        if messages[-1]["role"] != "assistant":
            raise complain(f"messages[{len(messages) - 1}].role", messages[-1]["role"], "assistant, in the last one")
        return Chat(tuple(Message(message["role"], message["content"]) for message in messages))
    if "prompt" in item or "completion" in item:
        return Pair(text("prompt", item.get("prompt")), text("completion", item.get("completion")))
    if not {"symbol", "timestamp", "market_state", "action", "explanation"} & set(item):
        raise complain("keys", ", ".join(map(str, item)) or "none", "messages; prompt and completion; or those of "
                       "`trading-llm generate`: symbol, timestamp, market_state, action, explanation")  # fmt: skip
    for key in ("symbol", "timestamp", "explanation"):
        text(key, item.get(key))
    if item.get("action") not in ACTIONS:
        raise complain("action", item.get("action", "nothing"), ", ".join(ACTIONS))
    state = item.get("market_state")
    if not isinstance(state, dict) or not state:
        raise complain("market_state", item.get("market_state", "nothing"), "an object of named figures")
    for name, value in state.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise complain(f"market_state.{name}", value, "a finite number")
    return Record(item["symbol"], item["timestamp"], state, item["action"], item["explanation"])


def _shown(value: object) -> str:
    text = json.dumps(value, default=str) if not isinstance(value, str) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."

"""What a supervisor and the monitors below it tell each other, as lines of JSON over a Unix socket.

The monitor connects, the supervisor says a Welcome, the monitor a Hello. Then come the lines that the journal gets too,
and in between Figures, whenever these have changed.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any, TypeVar

#: The socket's path, for every process below the supervisor.
SOCKET_VARIABLE = "TRAINING_EXPORTER_SUPERVISOR"

T = TypeVar("T", "Welcome", "Hello", "Figures")


class ProtocolError(ValueError):
    """A line that is not what it should be."""


@dataclass(frozen=True)
class Welcome:
    """`url` is the page that will show the run; `run` its name, None: the one that it gives itself."""

    url: str
    run: str | None


@dataclass(frozen=True)
class Hello:
    """A run, its process, its journal (None without one), and its profile as YAML."""

    run: str
    pid: int
    journal: str | None
    profile: str


@dataclass(frozen=True)
class Figures:
    """What a monitor says about itself (`families.MonitorFigures`)."""

    errors: dict[str, int]
    dropped_events: int
    waiting_events: int = 0


def line(message: Welcome | Hello | Figures) -> bytes:
    """The message as one line."""
    return json.dumps({type(message).__name__.lower(): dataclasses.asdict(message)}).encode() + b"\n"


def parse(data: bytes, kind: type[T]) -> T:
    """The message that `line` made. Raises ProtocolError."""
    try:
        return of_record(json.loads(data), kind)
    except (ValueError, RecursionError):
        raise ProtocolError(f"no {kind.__name__}: {data[:60]!r}") from None


def of_record(record: Any, kind: type[T]) -> T:
    """As `parse`, of the JSON object that the line holds."""
    try:
        return kind(**record[kind.__name__.lower()])
    except (TypeError, KeyError, AttributeError):
        raise ProtocolError(f"no {kind.__name__}") from None

"""The journal: every event of a run appended as one JSON line to `<output_dir>/journal.jsonl`.

It is what survives a crash. Writing happens on a thread of its own, so that a slow or full disk never reaches the
training loop; each event is handed to the kernel as soon as it comes, so that a kill -9 loses none that was logged.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from training_exporter.events import Event, InvalidEvent, RunEnded, RunStarted, from_record, to_record

JOURNAL_NAME = "journal.jsonl"

#: What a line about a RunStarted holds.
_STARTED = json.dumps(RunStarted.kind).encode()

#: Bytes at the end of a journal in which the end of its run is looked for.
_TAIL = 1 << 18

#: Events that may wait for the disk before further ones are dropped (and counted): about 4 MB of memory.
QUEUE_LIMIT = 20_000

log = logging.getLogger(__name__)


class JournalError(ValueError):
    """A file that is no journal; the message names the file, the line and what was found."""


@dataclass
class Skipped:
    """Lines that `read` passed over: (line number, what is wrong with it)."""

    lines: list[tuple[int, str]] = field(default_factory=list)

    _KEEP = 20

    def add(self, number: int, what: str) -> None:
        if len(self.lines) < self._KEEP:
            self.lines.append((number, what))


def read(path: Path, skipped: Skipped | None = None) -> Iterator[Event]:
    """The events of a journal, in order.

    A line that is torn (the process or the disk died while it was written) is passed over and noted in `skipped`.
    Raises JournalError when the file's first line is no event, so that a foreign file is not taken for a journal.
    """
    known = False
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                try:
                    event = from_record(json.loads(line))
                except (ValueError, RecursionError) as error:
                    what = str(error) if isinstance(error, InvalidEvent) else f"not JSON: {line[:60]!r}"
                    if not known:
                        raise JournalError(f"{path}: line {number}: no event of a journal: {what}") from None
                    if skipped is not None:
                        skipped.add(number, what)
                    continue
                known = True
                yield event
    except OSError as error:
        raise JournalError(f"{path}: cannot be read: {error.strerror}") from None


def starts(path: Path) -> list[RunStarted]:
    """Each time that a process took up the run, in order; none where there is no journal to read.

    Only the lines that can be one are parsed: of a long journal a second for some million lines.
    """
    found = []
    with contextlib.suppress(OSError), path.open("rb") as file:
        for line in file:
            if _STARTED in line:
                with contextlib.suppress(ValueError, RecursionError):
                    event = from_record(json.loads(line))
                    if isinstance(event, RunStarted):
                        found.append(event)
    return found


def ending(path: Path) -> RunEnded | None:
    """The end of the journal's last process, None where it has none (or where there is no journal to read)."""
    found = None
    with contextlib.suppress(OSError), path.open("rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL))
        for line in file:
            with contextlib.suppress(ValueError, RecursionError):
                event = from_record(json.loads(line))
                if isinstance(event, RunEnded):
                    found = event
                elif isinstance(event, RunStarted):
                    found = None
    return found


def make_room(path: Path, run: str) -> None:
    """Set the journal of another run aside as `journal.<run>.jsonl`: one file holds one run; none is overwritten."""
    before = starts(path)
    previous = before[-1].run if before else None
    if not path.exists() or previous == run:
        return
    stem = "".join(c if c.isalnum() or c in "-_." else "_" for c in previous or "unreadable")[:100]
    target, number = path.with_name(f"journal.{stem}.jsonl"), 2
    while target.exists():
        target, number = path.with_name(f"journal.{stem}.{number}.jsonl"), number + 1
    path.rename(target)


class EventWriter:
    """Hands events on from a thread of its own.

    `put` never blocks and never raises. When `_write` raises, `on_problem` hears of it once, and it is tried again with
    the next event; what could not be handed on is counted in `dropped`.
    """

    #: What a message about a problem calls this.
    name: str

    def __init__(self, on_problem: Callable[[str], None] = log.warning) -> None:
        self.dropped = 0
        self._on_problem = on_problem
        self._complained = False
        self._queue: queue.SimpleQueue[Event | threading.Event | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=type(self).__name__, daemon=True)
        self._thread.start()

    def put(self, event: Event) -> None:
        if self._queue.qsize() < QUEUE_LIMIT:
            self._queue.put(event)
        else:
            self.dropped += 1

    def flush(self, timeout: float = 5.0) -> None:
        """Have what is waiting written, for at most `timeout` seconds."""
        written = threading.Event()
        self._queue.put(written)
        written.wait(timeout)

    def close(self, timeout: float = 5.0) -> None:
        """Write what is waiting, for at most `timeout` seconds."""
        self._queue.put(None)
        self._thread.join(timeout)

    def _write(self, batch: list[Event]) -> None:
        """Hand on the events, which are at least one. May raise."""
        raise NotImplementedError

    def _release(self) -> None:
        """Nothing comes any more."""

    def _run(self) -> None:
        closing = False
        while not closing:
            batch, flushed, closing = self._next_batch()
            try:
                if batch:
                    self._write(batch)
            except Exception as error:
                self.dropped += len(batch)
                if not self._complained:
                    self._complained = True
                    self._on_problem(f"{self.name}: cannot be written: {error}; trying again with each event")
            if flushed is not None:
                flushed.set()
        self._release()

    def _next_batch(self) -> tuple[list[Event], threading.Event | None, bool]:
        """All that has come meanwhile, for one write, who waits for it, and whether `close` was called.

        Waits for the first event.
        """
        batch: list[Event] = []
        item = self._queue.get()
        while item is not None:
            if isinstance(item, threading.Event):
                return batch, item, False
            batch.append(item)
            if len(batch) >= 1000:
                return batch, None, False
            try:
                item = self._queue.get_nowait()
            except queue.Empty:
                return batch, None, False
        return batch, None, True


def lines_of(events: Iterable[Event]) -> bytes:
    """Events as a journal has them, one line each."""
    return "".join(json.dumps(to_record(event), allow_nan=False) + "\n" for event in events).encode()


class JournalWriter(EventWriter):
    """Appends events to a journal file. What could not be written is counted in `dropped`."""

    def __init__(self, path: Path, on_problem: Callable[[str], None] = log.warning) -> None:
        self.path = path
        self.name = f"journal {path}"
        self._torn = False
        self._file: int | None = None
        super().__init__(on_problem)

    def _release(self) -> None:
        if self._file is not None:
            os.close(self._file)

    def _write(self, batch: list[Event]) -> None:
        if self._file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
            size = os.fstat(self._file).st_size
            self._torn = size > 0 and os.pread(self._file, 1, size - 1) != b"\n"
        data = lines_of(batch)
        if self._torn:
            data = b"\n" + data
        written = 0
        try:
            while written < len(data):
                written += os.write(self._file, data[written:])
        finally:
            self._torn = 0 < written < len(data) or (written == 0 and self._torn)

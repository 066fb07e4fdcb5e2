"""The journal: every event of a run appended as one JSON line to `<output_dir>/journal.jsonl`.

It is what survives a crash. Writing happens on a thread of its own, so that a slow or full disk never reaches the
training loop; each event is handed to the kernel as soon as it comes, so that a kill -9 loses none that was logged. Of
steps that follow each other faster than `event_writer.PAUSE_SECONDS` it may lose those of that time.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from training_exporter.event_writer import EventWriter, Source
from training_exporter.events import MAX_TIME, ClockSet, Event, InvalidEvent, RunEnded, RunStarted, from_record

JOURNAL_NAME = "journal.jsonl"

#: Bytes at the end of a journal in which the end of its run is looked for.
_TAIL = 1 << 18

#: Bytes that may wait for a disk that takes nothing, before further events are dropped (and counted): those of a few
#: hours of training.
BACKLOG_LIMIT = 16 << 20

#: Bytes of a line; a longer one is none of a journal, and is not taken into memory.
LINE_LIMIT = 4 << 20

#: What a full disk answers. After anything else (a network share that has gone) the file is opened again.
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})

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
            for number, line in _lines(file):
                if not line.strip():
                    continue
                try:
                    event = _parsed(line)
                except InvalidEvent as error:
                    what = str(error)
                    if not known:
                        raise JournalError(f"{path}: line {number}: no event of a journal: {what}") from None
                    if skipped is not None:
                        skipped.add(number, what)
                    continue
                known = True
                yield event
    except OSError as error:
        raise JournalError(f"{path}: cannot be read: {error.strerror}") from None


def _lines(file: IO[bytes]) -> Iterator[tuple[int, bytes]]:
    """Each line and its number; of one that is too long its first LINE_LIMIT bytes."""
    number = 0
    while line := file.readline(LINE_LIMIT):
        number += 1
        yield number, line
        while not line.endswith(b"\n") and (line := file.readline(LINE_LIMIT)):
            pass


def _parsed(line: bytes) -> Event:
    if len(line) >= LINE_LIMIT:
        raise InvalidEvent(f"found {LINE_LIMIT} bytes or more, allowed: a line of fewer")
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        raise InvalidEvent(f"not JSON: {line[:60]!r}") from None
    return from_record(record)


def starts(path: Path) -> list[RunStarted]:
    """Each time that a process took up the run, in order; none where there is no journal to read.

    Only the lines that can be one are parsed: of a long journal a second for some million lines.
    """
    return [event for event in _of(path, RunStarted) if isinstance(event, RunStarted)]


def clock_settings(path: Path) -> list[float]:
    """Seconds by which the clock was set, all in all, while each process that took up the run was at work."""
    sums: list[float] = []
    for event in _of(path, RunStarted, ClockSet):
        if isinstance(event, RunStarted):
            sums.append(0.0)
        elif isinstance(event, ClockSet) and sums and abs(event.by_seconds) < MAX_TIME:
            sums[-1] += event.by_seconds
    return sums


def _of(path: Path, *kinds: type[Event]) -> Iterator[Event]:
    marks = [json.dumps(kind.kind).encode() for kind in kinds]
    with contextlib.suppress(OSError), path.open("rb") as file:
        for _, line in _lines(file):
            if any(mark in line for mark in marks):
                with contextlib.suppress(InvalidEvent):
                    event = _parsed(line)
                    if isinstance(event, kinds):
                        yield event


def ending(path: Path) -> RunEnded | None:
    """The end of the journal's last process, None where it has none (or where there is no journal to read)."""
    found = None
    with contextlib.suppress(OSError), path.open("rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL))
        for _, line in _lines(file):
            with contextlib.suppress(InvalidEvent):
                event = _parsed(line)
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
    stem = "".join(c if c.isalnum() or c in "-_." else "_" for c in previous or "unreadable")
    stem = stem.encode()[:100].decode(errors="ignore")  # a file's name has 255 bytes at most
    target, number = path.with_name(f"journal.{stem}.jsonl"), 2
    while target.exists():
        target, number = path.with_name(f"journal.{stem}.{number}.jsonl"), number + 1
    path.rename(target)


class JournalWriter(EventWriter):
    """Appends events to a journal file.

    While the disk refuses, what comes is kept in memory and written once there is room: tried with each event, and at
    the end. `on_problem` hears of it once. What could not be kept, or was still unwritten at the end, is counted in
    `dropped`.
    """

    def __init__(
        self, path: Path, on_problem: Callable[[str], None] = log.warning, source: Source | None = None
    ) -> None:
        self.path = path
        self.name = f"journal {path}"
        self._file: int | None = None
        #: Whole lines that the file has not yet, and how many bytes of the first one it has.
        self._backlog = bytearray()
        self._begun = 0
        #: Events that a disk would not take so far.
        self.waiting = 0
        super().__init__(on_problem, source)

    def _write(self, lines: list[bytes]) -> None:
        for line in lines:
            self._keep(line)
        try:
            self._hand_over()
        except Exception as error:
            if not isinstance(error, OSError) or error.errno not in _FULL:
                self._close_file()
            what = error.strerror if isinstance(error, OSError) else error
            self._complain(f"cannot be written: {what}; events wait in memory until it can be")
        self.waiting = self._backlog.count(b"\n")

    def _release(self) -> None:
        self._write([])
        self._close_file()
        if self._backlog:
            log.warning("%s: its last %d events could not be written", self.name, self.waiting)
            self.dropped += self.waiting

    def _keep(self, line: bytes) -> None:
        """Put the line into the backlog, if there is room; else count it."""
        if len(line) >= LINE_LIMIT:
            self.dropped += 1
            self._complain(f"an event cannot be written: found {len(line)} bytes, allowed: fewer than {LINE_LIMIT}")
        elif len(self._backlog) + len(line) > BACKLOG_LIMIT:
            self.dropped += 1
        else:
            self._backlog += line

    def _hand_over(self) -> None:
        """Hand the backlog to the kernel. Raises OSError with what could not be handed over still in it."""
        if not self._backlog:
            return
        if self._file is None:
            self._file, self._begun = self._opened(), 0
        try:
            while self._begun < len(self._backlog):
                with memoryview(self._backlog) as view:
                    self._begun += os.write(self._file, view[self._begun :])
        finally:
            done = self._backlog.rfind(b"\n", 0, self._begun) + 1
            del self._backlog[:done]
            self._begun -= done

    def _opened(self) -> int:
        """The file, with its last line ended: another process, or this one before, may have left it torn."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        try:
            size = os.fstat(file).st_size
            if size > 0 and os.pread(file, 1, size - 1) != b"\n":
                os.write(file, b"\n")
        except OSError:
            os.close(file)
            raise
        return file

    def _close_file(self) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):
                os.close(self._file)
            self._file = None

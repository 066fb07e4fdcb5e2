"""Records of finished runs on disk: which files hold one, and the events of each.

A record is our journal, a Hugging Face `trainer_state.json`, or a folder of TensorBoard event files. Of several
records of the same run in its output directory the one that tells most is read: the journal, else the trainer state
(of the last checkpoint), else TensorBoard's.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from training_exporter import journal
from training_exporter.events import MAX_TIME, ClockSet, Event, RunStarted
from training_exporter.sources import log_history, tensorboard, trainer_state
from training_exporter.sources.log_history import RecordError

Format = Literal["journal", "trainer_state", "tensorboard"]

_CHECKPOINT = re.compile(r"checkpoint-(\d+)")
_SNIFF_BYTES = 65536


@dataclass
class Record:
    """One run on disk. `path` is its file, or the folder for TensorBoard's; `run` a name for it.

    `problems` fills while the events are read: lines that were passed over.
    """

    path: Path
    format: Format
    run: str
    seconds_per_step: float = 1.0
    problems: list[str] = field(default_factory=list)

    @property
    def source(self) -> Path:
        """The file that stands for the record; of TensorBoard's several ones the first."""
        return next(iter(tensorboard.event_files(self.path)), self.path) if self.path.is_dir() else self.path

    def events(self) -> Iterator[Event]:
        """The run's events in order, the first one a RunStarted. Raises RecordError."""
        try:
            if self.format == "journal":
                yield from self._journal()
                return
            read = trainer_state.read if self.format == "trainer_state" else tensorboard.read
            header, entries = read(self.path, self.run)
            try:
                yield from log_history.events_of(
                    header, entries, seconds_per_step=self.seconds_per_step, end_time=self.path.stat().st_mtime
                )
            except RecordError as error:
                raise RecordError(f"{self.path}: {error}") from None
        except OSError as error:
            raise RecordError(f"{self.path}: cannot be read: {error.strerror}") from None

    def _journal(self) -> Iterator[Event]:
        skipped = journal.Skipped()
        try:
            reading = journal.read(self.path, skipped)
            first = next(reading, None)
            if first is None:
                raise RecordError(f"{self.path}: the journal is empty")
            if not isinstance(first, RunStarted):
                raise RecordError(
                    f"{self.path}: line 1: found the event {first.kind!r}, allowed: {RunStarted.kind!r} at the start"
                )
            now, ahead, settings = 0.0, 0.0, iter(journal.clock_settings(self.path))
            for event in itertools.chain([first], reading):
                if isinstance(event, RunStarted):
                    ahead = next(settings, 0.0)
                elif isinstance(event, ClockSet):
                    # A process' times are all of its clock as it was at the end: it was set to be right.
                    ahead -= event.by_seconds if abs(event.by_seconds) < MAX_TIME else 0.0
                    continue
                # One that was set unseen must not bring samples out of order.
                now = max(now, min(event.time + ahead, MAX_TIME - 1))
                yield event if event.time == now else dataclasses.replace(event, time=now)
        except journal.JournalError as error:
            raise RecordError(str(error)) from None
        finally:
            self.problems += [f"{self.path}: line {number}: {what}; passed over" for number, what in skipped.lines]


def find(paths: Sequence[Path], seconds_per_step: float = 1.0) -> tuple[list[Record], list[str]]:
    """The records in `paths` (files, or folders with all that is below), and a line for each file that is none.

    A file that is named is read whatever its name; in a folder only what a run writes is looked at. Raises
    RecordError for a path that does not exist.
    """
    records: list[Record] = []
    errors: list[str] = []
    for path in paths:
        if path.is_dir():
            records += [Record(found, kind, _name(found, kind), seconds_per_step) for found, kind in _in_folder(path)]
        elif path.exists():
            try:
                kind = _kind(path)
            except RecordError as error:
                errors.append(str(error))
            else:
                records.append(Record(path, kind, _name(path, kind), seconds_per_step))
        else:
            raise RecordError(f"{path}: no such file or folder")
    unique = {record.path.resolve(): record for record in reversed(records)}
    return sorted(unique.values(), key=lambda record: str(record.path)), errors


def _in_folder(top: Path) -> Iterator[tuple[Path, Format]]:
    """What a run writes, at most one kind per output directory."""
    seen: set[Path] = set()
    # Links too, because a collection of runs is often made of them; each folder once, because they may form a circle.
    for root, folders, names in os.walk(top, followlinks=True):
        folder = Path(root)
        if folder.resolve() in seen:
            folders.clear()
            continue
        seen.add(folder.resolve())
        folders.sort()
        journals = sorted(name for name in names if _is_journal(folder / name))
        states = sorted(name for name in names if _is_state(folder / name))
        checkpoints = sorted((int(m[1]), name) for name in folders if (m := _CHECKPOINT.fullmatch(name)))
        yield from ((folder / name, "journal") for name in journals)
        if not journals:
            yield from ((folder / name, "trainer_state") for name in states)
        last = next(
            (path for _, name in reversed(checkpoints) if (path := folder / name / trainer_state.STATE_NAME).is_file()),
            None,
        )
        if last is not None and not journals and not states:
            yield last, "trainer_state"
        # Checkpoints hold earlier states of the same run.
        folders[:] = [name for name in folders if not _CHECKPOINT.fullmatch(name)]
        if journals or states or last is not None:
            folders[:] = [name for name in folders if name != "runs" or not _only_tensorboard(folder / name)]
        elif any(tensorboard.is_event_file(name) for name in names):
            yield folder, "tensorboard"


def _only_tensorboard(folder: Path) -> bool:
    """Whether a folder `runs` is where `Trainer` puts its TensorBoard files, and not a collection of runs."""
    names = [name for _, _, names in os.walk(folder) for name in names]
    return bool(names) and all(tensorboard.is_event_file(name) for name in names)


def _is_journal(path: Path) -> bool:
    if path.name == journal.JOURNAL_NAME:
        return True
    return path.suffix == ".jsonl" and _RECORD in _start(path).split(b"\n", 1)[0]


def _is_state(path: Path) -> bool:
    return path.name == trainer_state.STATE_NAME or (path.suffix == ".json" and b'"log_history"' in _start(path))


#: What every line of a journal begins with.
_RECORD = b'{"event":'


def _start(path: Path) -> bytes:
    try:
        if not path.is_file():
            return b""
        with path.open("rb") as file:
            return file.read(_SNIFF_BYTES)
    except OSError:
        return b""


def _kind(path: Path) -> Format:
    """The format of a file that was named. Raises RecordError for one that is none of them."""
    if not path.is_file():
        raise RecordError(f"{path}: not a regular file, allowed: a file or a folder")
    if tensorboard.is_event_file(path.name):
        return "tensorboard"
    if path.name == trainer_state.STATE_NAME:
        return "trainer_state"
    if path.suffix == ".jsonl":
        return "journal"
    start = _start(path).lstrip()
    if start.startswith(_RECORD):
        return "journal"
    if start.startswith(b"{"):
        return "trainer_state"
    raise RecordError(
        f"{path}: found {start[:20]!r} at its start, allowed: a journal ({journal.JOURNAL_NAME}), a "
        f"{trainer_state.STATE_NAME} or a TensorBoard event file"
    )


def _name(path: Path, kind: Format) -> str:
    """A name for the run of a record that does not tell its own: its output directory's."""
    resolved = path.resolve()
    if kind == "trainer_state" and resolved.name != trainer_state.STATE_NAME:
        return resolved.stem
    folder = resolved if resolved.is_dir() else resolved.parent
    if _CHECKPOINT.fullmatch(folder.name):
        folder = folder.parent
    # Trainer's TensorBoard folder: <output_dir>/runs/<date>_<host>
    if kind == "tensorboard" and folder.parent.name == "runs":
        return f"{folder.parent.parent.name}-{folder.name}"
    return folder.name or "run"

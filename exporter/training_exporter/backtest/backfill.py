"""`training-exporter backfill`: finished runs as blocks in the data directory of a Prometheus.

The samples are those that Prometheus would have scraped at the time. Blocks may overlap others, those of a live run
as well as those of an earlier backfill: Prometheus merges them, and of samples that are there twice it keeps one.
"""

from __future__ import annotations

import argparse
import math
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from training_exporter.arguments import fail
from training_exporter.backtest.cli import add_paths, new_state

if TYPE_CHECKING:
    from training_exporter.backtest import replay
    from training_exporter.sources.files import Record
    from training_exporter.state import RunState

#: Prometheus keeps its data for so long unless `--storage.tsdb.retention.time` says otherwise.
DEFAULT_RETENTION_SECONDS = 15 * 86_400

#: Longer blocks make fewer passes over the samples, shorter ones let Prometheus drop old data earlier.
MAX_BLOCK_HOURS = 18

#: How far a training machine's clock may be ahead of this one's.
FUTURE_SECONDS = 3600.0

#: Target label of the samples: no address of a process, so that no live target has it too.
INSTANCE = "backfill"

_ULID = re.compile(r"[0-7][0-9A-HJKMNP-TV-Z]{25}")


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command `backfill`; the parsed arguments carry the function to run as `run`."""
    parser = subparsers.add_parser(
        "backfill",
        help="put finished runs into a Prometheus' data directory",
        description="Writes finished runs as blocks into a Prometheus' data directory, so that past runs appear in "
        "Grafana beside the live ones. A running Prometheus takes them up within a minute or two; they may overlap "
        "its own blocks. Records without times end at their file's date. Exit status: 0, or 2 for wrong input.",
    )
    add_paths(parser)
    parser.add_argument("--data-dir", type=Path, required=True, metavar="DIR", help="Prometheus' --storage.tsdb.path")
    parser.add_argument("--create", action="store_true", help="make the directory where there is none")
    parser.add_argument("--rules", action="store_true", help="write the series of the shipped recording rules too")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Runs the command; returns the exit status."""
    try:
        # Imported here: the other commands must work without the packages of the extra `backtest`.
        from training_exporter.backtest import output
        from training_exporter.profile import ProfileError
        from training_exporter.sources import files
        from training_exporter.sources.log_history import RecordError
        from training_exporter.stack.errors import StackError
    except ImportError as error:
        return fail("backfill", f"needs training-exporter[backtest] ({error})")
    try:
        _check_data_dir(arguments.data_dir, arguments.create)
        records, errors = files.find(arguments.paths, arguments.seconds_per_step)
        with output.progress_bar() as progress:
            written = backfill(
                records,
                arguments.data_dir,
                errors,
                make_state=new_state(arguments.profile),
                recordings=arguments.rules,
                progress=progress,
            )
    except (StackError, RecordError, ProfileError) as error:
        return fail("backfill", str(error))
    except OSError as error:
        return fail("backfill", f"{error.filename or arguments.data_dir}: {error.strerror}")
    for line in errors:
        print(f"not read: {line}", file=sys.stderr)
    if not written:
        return fail("backfill", f"no run that can be read in {', '.join(map(str, arguments.paths))}")
    for name, start, end in written:
        print(f"{name}: {_day(start)} to {_day(end)} UTC")
    oldest = min(end for _, _, end in written)
    if oldest < time.time() - DEFAULT_RETENTION_SECONDS:
        print(
            f"training-exporter backfill: Prometheus deletes blocks older than its retention, 15 days unless "
            f"--storage.tsdb.retention.time says more; the oldest of these runs ended on {_day(oldest)}",
            file=sys.stderr,
        )
    return 0


def backfill(
    records: Sequence[Record],
    data_dir: Path,
    errors: list[str],
    *,
    make_state: Callable[[], RunState],
    recordings: bool = False,
    progress: replay.Progress = lambda what, share: None,
) -> list[tuple[str, float, float]]:
    """Write `records` into `data_dir`; returns each run's name, first and last time (Unix seconds).

    Nothing is in `data_dir` before all of it can be. Lines about records that cannot be read go to `errors`.
    `recordings` adds the series of the shipped recording rules. Raises StackError and OSError.
    """
    from training_exporter.backtest import replay, rules
    from training_exporter.backtest.engine import Engine, create_blocks
    from training_exporter.sinks.openmetrics import OpenMetricsWriter, Replay
    from training_exporter.sources.log_history import RecordError

    fine = replay.scrape_interval()
    coarsest = fine
    names: dict[str, int] = {}
    written: list[tuple[str, float, float]] = []
    # Beside the blocks, so that they are moved and not copied; Prometheus looks at no folder with such a name.
    with tempfile.TemporaryDirectory(prefix="backfill-", dir=data_dir) as folder:
        work = Path(folder)
        text = work / "runs.om"
        with OpenMetricsWriter(text) as writer:
            for number, record in enumerate(records):
                progress(f"reading {record.run}", replay.READING_SHARE * number / len(records))
                try:
                    events = replay.events_of(record)
                    if events[-1].time > time.time() + FUTURE_SECONDS:
                        # Prometheus counts its retention from the newest block, and would drop everything else.
                        raise RecordError(
                            f"{record.path}: it ended on {_day(events[-1].time)}, allowed: no future time"
                        )
                except RecordError as error:
                    errors.append(str(error))
                    continue
                finally:
                    errors += record.problems
                interval = replay.interval_for(events, fine)
                coarsest = max(coarsest, interval)
                timeline = Replay(writer, interval=interval).run(
                    events,
                    name=replay.label_of(events, record, names),
                    state=make_state(),
                    labels={"instance": INSTANCE, "job": "training"},
                    up=False,
                )
                written.append((timeline.run, timeline.start, timeline.end))
        if not written:
            return []
        progress("writing blocks", replay.READING_SHARE)
        blocks = work / "data"
        if recordings:
            with Engine(work, coarsest, MAX_BLOCK_HOURS) as engine:
                engine.load(text)
                levels = rules.load(None, all_recordings=True).recordings
                for rule in engine.record(levels, _windows(written, coarsest)):
                    progress(f"recording {rule.name}", 0.8)
        else:
            create_blocks(text, blocks, MAX_BLOCK_HOURS)
        for block in sorted(each for each in blocks.iterdir() if _ULID.fullmatch(each.name)):
            _move(block, data_dir)
    progress("done", 1.0)
    return written


def _windows(written: Sequence[tuple[str, float, float]], interval: float) -> list[tuple[float, float]]:
    """The times in which there is a run, without overlaps, from and to multiples of `interval`."""
    windows: list[tuple[float, float]] = []
    for start, end in sorted((start, end) for _, start, end in written):
        start, end = math.floor(start / interval) * interval, math.ceil(end / interval) * interval
        if windows and start <= windows[-1][1] + interval:
            windows[-1] = (windows[-1][0], max(windows[-1][1], end))
        else:
            windows.append((start, end))
    return windows


def _check_data_dir(folder: Path, create: bool) -> None:
    """Raises StackError where `folder` is no data directory of a Prometheus."""
    from training_exporter.stack.errors import StackError

    if folder.is_dir():
        names = {each.name for each in folder.iterdir()}
        if names & {"wal", "chunks_head"} or any(_ULID.fullmatch(name) for name in names):
            return
        if create and not names:
            return
        found = ", ".join(sorted(names)[:3]) or "an empty directory"
        raise StackError(
            f"{folder}: found {found}, allowed: a Prometheus' data directory (with wal/, chunks_head/ or blocks)"
            + ("" if names else "; --create takes an empty one")
        )
    if folder.exists():
        raise StackError(f"{folder}: not a directory")
    if not create:
        raise StackError(f"{folder}: no such directory; --create makes it")
    folder.mkdir(parents=True)


def _move(block: Path, data_dir: Path) -> None:
    """Put a finished block beside the others, at once and owned as they are."""
    owner = data_dir.stat()
    if os.geteuid() == 0:
        for each in (block, *block.rglob("*")):
            os.chown(each, owner.st_uid, owner.st_gid)
    block.rename(data_dir / block.name)


def _day(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.gmtime(seconds))

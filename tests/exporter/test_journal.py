"""What was logged is on disk, whatever happens to the process or the disk."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from training_exporter import events
from training_exporter.journal import JournalError, JournalWriter, Skipped, make_room, read, starts


def loss(step: int) -> events.LossLogged:
    return events.LossLogged(time=1000.0 + step, step=step, loss=2.0 / step)


def started(run: str) -> events.RunStarted:
    return events.RunStarted(time=1000.0, run=run)


def write(path: Path, *what: events.Event) -> None:
    writer = JournalWriter(path)
    for event in what:
        writer.put(event)
    writer.close()
    assert writer.dropped == 0


def test_events_come_back_in_order(tmp_path: Path) -> None:
    path = tmp_path / "new" / "journal.jsonl"
    written = [started("r"), *(loss(step) for step in range(1, 3000))]
    write(path, *written)
    assert list(read(path)) == written


def test_a_torn_last_line_is_passed_over_and_healed(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    write(path, started("r"), loss(1))
    whole = path.read_bytes()
    for cut in range(1, 40):
        path.write_bytes(whole[:-cut])
        skipped = Skipped()
        kept = list(read(path, skipped))
        assert kept[0] == started("r")
        # Only the newline is missing at first: then the line is whole.
        assert len(kept) == (2 if cut == 1 else 1)
        assert len(skipped.lines) == (0 if cut == 1 else 1)
        write(path, loss(2))
        assert list(read(path))[-1] == loss(2), "a resumed run's first event must not be glued to the torn line"


def test_a_foreign_file_is_refused_by_name_and_line(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_text('{"loss": 1.0}\n')
    with pytest.raises(JournalError, match=r"journal\.jsonl: line 1: no event of a journal: key 'event': found None"):
        list(read(path))
    path.write_bytes(b"\x80\x81\x82")
    with pytest.raises(JournalError, match=r"line 1: .*not JSON"):
        list(read(path))
    with pytest.raises(JournalError, match="No such file"):
        list(read(tmp_path / "absent.jsonl"))


def test_another_runs_journal_is_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    for run in ("../first run", "second", "third"):
        make_room(path, run)
        write(path, started(run))
    make_room(path, "third")
    names = sorted(p.name for p in tmp_path.iterdir())
    assert names == ["journal..._first_run.jsonl", "journal.jsonl", "journal.second.jsonl"]
    assert list(read(path)) == [started("third")]


def test_nothing_is_lost_by_kill_9(tmp_path: Path) -> None:
    """The child says on stdout which step it has logged; each of those must be in the journal."""
    path = tmp_path / "journal.jsonl"
    code = f"""
import os, time
from training_exporter import Monitor, events
monitor = Monitor("killed", output_dir={str(tmp_path)!r}, serve=False, gpu=False)
monitor.emit(events.RunStarted(time=time.time(), run="killed"))
for step in range(1, 100000):
    monitor.emit(events.LossLogged(time=time.time(), step=step, loss=1.0))
    time.sleep(0.002)
    os.write(1, f"{{step}}\\n".encode())
"""
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert child.stdout is not None
    said = [int(child.stdout.readline()) for _ in range(200)]
    child.send_signal(signal.SIGKILL)
    said += [int(line) for line in child.stdout.read().split()]
    child.wait()
    logged = [event.step for event in read(path) if isinstance(event, events.LossLogged)]
    assert logged[: len(said)] == said


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
def test_a_full_disk_is_survived_and_what_fits_later_is_written(tmp_path: Path) -> None:
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tmp_path)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr.decode().strip()}")
    try:
        filler, path, problems = tmp_path / "filler", tmp_path / "journal.jsonl", []
        writer = JournalWriter(path, problems.append)
        writer.put(started("r"))
        for step in range(1, 2000):
            writer.put(loss(step))
        writer.close()
        assert writer.dropped > 0
        assert len(problems) == 1
        assert "No space left" in problems[0]
        before = list(read(path))
        assert before[0] == started("r")
        filler.unlink(missing_ok=True)
        subprocess.run(["mount", "-o", "remount,size=1m", str(tmp_path)], check=True)
        write(path, loss(5000))
        assert list(read(path))[: len(before)] == before
        assert list(read(path))[-1] == loss(5000)
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_who_took_the_run_up_is_found_among_other_lines(tmp_path: Path) -> None:
    """Also where a line is torn, foreign, or only speaks of a start."""
    path = tmp_path / "journal.jsonl"
    assert starts(path) == []
    again = events.RunStarted(time=2000.0, run="r", step=7)
    ended = events.RunEnded(time=1500.0, state="failed", reason='ValueError: "run_started" is no key')
    write(path, started("r"), loss(1), ended)
    with path.open("ab") as file:
        file.write(b'{"event": "run_started", "ti\n\xff"run_started"\n')
    write(path, again, loss(8))
    assert starts(path) == [started("r"), again]

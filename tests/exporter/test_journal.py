"""What was logged is on disk, whatever happens to the process or the disk."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from training_exporter import events, journal
from training_exporter.event_writer import PAUSE_SECONDS
from training_exporter.journal import LINE_LIMIT, JournalError, JournalWriter, Skipped, make_room, read, starts


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
    with pytest.raises(JournalError, match=r"journal\.jsonl: line 1: no event of a journal: key 'event': found noth"):
        list(read(path))
    path.write_bytes(b"\x80\x81\x82")
    with pytest.raises(JournalError, match=r"line 1: .*not JSON"):
        list(read(path))
    with pytest.raises(JournalError, match="No such file"):
        list(read(tmp_path / "absent.jsonl"))


def test_a_line_without_an_end_is_passed_over_and_takes_no_memory(tmp_path: Path) -> None:
    """A quarter of a gigabyte of it, sparse on disk."""
    path = tmp_path / "journal.jsonl"
    write(path, started("r"))
    with path.open("ab") as file:
        file.truncate(1 << 28)
        file.seek(0, os.SEEK_END)
        file.write(b"\n")
    write(path, loss(1))
    skipped = Skipped()
    tracemalloc.start()
    assert list(read(path, skipped)) == [started("r"), loss(1)]
    assert starts(path) == [started("r")]
    assert tracemalloc.get_traced_memory()[1] < 6 * LINE_LIMIT
    tracemalloc.stop()
    assert skipped.lines == [(2, f"found {LINE_LIMIT} bytes or more, allowed: a line of fewer")]


@pytest.mark.parametrize(
    "line", ["[" * 100_000, '{"event":' * 50_000, '{"event": "loss_logged", "step": 1' + "0" * 5000 + "}"]
)
def test_what_is_nested_or_long_beyond_reason_is_passed_over(tmp_path: Path, line: str) -> None:
    path = tmp_path / "journal.jsonl"
    write(path, started("r"))
    with path.open("a") as file:
        file.write(line + "\n")
    write(path, loss(1))
    skipped = Skipped()
    assert list(read(path, skipped)) == [started("r"), loss(1)]
    assert len(skipped.lines) == 1
    assert len(skipped.lines[0][1]) < 200


def test_another_runs_journal_is_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    for run in ("../first run", "second", "third"):
        make_room(path, run)
        write(path, started(run))
    make_room(path, "third")
    names = sorted(p.name for p in tmp_path.iterdir())
    assert names == ["journal..._first_run.jsonl", "journal.jsonl", "journal.second.jsonl"]
    assert list(read(path)) == [started("third")]


@pytest.mark.parametrize("run", ["学習" * 100, "\ud800" * 300, "\x00" * 300, "." * 300, "", "é/" * 200])
def test_a_journal_is_set_aside_whatever_its_run_was_called(tmp_path: Path, run: str) -> None:
    path = tmp_path / "journal.jsonl"
    write(path, started(run))
    make_room(path, "next")
    write(path, started("next"))
    (other,) = (each for each in tmp_path.iterdir() if each != path)
    assert list(read(other)) == [started(run)]


def killed(folder: Path, loop: str, said: int, after: float) -> list[str]:
    """What a process has said on stdout that emits events in a loop and is killed some seconds after it has said
    something for the `said`th time."""
    code = f"""
import itertools, os, time
from training_exporter import Monitor, events
monitor = Monitor("killed", output_dir={str(folder)!r}, serve=False, gpu=False)
monitor.emit(events.RunStarted(time=time.time(), run="killed"))
def say(what):
    time.sleep(0.002)
    os.write(1, f"{{what}}\\n".encode())
for step in itertools.count(1):
    {loop}
"""
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    lines = [child.stdout.readline() for _ in range(said)]
    time.sleep(after)
    child.send_signal(signal.SIGKILL)
    lines += child.stdout.readlines()
    child.wait()
    return [line.strip() for line in lines if line.endswith("\n")]


@pytest.mark.parametrize("seed", range(5))
def test_nothing_is_lost_by_kill_9(tmp_path: Path, seed: int) -> None:
    """At any moment, of steps that take as long as a writer rests."""
    moment = random.Random(seed)
    step = "monitor.emit(events.LossLogged(time=time.time(), step=step, loss=1.0)); say(step)"
    step += f"; time.sleep({PAUSE_SECONDS})"
    said = killed(tmp_path, step, moment.randrange(1, 6), moment.uniform(0, PAUSE_SECONDS))
    logged = [str(event.step) for event in read(tmp_path / "journal.jsonl") if isinstance(event, events.LossLogged)]
    assert logged[: len(said)] == said


@pytest.mark.parametrize("seed", range(5))
def test_of_short_steps_kill_9_takes_a_quarter_of_a_second(tmp_path: Path, seed: int) -> None:
    moment = random.Random(seed)
    step = "monitor.emit(events.LossLogged(time=time.time(), step=step, loss=1.0)); say(f'{step} {time.time()}')"
    said = killed(tmp_path, step, moment.randrange(1, 400), moment.uniform(0, 0.1))
    last = float(said[-1].split()[1])
    due = [line.split()[0] for line in said if float(line.split()[1]) < last - PAUSE_SECONDS - 0.1]
    logged = [str(event.step) for event in read(tmp_path / "journal.jsonl") if isinstance(event, events.LossLogged)]
    assert logged[: len(due)] == due
    assert logged, "the first one is written at once"


@pytest.mark.parametrize("seed", range(5))
def test_kill_9_takes_nothing_that_came_before_another_event(tmp_path: Path, seed: int) -> None:
    """A checkpoint, an evaluation, an end: what a resumed run counts on is there, also of steps that are short."""
    moment = random.Random(seed)
    loop = "monitor.emit(events.LossLogged(time=time.time(), step=step, loss=1.0)); time.sleep(0.002)\n"
    loop += "    if step % 20 == 0: monitor.emit(events.CheckpointSaved(time=time.time(), step=step)); say(step)"
    said = killed(tmp_path, loop, moment.randrange(1, 10), 0.0)
    found = list(read(tmp_path / "journal.jsonl"))
    saved = [event.step for event in found if isinstance(event, events.CheckpointSaved)]
    assert [str(step) for step in saved[: len(said)]] == said
    logged = [event.step for event in found if isinstance(event, events.LossLogged)]
    assert logged[: int(said[-1])] == list(range(1, int(said[-1]) + 1))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 kB; `grow` makes room."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tmp_path)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr.decode().strip()}")
    yield tmp_path
    subprocess.run(["umount", str(tmp_path)], check=True)


def grow(disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,size=4m", str(disk)], check=True)


def test_what_a_full_disk_did_not_take_is_written_once_there_is_room(small_disk: Path) -> None:
    path, problems = small_disk / "journal.jsonl", []
    writer = JournalWriter(path, problems.append)
    written = [started("r"), *(loss(step) for step in range(1, 2000))]
    for event in written:
        writer.put(event)
    writer.flush()
    assert len(problems) == 1
    assert "No space left" in problems[0]
    assert (writer.waiting > 0, writer.dropped) == (True, 0)
    kept = list(read(path))
    assert kept == written[: len(kept)]
    grow(small_disk)
    writer.put(loss(2000))
    writer.close()
    assert (writer.waiting, writer.dropped) == (0, 0)
    skipped = Skipped()
    assert list(read(path, skipped)) == [*written, loss(2000)]
    assert skipped.lines == [], "the line in which the disk became full was completed"


def test_what_is_on_its_way_to_the_disk_does_not_wait_for_it(tmp_path: Path) -> None:
    seen: list[int] = []

    class Watched(JournalWriter):
        def _hand_over(self) -> None:
            seen.append(self.waiting)
            super()._hand_over()

    writer = Watched(tmp_path / "journal.jsonl")
    for step in range(1, 4):
        writer.put(loss(step))
        writer.flush()
    writer.close()
    assert set(seen) == {0}


def test_what_a_disk_never_takes_is_counted_and_the_next_process_goes_on(small_disk: Path) -> None:
    path = small_disk / "journal.jsonl"
    writer = JournalWriter(path, lambda problem: None)
    for step in range(1, 2000):
        writer.put(loss(step))
    writer.close()
    kept = list(read(path))
    assert writer.dropped == 1999 - len(kept)
    grow(small_disk)
    write(path, loss(5000))
    assert list(read(path)) == [*kept, loss(5000)]


def test_memory_for_a_full_disk_is_bounded(small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "BACKLOG_LIMIT", 50_000)
    writer = JournalWriter(small_disk / "journal.jsonl", lambda problem: None)
    for step in range(1, 5000):
        writer.put(loss(step))
    writer.flush()
    assert len(writer._backlog) <= 50_000
    assert writer.dropped > 1000
    writer.close()


def test_a_limit_on_the_size_of_files_is_no_end(tmp_path: Path) -> None:
    """As `ulimit -f` sets it: the kernel's signal about it must not end the training."""
    code = f"""
import resource, time
from training_exporter import Monitor, events
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
monitor = Monitor("r", output_dir={str(tmp_path)!r}, serve=False, gpu=False)
monitor.emit(events.RunStarted(time=1.0, run="r"))
for step in range(1, 200):
    monitor.emit(events.LossLogged(time=1000.0 + step, step=step, loss=2.0 / step))
monitor._journal.flush()
print(monitor.waiting_events > 0, monitor.dropped_events)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
monitor.end("completed")
monitor.close()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "0"], done.stderr
    found = list(read(tmp_path / "journal.jsonl"))
    assert [event.step for event in found if isinstance(event, events.LossLogged)] == list(range(1, 200))


def test_one_event_that_cannot_be_written_takes_no_other_with_it(tmp_path: Path) -> None:
    path, problems = tmp_path / "journal.jsonl", []
    writer = JournalWriter(path, problems.append)
    long = events.RunEnded(time=1.0, state="failed", reason="x" * LINE_LIMIT)
    for event in (started("r"), events.LossLogged(time=1.0, step=object(), loss=1.0), long, loss(1)):  # type: ignore[arg-type]
        writer.put(event)
    writer.close()
    assert list(read(path)) == [started("r"), loss(1)]
    assert (writer.dropped, len(problems)) == (2, 1)


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

"""`training-exporter run` with real children that die in every way."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from supervised import Supervised, child_of, ready, start, stop, train, wait_until

from training_exporter import journal
from training_exporter.event_writer import PAUSE_SECONDS
from training_exporter.events import RunEnded, StepEnded


@pytest.fixture
def watched() -> Iterator[Callable[[Supervised], Supervised]]:
    """Ends what a test has started, the children too."""
    all_of_them: list[Supervised] = []

    def watch(supervised: Supervised) -> Supervised:
        all_of_them.append(supervised)
        return supervised

    yield watch
    for supervised in all_of_them:
        below = []
        if supervised.process.poll() is None:
            below = psutil.Process(supervised.process.pid).children(recursive=True)
        stop(supervised)
        for process in below:
            if process.is_running():
                process.kill()


Watch = Callable[[Supervised], Supervised]


def test_a_run_that_completes(tmp_path: Path, watched: Watch) -> None:
    run = watched(train(tmp_path, 'monitor.end("completed"); monitor.close()'))
    assert run.last_page() == ("completed", "", 0)
    assert run.process.wait() == 0
    assert run.state().state == "completed"
    assert run.out == "ready\n", "the command's output is its own"


def test_the_page_shows_what_the_training_would_have_served(tmp_path: Path, watched: Watch) -> None:
    run = watched(train(tmp_path, "time.sleep(60)", steps=30))
    ready(run)
    assert wait_until(lambda: run.shows("llm_training_steps_total", 30))
    assert run.shows("llm_training_loss", 2.0)
    assert run.shows("llm_training_observed_loss_count", 30)
    assert run.shows_state("training")
    page = run.page()
    assert page[("llm_training_processes", ())] == 1
    assert page[("llm_training_process_resident_memory_bytes", ())] > 5e6
    assert page[("llm_training_process_cpu_seconds_total", ())] > 0
    assert abs(page[("llm_training_process_start_timestamp_seconds", ())] - time.time()) < 60


@pytest.mark.parametrize(
    ("then", "state", "reason", "status"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", "failed", "killed by SIGKILL (exit status 137)", 137),
        ("ctypes.string_at(0)", "failed", "killed by SIGSEGV (exit status 139): a segmentation fault", 139),
        ("os.abort()", "failed", "killed by SIGABRT (exit status 134): it aborted itself", 134),
        ("os._exit(3)", "failed", "exit status 3", 3),
        ("os._exit(0)", "failed", "the process ended (exit status 0) before its training did", 0),
        ("sys.exit(4)", "failed", "exit status 4", 4),
        ('monitor.end("failed", "ValueError: no"); sys.exit(1)', "failed", "ValueError: no (exit status 1)", 1),
        ('monitor.end("completed"); sys.exit(5)', "failed", "exit status 5, after the training had completed", 5),
        ('monitor.end("interrupted", "SIGINT"); sys.exit(130)', "interrupted", "SIGINT", 130),
    ],
)  # fmt: skip
def test_every_end_is_named(tmp_path: Path, watched: Watch, then: str, state: str, reason: str, status: int) -> None:
    run = watched(train(tmp_path, then))
    shown = run.last_page()
    assert (shown[0], shown[2], run.process.wait()) == (state, status, status)
    assert shown[1].startswith(reason)
    # The journal tells the same, to whoever reads it later; a reason of its own is not changed.
    ended = run.state()
    assert (ended.state, ended.step) == (state, 20)
    assert ended.end_reason.startswith(reason.removesuffix(f" (exit status {status})"))


def test_kill_9_at_a_random_moment_loses_no_event_that_the_journal_had(tmp_path: Path, watched: Watch) -> None:
    run = watched(train(tmp_path, "for number in range(21, 10**6): step(number); time.sleep(0.0005)"))
    pid = ready(run)
    time.sleep(PAUSE_SECONDS + random.uniform(0, 1))  # the first of its steps is in the journal by then
    os.kill(pid, signal.SIGKILL)
    assert run.last_page() == ("failed", "killed by SIGKILL (exit status 137)", 137)
    [*_, last_step] = [event.step for event in journal.read(run.journal) if isinstance(event, StepEnded)]
    assert last_step > 20
    ended = run.state()
    assert (ended.state, ended.step) == ("failed", last_step)


def test_the_last_step_is_shown_after_kill_9(tmp_path: Path, watched: Watch) -> None:
    run = watched(train(tmp_path, "time.sleep(60)", steps=33))
    os.kill(ready(run), signal.SIGKILL)
    page = {}
    # The last to come: the run is said to have failed before.
    assert wait_until(lambda: page.update(run.page()) or ("llm_training_process_exit_status", ()) in page)
    assert page[("llm_training_state", (("state", "failed"),))] == 1
    assert page[("llm_training_steps_total", ())] == 33
    assert page[("llm_training_process_exit_status", ())] == 137
    assert page[("llm_training_processes", ())] == 0


def test_a_hang_with_the_gil_held_is_seen(tmp_path: Path, watched: Watch) -> None:
    """A PyDLL call keeps the interpreter: nothing in that process could answer."""
    run = watched(train(tmp_path, "ctypes.PyDLL(None).sleep(60)"))
    ready(run)
    time.sleep(1)
    began = time.monotonic()
    for _ in range(5):
        assert run.shows("llm_training_steps_total", 20)
        assert run.shows_state("training")
    assert time.monotonic() - began < 30
    os.kill(child_of(run), signal.SIGKILL)
    assert run.last_page()[0] == "failed"


def test_a_torn_line_stays_alone(tmp_path: Path, watched: Watch) -> None:
    run = watched(train(tmp_path, "time.sleep(60)"))
    pid = ready(run)
    with run.journal.open("ab") as file:
        file.write(b'{"event": "step_ended", "time": 17')
    os.kill(pid, signal.SIGKILL)
    assert run.last_page()[0] == "failed"
    skipped = journal.Skipped()
    [*_, last] = journal.read(run.journal, skipped)
    assert isinstance(last, RunEnded)
    assert len(skipped.lines) == 1


def test_the_end_that_reached_the_journal_alone_counts(tmp_path: Path, watched: Watch) -> None:
    then = """
from training_exporter.journal import JournalWriter
monitor._journal.put(events.RunEnded(time=time.time(), state="completed", reason="early"))
monitor._journal.flush()
os.kill(os.getpid(), signal.SIGKILL)
"""
    run = watched(train(tmp_path, then))
    state, reason, status = run.last_page()
    assert (state, status) == ("failed", 137)
    assert reason == "killed by SIGKILL (exit status 137), after the training had completed"


def test_a_disk_that_refuses_the_journal_hides_nothing(tmp_path: Path, watched: Watch) -> None:
    """The figures do not pass through the disk."""
    then = """
import resource
size = os.path.getsize(out + "/journal.jsonl")
resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
for number in range(21, 31): step(number); time.sleep(0.05)
time.sleep(60)
"""
    run = watched(train(tmp_path, then))
    pid = ready(run)
    assert wait_until(lambda: run.shows("llm_training_steps_total", 30))
    assert run.state().step == 20
    os.kill(pid, signal.SIGKILL)
    assert run.last_page() == ("failed", "killed by SIGKILL (exit status 137)", 137)


def test_a_run_that_is_taken_up_goes_on_with_its_figures(tmp_path: Path, watched: Watch) -> None:
    """What is made again counts once, as in a training that serves itself."""
    first = watched(train(tmp_path, "os.kill(os.getpid(), signal.SIGKILL)", steps=30))
    first.last_page()
    again = (
        "import sys, time; from training_exporter import Monitor, events\n"
        "monitor = Monitor(output_dir=sys.argv[1], gpu=False)\n"
        "monitor.emit(events.RunStarted(time=time.time(), run='r', max_steps=1000, step=20))\n"
        "monitor.emit(events.LossLogged(time=time.time(), step=21, loss=1.0))\n"
        "print('ready', flush=True); time.sleep(60)\n"
    )
    second = watched(start(tmp_path / "second", [sys.executable, "-c", again, tmp_path / "out"]))
    assert wait_until(lambda: second.shows("llm_training_loss", 1.0))
    assert second.shows("llm_training_observed_loss_count", 21)
    assert second.shows("llm_training_steps_total", 21)


def test_several_runs_of_one_command(tmp_path: Path, watched: Watch) -> None:
    sweep = """
import sys, time
from training_exporter import Monitor, events
for number in range(3):
    monitor = Monitor(f"trial-{number}", output_dir=f"{sys.argv[1]}/{number}", gpu=False)
    monitor.emit(events.RunStarted(time=time.time(), run=monitor.run, max_steps=10))
    monitor.emit(events.LossLogged(time=time.time(), step=number + 1, loss=2.0))
    if number < 2:
        monitor.end("completed")
print("ready", flush=True)
time.sleep(60)
"""
    folder = tmp_path / "sweep"
    run = watched(start(folder, [sys.executable, "-c", sweep, folder], named=False, run="trial-2"))
    assert wait_until(lambda: run.shows("llm_training_steps_total", 3))
    last = Supervised(run.process, folder, "trial-1")
    for _ in range(3):
        last.page()
    assert not last.shows("llm_training_steps_total", 2), "it was seen, and has made room"
    os.kill(child_of(run), signal.SIGKILL)
    assert run.last_page() == ("failed", "killed by SIGKILL (exit status 137)", 137)
    for number, state in enumerate(("completed", "completed", "failed")):
        ended = journal.ending(folder / str(number) / "journal.jsonl")
        assert ended is not None
        assert ended.state == state


def test_a_training_that_dies_below_a_shell_that_goes_on(tmp_path: Path, watched: Watch) -> None:
    script = tmp_path / "training.py"
    from supervised import TRAINING

    script.write_text(TRAINING + "os.kill(os.getpid(), signal.SIGKILL)")
    line = f"{sys.executable} {script} {tmp_path / 'out'} 20 '' || true; sleep 60"
    run = watched(start(tmp_path, ["sh", "-c", line]))
    assert wait_until(lambda: run.shows_state("failed"))
    assert "gone without a word" in run.reason()
    assert run.process.poll() is None


def test_a_shell_passes_on_that_its_child_was_killed(tmp_path: Path, watched: Watch) -> None:
    run = watched(start(tmp_path, ["sh", "-c", "sleep 1; sh -c 'kill -9 $$'"]))
    assert run.last_page() == ("failed", "a process of it was killed by SIGKILL (exit status 137)", 137)


@pytest.mark.parametrize(
    ("command", "state", "reason", "status"),
    [
        ("exit 0", "completed", "", 0),
        ("exit 9", "failed", "exit status 9", 9),
        ("kill -TERM $$", "interrupted", "SIGTERM", 143),
    ],
)
def test_a_command_without_a_journal(
    tmp_path: Path, watched: Watch, command: str, state: str, reason: str, status: int
) -> None:
    run = watched(start(tmp_path, ["sh", "-c", f"sleep 1; {command}"]))
    assert wait_until(lambda: run.shows_state("starting"))
    assert run.page()[("llm_training_processes", ())] >= 1
    assert run.last_page() == (state, reason, status)
    assert run.process.wait() == status


def test_a_crash_in_the_first_second_is_shown_too(tmp_path: Path, watched: Watch) -> None:
    """Prometheus has just been told the address: it may come yet."""
    run = watched(start(tmp_path, ["sh", "-c", "exit 9"]))
    assert wait_until(lambda: run.url)
    time.sleep(1)
    assert run.last_page() == ("failed", "exit status 9", 9)


def test_a_command_that_attaches_later_becomes_a_run(tmp_path: Path, watched: Watch) -> None:
    run = watched(train(tmp_path, "time.sleep(60)", own="a name of its own"))
    ready(run)
    assert wait_until(lambda: run.shows("llm_training_steps_total", 20)), "the name on the command line goes first"
    assert run.state().run == "r"


def test_the_name_that_a_command_gives_itself(tmp_path: Path, watched: Watch) -> None:
    run = watched(train(tmp_path, "time.sleep(60)", run="own", own="own", named=False))
    assert wait_until(lambda: run.url)
    # Before its name is known nothing is said of it, so that nobody misses a run that never was.
    ready(run)
    assert wait_until(lambda: run.shows("llm_training_steps_total", 20))
    import urllib.request

    text = urllib.request.urlopen(run.url, timeout=5).read().decode()
    assert text.count("llm_training_steps_total{") == 1


def test_two_supervisors_on_one_host(tmp_path: Path, watched: Watch) -> None:
    """Each finds a port and announces it."""
    targets = {"TRAINING_EXPORTER_TARGETS_DIR": str(tmp_path / "targets")}
    runs = [watched(train(tmp_path / name, "time.sleep(60)", run=name, environment=targets)) for name in ("one", "two")]
    for run in runs:
        ready(run)
        assert wait_until(lambda run=run: run.shows("llm_training_steps_total", 20))
    assert {path.name for path in (tmp_path / "targets").iterdir()} == {"one.json", "two.json"}
    assert len({run.url for run in runs}) == 2
    for run in runs:
        os.kill(child_of(run), signal.SIGINT)
        assert run.last_page()[0] == "interrupted"
    assert list((tmp_path / "targets").iterdir()) == []


def test_kill_9_of_the_supervisor_leaves_the_training_unharmed(tmp_path: Path, watched: Watch) -> None:
    """Even one that dies of SIGPIPE. It serves itself from then on, under the same name."""
    targets = tmp_path / "targets"
    then = """
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
for number in range(21, 121): step(number); time.sleep(0.05)
time.sleep(1)
monitor.end("completed"); monitor.close()
"""
    run = watched(train(tmp_path, then))
    training = psutil.Process(ready(run))
    before = (targets / "r.json").read_text()
    run.process.kill()
    assert wait_until(lambda: (targets / "r.json").read_text() != before)
    assert training.is_running()
    assert wait_until(lambda: not training.is_running() or training.status() == psutil.STATUS_ZOMBIE, 60)
    ended = run.state()
    assert (ended.state, ended.step) == ("completed", 120)
    assert not (targets / "r.json").exists()


def test_nothing_is_left_behind(tmp_path: Path, watched: Watch) -> None:
    folder = tmp_path / "tmp"
    folder.mkdir()
    environment = {"TMPDIR": str(folder)}
    run = watched(train(tmp_path, 'monitor.end("completed")', "--linger-seconds", "0", environment=environment))
    run.process.wait(30)
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ([], 2, "no command, allowed: training-exporter run [OPTIONS] -- COMMAND"),
        (["--"], 2, "no command"),
        (["--port", "99999", "--", "true"], 2, "found '99999', allowed: a port from 0 (any) to 65535"),
        (["--run", " ", "--", "true"], 2, "found ' ', allowed: a name"),
        (["--linger-seconds", "x", "--", "true"], 2, "found 'x', allowed: a number of seconds"),
        (["--", "no-such-command"], 127, "no-such-command: command not found"),
        (["--", "./no/such/file"], 127, "./no/such/file: no such file"),
        (["--", "/etc/passwd"], 126, "/etc/passwd: not executable: permission denied"),
        (["--", "/tmp"], 126, "/tmp: is a directory"),
    ],
)  # fmt: skip
def test_bad_usage_is_one_clear_error(tmp_path: Path, arguments: list[str], status: int, message: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "training_exporter.cli", "run", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "TRAINING_EXPORTER_TARGETS_DIR": str(tmp_path / "targets"), "TMPDIR": str(tmp_path)},
    )
    assert (ended.returncode, ended.stdout) == (status, "")
    assert message in ended.stderr.splitlines()[-1]
    assert "Traceback" not in ended.stderr
    assert list(tmp_path.iterdir()) == [], "nothing half written"


def test_a_port_that_is_taken(tmp_path: Path, watched: Watch) -> None:
    first = watched(start(tmp_path / "first", ["sleep", "60"]))
    assert wait_until(lambda: first.url)
    port = first.url.rsplit(":", 1)[1].removesuffix("/metrics")
    second = watched(start(tmp_path / "second", ["touch", tmp_path / "started"], "--port", port))
    assert second.process.wait(30) == 2
    assert "the port is taken by another process" in (tmp_path / "second" / "stderr").read_text()
    assert not (tmp_path / "started").exists()


def test_what_the_run_is_expected_to_be_comes_with_it(tmp_path: Path, watched: Watch) -> None:
    (tmp_path / "profile.yaml").write_text("loss_floor: 0.125\nloss: {0: [1, 9], 3: [0.5, 2]}\n")
    script = (
        "import sys, time; from training_exporter import Monitor, events\n"
        "monitor = Monitor('r', profile=sys.argv[1], gpu=False)\n"
        "monitor.emit(events.RunStarted(time=time.time(), run='r', num_epochs=3, max_steps=10))\n"
        "monitor.emit(events.StepEnded(time=time.time(), step=10, epoch=3.0)); time.sleep(60)\n"
    )
    run = watched(start(tmp_path, [sys.executable, "-c", script, tmp_path / "profile.yaml"]))
    assert wait_until(lambda: run.shows("llm_training_expected_loss", 0.5, bound="lower"))
    assert run.shows("llm_training_expected_loss_floor", 0.125)
    assert run.shows("llm_training_expected_initial_perplexity", 20, bound="upper"), "the rest is the guide's"


def test_workers_of_a_launcher_are_no_runs_of_their_own(tmp_path: Path, watched: Watch) -> None:
    """They inherit the supervisor's address; the first one speaks for the run."""
    script = Path(__file__).parents[1] / "exporter" / "two_processes.py"
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    run = watched(start(tmp_path, [*launcher, script, tmp_path / "out"], environment={"OMP_NUM_THREADS": "1"}))
    most = 0
    seen = {}

    def ended() -> bool:
        nonlocal most
        try:
            seen.update(page := run.page())
            most = max(most, int(page.get(("llm_training_processes", ()), 0)))
        except OSError:
            return run.process.poll() is not None
        return run.process.poll() is not None

    assert wait_until(lambda: run.url)
    assert wait_until(ended, 120)
    assert run.process.wait() == 0, (tmp_path / "stderr").read_text()
    assert most == 3
    assert seen[("llm_training_state", (("state", "completed"),))] == 1
    assert seen[("llm_training_steps_total", ())] == run.state().step
    assert "rank 1 has none" in run.out


def test_who_may_read_the_page_is_the_supervisors_matter(tmp_path: Path, watched: Watch) -> None:
    run = watched(start(tmp_path, ["touch", tmp_path / "started"], "--web.config.file", str(tmp_path / "none.yml")))
    assert run.process.wait(30) == 2
    [line] = (tmp_path / "stderr").read_text().splitlines()
    assert line.startswith("training-exporter run: ")
    assert "none.yml" in line
    assert not (tmp_path / "started").exists()

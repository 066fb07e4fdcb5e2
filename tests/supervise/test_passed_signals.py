"""Signals reach the command once each, however they come; and it meets the world as a shell would have started it."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from supervised import Supervised, child_of, start, stop, wait_until

#: Notes every signal in a file, and ends on SIGTERM and the second SIGINT.
COUNTING = """
import os, signal, sys, time
def note(number, frame):
    with open(sys.argv[1], "a") as file:
        file.write(signal.Signals(number).name + "\\n")
for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
    signal.signal(number, note)
print("ready", flush=True)
while True:
    time.sleep(0.1)
"""

SIGNALS = [signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2]


@pytest.fixture
def counting(tmp_path: Path) -> Iterator[Supervised]:
    """In a process group (and session) of its own, as `timeout`, a shell with job control or a harness makes one."""
    run = start(tmp_path, [sys.executable, "-c", COUNTING, tmp_path / "got"], start_new_session=True)
    assert wait_until(lambda: "ready" in run.out)
    child = psutil.Process(child_of(run))
    yield run
    if child.is_running():
        child.kill()
    stop(run)


def got(run: Supervised, count: int) -> list[str]:
    """What the command got; waits for `count` of them, and then a little more for those that are too many."""
    file = run.folder / "got"
    assert wait_until(lambda: file.exists() and len(file.read_text().split()) >= count, 10), (
        file.read_text() if file.exists() else "nothing"
    )
    time.sleep(0.7)
    return file.read_text().split()


def test_a_signal_to_the_supervisor_alone_is_passed_on_once(counting: Supervised) -> None:
    """As `docker stop` and `kill PID` do it."""
    for count, number in enumerate(SIGNALS, 1):
        counting.process.send_signal(number)
        assert got(counting, count) == [each.name for each in SIGNALS[:count]]


def test_a_signal_to_the_whole_group_is_not_delivered_twice(counting: Supervised) -> None:
    """As `timeout` and `kill %1` do it: for a training the second one means "at once"."""
    for count, number in enumerate(SIGNALS, 1):
        os.killpg(counting.process.pid, number)
        assert got(counting, count) == [each.name for each in SIGNALS[:count]]


def test_a_signal_to_the_group_before_the_command_is_there() -> None:
    """Everybody got it but the command, which was started a moment later."""
    script = (
        "import os, signal\nfrom training_exporter.supervise.child import Child\n"
        "child = Child()\nos.killpg(0, signal.SIGTERM)\nchild.start(['sleep', '60'], os.environ)\n"
        "while not child.wait(1, lambda _: None):\n    pass\n"
        "child.close()\nprint(child.returncode)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], start_new_session=True, capture_output=True, text=True, timeout=40
    )
    assert (done.stdout, done.returncode) == ("-15\n", 0), done.stderr


def test_one_after_the_other(counting: Supervised) -> None:
    """To the group, then to the supervisor alone: a second one is a second one."""
    os.killpg(counting.process.pid, signal.SIGINT)
    assert got(counting, 1) == ["SIGINT"]
    counting.process.send_signal(signal.SIGINT)
    assert got(counting, 2) == ["SIGINT", "SIGINT"]


def test_a_signal_to_every_process_of_a_job(counting: Supervised) -> None:
    """As systemd and Slurm do it, one process after the other."""
    everybody = [counting.process.pid, *(p.pid for p in psutil.Process(counting.process.pid).children(recursive=True))]
    for pid in reversed(everybody):
        os.kill(pid, signal.SIGTERM)
    assert got(counting, 1) == ["SIGTERM"]


def test_without_its_witness_signals_are_passed_on(counting: Supervised) -> None:
    """Once too often rather than never."""
    witness = [p for p in psutil.Process(counting.process.pid).children() if p.pid != child_of(counting)]
    assert len(witness) == 1
    witness[0].kill()
    counting.process.send_signal(signal.SIGTERM)
    assert got(counting, 1) == ["SIGTERM"]


@pytest.mark.parametrize(
    ("number", "exits", "status", "reason"),
    [
        (signal.SIGTERM, "0", 0, "SIGTERM"),
        (signal.SIGINT, "1", 1, "SIGINT, then exit status 1"),
        (signal.SIGINT, "130", 130, "SIGINT"),
        (signal.SIGTERM, "kill", 137, "SIGTERM, then killed by SIGKILL (exit status 137)"),
        (signal.SIGTERM, "segv", 139, None),
    ],
)
def test_what_a_person_ended_is_interrupted(
    tmp_path: Path, number: signal.Signals, exits: str, status: int, reason: str | None
) -> None:
    """A crash on the way is still a crash."""
    how = {"kill": "os.kill(os.getpid(), 9)", "segv": "os.kill(os.getpid(), 11)"}.get(exits, f"os._exit({exits})")
    script = (
        f"import os, signal, time; signal.signal({int(number)}, lambda *_: {how}); print('ready', flush=True)\n"
        "while True: time.sleep(0.1)"
    )
    run = start(tmp_path, [sys.executable, "-c", script])
    assert wait_until(lambda: "ready" in run.out)
    run.page()
    run.process.send_signal(number)
    expected = ("interrupted", reason, status)
    shown = run.last_page()
    if reason is None:
        expected = ("failed", shown[1], status)
        assert shown[1].startswith("killed by SIGSEGV (exit status 139)")
    assert shown == expected
    assert run.process.wait() == status


def test_a_second_signal_ends_the_wait_for_the_last_scrape(tmp_path: Path) -> None:
    run = start(tmp_path, ["sleep", "2"], "--linger-seconds", "600")
    assert wait_until(lambda: run.url)
    run.page()  # one scrape: another is waited for
    assert wait_until(lambda: run.shows("llm_training_process_exit_status", 0))
    run.process.send_signal(signal.SIGTERM)
    assert run.process.wait(10) == 0


def on_a_terminal(folder: Path, command: list[str | Path]) -> tuple[int, int]:
    """(pid of the supervisor, the terminal's other end): in the foreground of a terminal of its own."""
    pid, terminal = pty.fork()
    if pid == 0:
        program = [sys.executable, "-m", "training_exporter.cli", "run", "--port", "0", "--no-gpu", "--run", "r", "--"]
        with contextlib.suppress(BaseException):
            os.execv(sys.executable, [*program, *map(str, command)])
        os._exit(99)
    return pid, terminal


def read_until(terminal: int, word: str, seconds: float = 20.0) -> str:
    import select

    text, end = "", time.monotonic() + seconds
    while word not in text and time.monotonic() < end:
        if select.select([terminal], [], [], 0.1)[0]:
            try:
                text += os.read(terminal, 4096).decode(errors="replace")
            except OSError:
                break
    assert word in text, text
    return text


def test_ctrl_c_in_a_terminal_comes_once(tmp_path: Path) -> None:
    """The terminal sends it to the supervisor and to the command alike."""
    pid, terminal = on_a_terminal(tmp_path, [sys.executable, "-c", COUNTING, tmp_path / "got"])
    children = []
    try:
        read_until(terminal, "ready")
        children = psutil.Process(pid).children()
        run = Supervised(subprocess.Popen(["true"], text=True), tmp_path, "r")
        os.write(terminal, b"\x03")
        assert got(run, 1) == ["SIGINT"]
        os.write(terminal, b"\x1c")
        assert got(run, 2) == ["SIGINT", "SIGQUIT"]
        os.write(terminal, b"\x03")
        assert got(run, 3) == ["SIGINT", "SIGQUIT", "SIGINT"]
    finally:
        for process in children:
            process.kill()
        os.waitpid(pid, 0)
        os.close(terminal)


def test_a_command_on_a_terminal_reads_and_writes_it(tmp_path: Path) -> None:
    line = "import os, sys; print(os.isatty(0), os.isatty(1), os.isatty(2)); print('said ' + input('name? '))"
    pid, terminal = on_a_terminal(tmp_path, [sys.executable, "-c", line])
    try:
        assert "True True True" in read_until(terminal, "name? ")
        os.write(terminal, b"me\n")
        read_until(terminal, "said me")
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    finally:
        os.close(terminal)


def test_the_command_is_started_as_a_shell_starts_it(tmp_path: Path) -> None:
    """No signal is blocked or ignored that was not, no descriptor is open; in the same group and session. A signal that
    was ignored (nohup) stays so."""
    script = """
import json, os, signal, sys
status = dict(line.split(":\\t", 1) for line in open("/proc/self/status").read().splitlines() if ":\\t" in line)
print(json.dumps({
    "blocked": status["SigBlk"], "ignored": status["SigIgn"], "group": os.getpgid(0), "session": os.getsid(0),
    "files": sorted(int(name) for name in os.listdir("/proc/self/fd") if int(name) > 2),
}))
"""
    plain = ["sh", "-c", f"trap '' HUP; exec {sys.executable} -c '{script}'"]
    wrapped = f"trap '' HUP; exec {sys.executable} -m training_exporter.cli run --port 0 --no-gpu -- "
    expected, found = (
        subprocess.run(command, capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL).stdout
        for command in (plain, ["sh", "-c", f"{wrapped} {sys.executable} -c '{script}'"])
    )
    expected, found = json.loads(expected), json.loads(found)
    # Signals 32 and 33 are the C library's own; its posix_spawn leaves them so, and it sets them when it needs them.
    expected["ignored"], found["ignored"] = (int(each["ignored"], 16) & ~(0b11 << 31) for each in (expected, found))
    assert found == expected


def test_a_pipe_ends_with_the_command(tmp_path: Path) -> None:
    """Nothing of the supervisor keeps the command's output open, and what nobody reads ends it."""
    line = f"{sys.executable} -m training_exporter.cli run --port 0 --no-gpu -- yes 2> {tmp_path / 'stderr'} | head -1"
    ended = subprocess.run(["sh", "-c", line], capture_output=True, text=True, timeout=30)
    assert ended.stdout == "y\n"
    # Nor while it waits, ten minutes here, for somebody to scrape the end.
    program = f"{sys.executable} -m training_exporter.cli run --port 0 --no-gpu --linger-seconds 600"
    line = f"{program} --targets-dir {tmp_path}/targets -- echo x | (cat; touch {tmp_path}/read)"
    process = subprocess.Popen(["sh", "-c", line], stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        assert wait_until((tmp_path / "read").exists)
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()
    line = f"printf 'a b' | {sys.executable} -m training_exporter.cli run --port 0 --no-gpu -- cat 2> /dev/null"
    assert subprocess.run(["sh", "-c", line], capture_output=True, text=True, timeout=30).stdout == "a b"


def test_as_the_first_process_it_reaps_orphans(tmp_path: Path) -> None:
    """In a container it is process 1, and every orphan becomes its child."""
    if subprocess.run(["unshare", "--fork", "--pid", "--mount-proc", "true"], capture_output=True).returncode != 0:
        pytest.skip("this user can make no process namespace")
    # An orphan that ends later than its parent, while the command goes on; then the zombies are counted.
    command = (
        "for i in 1 2 3; do sh -c 'sleep 0.3 & exit 0'; done; sleep 1.5; "
        "grep -l '^State:.Z' /proc/[0-9]*/status 2>/dev/null | wc -l; exit 6"
    )
    program = [
        sys.executable,
        "-m",
        "training_exporter.cli",
        "run",
        "--port",
        "0",
        "--no-gpu",
        "--",
        "sh",
        "-c",
        command,
    ]
    ended = subprocess.run(
        ["unshare", "--fork", "--pid", "--mount-proc", *program], capture_output=True, text=True, timeout=60
    )
    assert (ended.stdout.strip(), ended.returncode) == ("0", 6), ended.stderr


def test_as_the_first_process_it_passes_on_a_signal(tmp_path: Path) -> None:
    """`docker stop` sends it to process 1, which the kernel protects from signals that it does not wait for."""
    if subprocess.run(["unshare", "--fork", "--pid", "--mount-proc", "true"], capture_output=True).returncode != 0:
        pytest.skip("this user can make no process namespace")
    program = [sys.executable, "-m", "training_exporter.cli", "run", "--port", "0", "--no-gpu", "--"]
    out, got_at = tmp_path / "stdout", str(tmp_path / "got")
    with out.open("w") as file:
        unshare = subprocess.Popen(
            [
                *["unshare", "--fork", "--pid", "--kill-child", "--mount-proc"],
                *program,
                sys.executable,
                "-uc",
                COUNTING,
                got_at,
            ],
            stdout=file,
        )
    try:
        assert wait_until(lambda: "ready" in out.read_text())
        [first] = psutil.Process(unshare.pid).children()
        first.send_signal(signal.SIGINT)
        run = Supervised(subprocess.Popen(["true"], text=True), tmp_path, "r")
        assert got(run, 1) == ["SIGINT"]
    finally:
        unshare.kill()
        unshare.wait()

"""Child processes never outlive the process that started them, however that one ends."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from training_exporter.stack.errors import StackError
from training_exporter.stack.servers import Stack, free_port, port_is_free
from waiting import wait_until

# Starts a child that ignores SIGTERM and has a child of its own, and prints the process ids of both.
PARENT = """
import sys, time
from pathlib import Path
from training_exporter.stack.servers import Stack

child = '''
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
signal.signal(signal.SIGINT, signal.SIG_IGN)
grandchild = subprocess.Popen(["sleep", "600"])
print(os.getpid(), grandchild.pid, flush=True)
time.sleep(600)
'''
with Stack(Path(sys.argv[1]), grace_seconds=1) as stack:
    started = stack.start("child", [sys.executable, "-c", child])
    while not started.log.read_text():
        time.sleep(0.02)
    print(started.log.read_text(), started.process.pid, flush=True)
    time.sleep(600)
"""


def alive(pid: int) -> bool:
    try:
        # A zombie that nobody has fetched yet is dead all the same.
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


@pytest.fixture
def parent(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    """A process with guarded children, and the process ids of child, grandchild and guard."""
    process = subprocess.Popen([sys.executable, "-c", PARENT, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    pids = [int(number) for number in (process.stdout.readline() + process.stdout.readline()).split()]
    assert len(pids) == 3
    assert all(map(alive, pids))
    yield process, pids
    for pid in [process.pid, *pids]:
        if alive(pid):
            os.kill(pid, signal.SIGKILL)
    process.wait()


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="looks at Linux' /proc")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_children_end_with_their_parent(parent: tuple[subprocess.Popen[str], list[int]], number: int) -> None:
    process, pids = parent
    process.send_signal(number)
    # The child ignores SIGTERM: the guard's grace passes first.
    assert wait_until(lambda: not any(map(alive, pids)), 15), [pid for pid in pids if alive(pid)]


def test_exit_status_and_log(tmp_path: Path) -> None:
    with Stack(tmp_path) as stack:
        done = stack.start("done", [sys.executable, "-c", "print('said'); raise SystemExit(3)"])
        killed = stack.start("killed", ["sh", "-c", "kill -9 $$"])
        absent = stack.start("absent", ["/no/such/program"])
        assert done.process.wait(10) == 3
        assert killed.process.wait(10) == 128 + 9
        assert absent.process.wait(10) == 127
        assert "said" in done.log_tail()
        assert "/no/such/program" in absent.log_tail()


def test_stop_is_polite_first(tmp_path: Path) -> None:
    script = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: (print('goodbye', flush=True), sys.exit(0)))\n"
        "print('ready', flush=True)\n"
        "time.sleep(600)\n"
    )
    with Stack(tmp_path) as stack:
        child = stack.start("child", [sys.executable, "-c", script])
        assert wait_until(lambda: "ready" in child.log.read_text(), 10)
        assert child.stop() == 0
    assert "goodbye" in child.log_tail()


def test_a_child_that_is_stopped_while_it_starts_leaves_nothing(tmp_path: Path) -> None:
    """The guard may have been started, or have started the command, and not yet listen to signals."""
    for number in range(60):
        with Stack(tmp_path) as stack:
            stack.start("child", ["sh", "-c", f"echo $$ >{tmp_path}/{number}.pid; exec sleep 600"])
            time.sleep(number / 2000)
    time.sleep(0.5)  # what was left behind has said who it is
    begun = [int(text) for file in tmp_path.glob("*.pid") if (text := file.read_text())]
    try:
        assert not [pid for pid in begun if alive(pid)]
    finally:
        for pid in begun:
            if alive(pid):
                os.kill(pid, signal.SIGKILL)


def test_interrupt_reaches_the_command(tmp_path: Path) -> None:
    script = (
        "import time\nprint('ready', flush=True)\n"
        "try:\n    time.sleep(600)\nexcept KeyboardInterrupt:\n    print('stopped')\n"
    )
    with Stack(tmp_path) as stack:
        child = stack.start("child", [sys.executable, "-c", script])
        assert wait_until(lambda: "ready" in child.log.read_text(), 10)
        child.interrupt()
        assert child.process.wait(10) == 0
    assert "stopped" in child.log_tail()


def test_ready(tmp_path: Path) -> None:
    with Stack(tmp_path) as stack:
        port = free_port(0)
        server = [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1"]
        child = stack.start("server", server, url=f"http://127.0.0.1:{port}", cwd=tmp_path)
        child.wait_ready("/", timeout=20)
        with pytest.raises(StackError, match=r"was not ready at .*/none after 0.3 s"):
            child.wait_ready("/none", timeout=0.3)
    assert port_is_free(port)


def test_a_server_that_ends_at_once_is_told_with_its_log(tmp_path: Path) -> None:
    with Stack(tmp_path) as stack:
        child = stack.start("bad", [sys.executable, "-c", "raise SystemExit('no config')"], url="http://127.0.0.1:1")
        with pytest.raises(StackError, match=r"bad ended at once \(exit status 1\):\n  no config"):
            child.wait_ready("/")


def test_free_port_prefers_and_avoids() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        number = taken.getsockname()[1]
        assert free_port(number) != number
    assert free_port(number) == number
    assert free_port(number, taken=[number]) != number

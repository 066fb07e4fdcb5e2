"""Why a command has ended: read from files as kernels write them, and from a real kernel where it can be asked."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from supervised import stop, train

from training_exporter.gpu.model import GpuProcess, GpuSample, GpuUnavailable
from training_exporter.supervise.ending import Ending, OutOfMemoryKills, ending_of
from training_exporter.supervise.tree import ProcessTree

# Captured: version 2 of systemd on Linux 6.1, version 1 of a container on Linux 5.10, a machine without either.
V2 = ("0::/user.slice/user-0.slice/session-1.scope\n", "sys/fs/cgroup/user.slice/user-0.slice/session-1.scope")
V2_IN_CONTAINER = ("0::/\n", "sys/fs/cgroup")
V1 = ("9:name=systemd:/\n4:memory:/docker/0123\n3:cpu,cpuacct:/docker/0123\n", "sys/fs/cgroup/memory/docker/0123")
V1_IN_CONTAINER = (V1[0], "sys/fs/cgroup/memory")
EVENTS = "low 0\nhigh 0\nmax 812\noom 3\noom_kill {}\noom_group_kill 0\n"
CONTROL = "oom_kill_disable 0\nunder_oom 0\noom_kill {}\n"
OOM = "out of memory on the host: the kernel's OOM killer ended it"
KILLED = "the kernel's OOM killer has killed"
VMSTAT = "nr_free_pages 123\noom_kill {}\nnuma_hit 7\n"


@pytest.mark.parametrize(
    ("group", "name", "text"),
    [
        (V2, "memory.events", EVENTS),
        (V2_IN_CONTAINER, "memory.events", EVENTS),
        (V1, "memory.oom_control", CONTROL),
        (V1_IN_CONTAINER, "memory.oom_control", CONTROL),
        (None, None, None),
        (V2, "memory.events", "low 0\nhigh 0\nmax 0\noom 0\n"),  # before Linux 4.13
    ],
)
def test_kills_are_read_where_the_kernel_counts_them(
    tmp_path: Path, group: tuple[str, str] | None, name: str | None, text: str | None
) -> None:
    def machine(kills: int, all_kills: int) -> None:
        (tmp_path / "proc/self").mkdir(parents=True, exist_ok=True)
        (tmp_path / "proc/vmstat").write_text(VMSTAT.format(all_kills))
        if group is not None and name is not None and text is not None:
            (tmp_path / "proc/self/cgroup").write_text(group[0])
            (tmp_path / group[1]).mkdir(parents=True, exist_ok=True)
            (tmp_path / group[1] / name).write_text(text.format(kills))

    counted = text is not None and "{}" in text
    machine(5, 40)
    kills = OutOfMemoryKills(tmp_path)
    machine(5, 41)
    # Another control group's: not ours, where ours is counted.
    assert kills.since() == ((0, True) if counted else (1, False))
    machine(7, 43)
    assert kills.since() == ((2, True) if counted else (3, False))


def test_a_machine_that_tells_nothing(tmp_path: Path) -> None:
    assert OutOfMemoryKills(tmp_path).since() == (0, False)


@pytest.mark.parametrize(
    ("returncode", "kills", "reason"),
    [
        (-9, (1, True), f"{OOM}, killed by SIGKILL (exit status 137)"),
        (137, (1, True), f"{OOM}, a process of it was killed by SIGKILL (exit status 137)"),
        (-9, (1, False), f"killed by SIGKILL (exit status 137); {KILLED} 1 process(es) on this machine, perhaps of it"),
        (1, (2, True), f"exit status 1; {KILLED} 2 process(es) in its control group"),
        (0, (1, True), ""),
        (-9, (0, True), "killed by SIGKILL (exit status 137)"),
        (-8, (0, True), "killed by SIGFPE (exit status 136): an arithmetic error"),
        (200, (0, True), "exit status 200"),
    ],
)
def test_lack_of_memory_is_named(returncode: int, kills: tuple[int, bool], reason: str) -> None:
    assert ending_of(returncode, None, kills, begun=False) == Ending("failed" if reason else "completed", reason)


@pytest.fixture
def small_memory() -> Iterator[Path]:
    """A control group of the kernel that allows 150 MB, where this user may make one."""
    name = f"training-exporter-{os.getpid()}"
    tried = (
        (Path("/sys/fs/cgroup"), "memory.max"),
        (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"),
    )
    for top, limit in tried:
        group = top / name
        try:
            if not (top / "cgroup.procs").exists():
                continue
            group.mkdir()
            (group / limit).write_text(str(150 << 20))
        except OSError:
            with contextlib.suppress(OSError):
                group.rmdir()
            continue
        yield group
        for _ in range(50):
            with contextlib.suppress(OSError):
                group.rmdir()
                return
            time.sleep(0.1)
        return
    pytest.skip("this user can make no control group with a memory limit")


def test_the_kernels_oom_killer_is_named(tmp_path: Path, small_memory: Path) -> None:
    run = train(
        tmp_path,
        "fill = [b'x' * (1 << 20) for _ in range(2000)]",
        preexec_fn=lambda: (small_memory / "cgroup.procs").write_text(str(os.getpid())),
    )
    try:
        state, reason, status = run.last_page()
        assert (state, status, run.process.wait()) == ("failed", 137, 137)
        assert reason.startswith("out of memory on the host: the kernel's OOM killer ended it")
        assert run.state().end_reason == reason
    finally:
        stop(run)


def test_figures_of_a_tree_of_processes() -> None:
    """Real processes: a shell and two below it, one of which has burnt processor time and ended."""
    burn = "import time\nend = time.process_time() + 0.4\nwhile time.process_time() < end: pass"
    line = f"{sys.executable} -c '{burn}'; sleep 60 & sleep 60"
    own = [process.pid for process in psutil.Process().children(recursive=True)]  # servers of other tests
    shell = subprocess.Popen(["sh", "-c", line], start_new_session=True)
    samples: list[GpuSample] = []

    def gpus() -> list[GpuSample]:
        if not samples:
            raise GpuUnavailable("no answer")
        return samples

    try:
        tree = ProcessTree(lambda: "r", own=own, gpus=gpus)
        assert tree.read().processes == 0
        tree.started(1000.0)
        end = time.monotonic() + 20
        while tree.read().processes != 3 and time.monotonic() < end:
            time.sleep(0.1)
        figures = tree.read()
        assert figures.processes == 3
        assert figures.started == 1000.0
        assert figures.resident_memory is not None
        assert figures.resident_memory > 1 << 20
        assert figures.cpu_seconds is not None
        assert 0.35 <= figures.cpu_seconds < 5  # the kernel counts in hundredths
        before = figures.cpu_seconds
        assert figures.gpu_memory == {}
        used = [GpuProcess(pid=shell.pid, name="sh", memory_used=5), GpuProcess(pid=1, name="init", memory_used=7)]
        samples.append(GpuSample(index=0, uuid="GPU-0", processes=used))
        time.sleep(0.6)
        assert tree.read().gpu_memory == {("0", "GPU-0"): 5}
    finally:
        os.killpg(shell.pid, signal.SIGKILL)
        shell.wait()
    tree.ended(137)
    figures = tree.read()
    assert (figures.processes, figures.resident_memory, figures.exit_status) == (0, None, 137)
    assert figures.cpu_seconds is not None
    assert figures.cpu_seconds >= before, "a counter does not go back"
    names = {metric.name for metric in tree()}
    assert "llm_training_process_exit_status" in names


def test_a_command_that_says_nothing_is_taken_for_one_that_will_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from training_exporter.supervise import hub as module

    hub = module.Hub(None, "script-1", named=False)
    hub.tick()
    assert hub.label() is None
    assert list(hub.collect()) == []
    monkeypatch.setattr(module, "QUIET_SECONDS", -1.0)
    hub.tick()
    assert hub.label() == "script-1"
    [state] = [metric for metric in hub.collect() if metric.name == "llm_training_state"]
    assert [sample.labels["state"] for sample in state.samples if sample.value == 1] == ["training"]
    names = {metric.name for metric in hub.collect()}
    assert "llm_training_last_progress_timestamp_seconds" not in names, "nobody knows whether it goes on"
    hub.command_ended("failed", "exit status 3", 3)
    [state] = [metric for metric in hub.collect() if metric.name == "llm_training_state"]
    assert [sample.labels["state"] for sample in state.samples if sample.value == 1] == ["failed"]

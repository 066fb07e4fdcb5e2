"""In words, why a command has ended: its exit status, the signals that it was sent, and the kernel's lack of memory."""

from __future__ import annotations

import contextlib
import signal
from dataclasses import dataclass
from pathlib import Path

#: Signals by which a person or a scheduler asks for an end.
ASKING = frozenset({signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM})

#: What the process itself has done to die of these.
_OWN_FAULTS: dict[int, str] = {
    signal.SIGSEGV: "a segmentation fault",
    signal.SIGBUS: "a bus error: often a full /dev/shm, or a file that was cut while it was mapped",
    signal.SIGILL: "an illegal instruction",
    signal.SIGFPE: "an arithmetic error",
    signal.SIGABRT: "it aborted itself: a failed check in native code",
}


@dataclass(frozen=True)
class Ending:
    """How a run ends that could not say so itself."""

    state: str
    reason: str


class OutOfMemoryKills:
    """How many processes the kernel's out-of-memory killer has killed since this was made.

    `root` is where the machine's /proc and /sys are. Counts in this process' control group, where the kernel does; else
    on the whole machine.
    """

    def __init__(self, root: Path = Path("/")) -> None:
        self._places = [*_group_files(root), root / "proc/vmstat"]
        self._before = [_oom_kill(place) for place in self._places]

    def since(self) -> tuple[int, bool]:
        """(processes, whether they were of this control group)."""
        machine = len(self._places) - 1
        for number, (place, before) in enumerate(zip(self._places, self._before, strict=True)):
            now = _oom_kill(place)
            if before is not None and now is not None:
                if now > before or number == machine:
                    return max(0, now - before), number != machine
                # Known for this group, and none of it: what happened to others is not this command's.
                return 0, True
        return 0, False


def _group_files(root: Path) -> list[Path]:
    """Where this process' control group counts them: version 2 and 1, by its path, and as a container sees it."""
    found = []
    with contextlib.suppress(OSError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            relative = path.lstrip("/")
            if controllers == "":
                base, name = root / "sys/fs/cgroup", "memory.events"
            elif "memory" in controllers.split(","):
                base, name = root / "sys/fs/cgroup/memory", "memory.oom_control"
            else:
                continue
            found += [base / relative / name, base / name]
    return [path for path in found if _oom_kill(path) is not None]


def _oom_kill(path: Path) -> int | None:
    """The field `oom_kill` of a file of the kernel's, None where it has none."""
    with contextlib.suppress(OSError, ValueError):
        for line in path.read_text().splitlines():
            name, _, value = line.partition(" ")
            if name == "oom_kill":
                return int(value)
    return None


def exit_status(returncode: int) -> int:
    """As a shell gives it: 128 + n where signal n has ended the process (`returncode` -n)."""
    return returncode if returncode >= 0 else 128 - returncode


def ending_of(returncode: int, asked: int | None, kills: tuple[int, bool], *, begun: bool) -> Ending:
    """What is to be said of a command that ended with `returncode` (-n: by signal n).

    asked:  the signal by which somebody asked for its end, None when nobody did
    kills:  see OutOfMemoryKills.since
    begun:  a training in it has told of its begin, and not of its end
    """
    status = exit_status(returncode)
    number = -returncode if returncode < 0 else status - 128 if status > 128 else 0
    name = _name(number)
    died = f"killed by {name}" if returncode < 0 else f"a process of it was killed by {name}" if name else ""
    told = f"{died} (exit status {status})" if died else f"exit status {status}"
    own_fault = _OWN_FAULTS.get(number) if name else None
    killed, here = kills
    if killed and status != 0:
        where = "in its control group" if here else "on this machine, perhaps of it"
        if number == signal.SIGKILL and here:
            return Ending("failed", f"out of memory on the host: the kernel's OOM killer ended it, {told}")
        return Ending("failed", f"{told}; the kernel's OOM killer has killed {killed} process(es) {where}")
    if own_fault is not None:
        return Ending("failed", f"{told}: {own_fault}")
    if asked is not None:
        same = number == asked or status == 0
        return Ending("interrupted", _name(asked) if same else f"{_name(asked)}, then {told}")
    if number in ASKING:
        return Ending("interrupted", name)
    if status != 0:
        return Ending("failed", told)
    if begun:
        return Ending("failed", "the process ended (exit status 0) before its training did")
    return Ending("completed", "")


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return ""

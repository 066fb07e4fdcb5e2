"""Run a command so that it never outlives the process that asked for it. Started by `servers.py` as a script.

The parent holds the other end of this process' standard input. When the parent ends, however it ends (`kill -9`
included), the kernel closes that end, and the guard ends the command with its whole process group: first politely
(SIGTERM), then not (SIGKILL). Works without Linux' `prctl`, which would cover neither grandchildren nor a parent's
thread that ends early.

    python guard.py GRACE_SECONDS COMMAND [ARGUMENT ...]

It imports the standard library only: it is started with `python -I -S`, in about 15 ms.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time


def main(arguments: list[str]) -> int:
    grace_seconds, command = float(arguments[0]), arguments[1:]
    # From before the command is there: a guard that a signal ended between would leave it behind.
    early: list[int] = []
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, lambda got, _: early.append(got))
    try:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    except OSError as error:
        print(f"cannot start {command[0]}: {error}", file=sys.stderr)
        return 127

    def end(*_: object) -> None:
        """Ask the command to end; a second thread makes sure that it does."""
        _signal_group(child.pid, signal.SIGTERM)
        threading.Thread(target=_kill_later, args=(child.pid, grace_seconds), daemon=True).start()

    def forward(number: int, _: object) -> None:
        _signal_group(child.pid, number)

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGHUP, end)
    # A Ctrl-C in the terminal must reach a training as the interrupt that it knows how to answer.
    signal.signal(signal.SIGINT, forward)
    for got in early:
        signal.raise_signal(got)

    def watch_parent() -> None:
        while os.read(0, 4096):
            pass
        end()

    threading.Thread(target=watch_parent, daemon=True).start()
    status = child.wait()
    # What the command left running in its group ends with it.
    _signal_group(child.pid, signal.SIGKILL)
    return status if status >= 0 else 128 - status


def _signal_group(group: int, number: int) -> None:
    # PermissionError is macOS' answer for a group of zombies.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def _kill_later(group: int, seconds: float) -> None:
    time.sleep(seconds)
    _signal_group(group, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

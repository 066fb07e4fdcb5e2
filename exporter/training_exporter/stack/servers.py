"""Start and stop child processes that never outlive this one, each with its log in a file."""

from __future__ import annotations

import contextlib
import http.client
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from training_exporter.stack import guard
from training_exporter.stack.errors import StackError

GRACE_SECONDS = 5.0
READY_SECONDS = 60.0


def free_port(preferred: int, host: str = "127.0.0.1", taken: Iterable[int] = ()) -> int:
    """`preferred` where nothing listens on it (0: no preference), else a port that the system finds free.

    `taken` are ports that are promised to a server that has not started yet.
    """
    if preferred and preferred not in taken and port_is_free(preferred, host):
        return preferred
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def port_is_free(port: int, host: str = "127.0.0.1") -> bool:
    with socket.socket() as probe:
        # As servers do: a port whose last connections are still in TIME_WAIT is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


@dataclass
class Child:
    """One guarded child process. `url` is where it answers, empty where it serves nothing."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path
    url: str = ""

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    @property
    def exit_status(self) -> int | None:
        """The command's exit status (128 + n where signal n ended it), None while it runs."""
        return self.process.poll()

    def wait_ready(self, path: str, timeout: float = READY_SECONDS) -> None:
        """Wait until `url` + `path` answers with 200. Raises StackError with the log's end where it does not."""
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            if not self.running:
                raise StackError(f"{self.name} ended at once (exit status {self.exit_status}):\n{self.log_tail()}")
            with (
                contextlib.suppress(OSError, urllib.error.URLError, http.client.HTTPException),
                urllib.request.urlopen(self.url + path, timeout=5) as answer,
            ):
                if answer.status == 200:
                    return
            time.sleep(0.1)
        raise StackError(f"{self.name} was not ready at {self.url}{path} after {timeout:g} s:\n{self.log_tail()}")

    def interrupt(self) -> None:
        """What Ctrl-C does: a training ends cleanly, with a checkpoint."""
        if self.running:
            self.process.send_signal(signal.SIGINT)

    def stop(self) -> int:
        """End it: SIGTERM, and SIGKILL after the stack's `grace_seconds`. Returns its exit status."""
        if self.running:
            self.process.terminate()
        status = self.process.wait()
        if self.process.stdin:
            self.process.stdin.close()
        return status

    def log_tail(self, lines: int = 15) -> str:
        try:
            text = self.log.read_text(errors="replace")
        except OSError as error:
            return f"(no log: {error})"
        return "\n".join(["  " + line for line in text.strip().splitlines()[-lines:]] + [f"  (all of it: {self.log})"])


@dataclass
class Stack:
    """The child processes of one demo or test, as a context: all that it started has ended when it is left.

    A child that has not ended `grace_seconds` after SIGTERM is killed.
    """

    log_dir: Path
    grace_seconds: float = GRACE_SECONDS
    children: list[Child] = field(default_factory=list)

    def start(
        self,
        name: str,
        command: Sequence[str | Path],
        *,
        url: str = "",
        environment: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> Child:
        """Start `command` with its output in `<log_dir>/<name>.log`. `environment` None: this process' own."""
        self.log_dir.mkdir(parents=True, exist_ok=True)
        log = self.log_dir / f"{name}.log"
        guarded = [sys.executable, "-I", "-S", guard.__file__, str(self.grace_seconds), *map(str, command)]
        with log.open("ab") as output:
            process = subprocess.Popen(
                guarded,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=None if environment is None else dict(environment),
                cwd=cwd,
                # The terminal's Ctrl-C is answered by this process alone, which then ends its children in order.
                start_new_session=True,
            )
        child = Child(name, process, log, url)
        self.children.append(child)
        return child

    def stop(self) -> None:
        """End all children, the last one started first."""
        for child in reversed(self.children):
            if child.running:
                child.process.terminate()
        for child in reversed(self.children):
            child.stop()

    def __enter__(self) -> Stack:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

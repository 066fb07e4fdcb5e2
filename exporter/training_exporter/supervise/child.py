"""The command as a child process: started as a shell starts one, sent on the signals that this process gets, reaped."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
from collections.abc import Callable, Mapping, Sequence

from training_exporter.supervise.witness import Witness

#: Signals that are passed on, where they were not ignored (nohup) when this process started.
PASSED = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)

#: Signals that Python ignores, and that a command expects to end it.
_RESTORED = (signal.SIGPIPE, signal.SIGXFSZ)


class CommandError(Exception):
    """The command cannot be started; `status` is what a shell answers then."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


def check(command: Sequence[str]) -> None:
    """Raises CommandError for a command that cannot be started, as far as that can be seen before."""
    program = command[0]
    if shutil.which(program):
        return
    found = os.sep in program and os.path.exists(program)
    if found:
        what = "is a directory" if os.path.isdir(program) else "not executable: permission denied"
        raise CommandError(f"{program}: {what}", 126)
    raise CommandError(f"{program}: {'no such file' if os.sep in program else 'command not found'}", 127)


class Child:
    """To be made before this process has threads: from then on its signals are taken here, whoever is to get them."""

    def __init__(self) -> None:
        passed = [number for number in PASSED if signal.getsignal(number) is not signal.SIG_IGN]
        self._taken = {*passed, signal.SIGCHLD}
        self._before = signal.pthread_sigmask(signal.SIG_BLOCK, self._taken)
        self._witness = Witness(passed)
        self.pid: int | None = None
        #: As `subprocess` has it: -n where signal n has ended the command; None while it runs.
        self.returncode: int | None = None
        #: The first signal that asked the command for its end, whoever delivered it.
        self.asked: int | None = None
        #: Signals that came before the command was there to get them too.
        self._early: set[int] = set()

    @property
    def own(self) -> tuple[int, ...]:
        """Processes below this one that are not the command's."""
        return (self._witness.pid,)

    def start(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """Start the command: in this process' group, with its standard streams. Raises CommandError."""
        self._early = {number for number in signal.sigpending() if number in self._taken}
        try:
            self.pid = os.posix_spawnp(
                command[0], list(command), dict(environment), setsigmask=self._before, setsigdef=_RESTORED
            )
        except OSError as error:
            status = 127 if isinstance(error, FileNotFoundError) else 126
            raise CommandError(f"{command[0]}: cannot be executed: {error.strerror}", status) from None

    def wait(self, seconds: float, asking: Callable[[int], None]) -> bool:
        """Pass on what comes within `seconds`; True once the command has ended.

        `asking` hears of a signal that asks for an end when there is no command any more that could.
        """
        got = signal.sigtimedwait(self._taken, seconds)
        if got is not None and got.si_signo != signal.SIGCHLD:
            self._pass_on(got.si_signo, asking)
        self._reap()
        return self.returncode is not None

    def close(self) -> None:
        """The command is over, or was never started."""
        self._witness.dismiss()

    def _pass_on(self, number: int, asking: Callable[[int], None]) -> None:
        everybody = self._witness.got(number) and number not in self._early
        self._early.discard(number)
        self._reap()
        if self.pid is None or self.returncode is not None:
            asking(number)
            return
        if number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM) and self.asked is None:
            self.asked = number
        if not everybody:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def _reap(self) -> None:
        """All that has ended: as the first process of a container this one inherits the orphans, too."""
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return
                if pid == self.pid:
                    self.returncode = os.waitstatus_to_exitcode(status)

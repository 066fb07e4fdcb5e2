"""Tells a signal that everybody got from one that only this process got.

A Ctrl-C goes to the terminal's whole foreground group, `timeout` and a shell's `kill %1` signal a group, systemd and
Slurm every process of a job: then the command has it already, and a second one would mean "at once" to a training that
saves a checkpoint on the first. `docker stop` and `kill PID` reach this process alone, which must pass it on.

No system call tells the two apart. So a witness stands beside: a fork of this process that does nothing but note its
signals. What it got too, everybody got.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import struct
import time
from collections.abc import Collection

#: How long to wait for the witness' word. Senders go from process to process within a few milliseconds.
WORD_SECONDS = 0.25

#: A word that is older than this is about an earlier signal.
FRESH_SECONDS = 2.0

_WORD = struct.Struct("=id")  # the signal's number; when (time.monotonic(), one clock for all processes)


class Witness:
    """To be made before this process has threads, with `signals` blocked."""

    def __init__(self, signals: Collection[int]) -> None:
        self._words, words = os.pipe()
        parent = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._words)
            with contextlib.suppress(BaseException):
                _stand(signals, words, parent)
            os._exit(0)
        os.close(words)
        self._heard: list[tuple[int, float]] = []

    def got(self, number: int) -> bool:
        """Whether the witness got this signal too, just now."""
        now = time.monotonic()
        while True:
            self._heard = [word for word in self._heard if word[1] >= now - FRESH_SECONDS]
            for word in self._heard:
                if word[0] == number:
                    self._heard.remove(word)
                    return True
            left = now + WORD_SECONDS - time.monotonic()
            if left <= 0 or not select.select([self._words], [], [], left)[0]:
                return False
            data = os.read(self._words, _WORD.size)
            if len(data) < _WORD.size:
                return False  # It was killed.
            self._heard.append(_WORD.unpack(data))

    def dismiss(self) -> None:
        """It is needed no more. Whoever reaps this process' children reaps it."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)


def _stand(signals: Collection[int], words: int, parent: int) -> None:
    # Whoever waits for the end of the command's output must not wait for the witness.
    for descriptor in (0, 1, 2):
        os.close(descriptor)
    while os.getppid() == parent:
        got = signal.sigtimedwait(signals, 2.0)
        if got is not None:
            os.write(words, _WORD.pack(got.si_signo, time.monotonic()))

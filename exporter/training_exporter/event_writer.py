"""Events on their way out of the training loop: a thread of its own for each place that they go to."""

from __future__ import annotations

import contextlib
import json
import logging
import threading
import time
from collections import deque
from collections.abc import Callable

from training_exporter.events import Event, to_record

#: Lines that may wait to be written before further ones are dropped (and counted): about 6 MB of memory.
LINES_LIMIT = 20_000

#: What is poked for more often than this is written together. To wake a thread costs the training more than all else
#: that happens in a step, and each time that the thread works it finds our code in none of the processor's caches. So a
#: kill -9 may take the steps of so long a time, where they are shorter than it.
PAUSE_SECONDS = 0.25

log = logging.getLogger(__name__)

#: `json.dumps` makes an encoder at each call that is not its usual one.
_encode = json.JSONEncoder(allow_nan=False).encode


def line_of(event: Event) -> bytes:
    """The event as a journal has it. Raises TypeError or ValueError for what is none."""
    return (_encode(to_record(event)) + "\n").encode()


class Source:
    """Where a writer gets further lines when it has time for them."""

    def waits(self) -> bool:
        """Whether there is something to fetch."""
        return False

    def fetch(self) -> None:
        """Have all that there is put into the writers. Must not raise."""


class EventWriter:
    """Hands events on, as lines, from a thread of its own.

    What others call never blocks and never raises. When `_write` raises, `on_problem` hears of it once, and it is tried
    again with the next line; what could not be handed on is counted in `dropped`.
    """

    #: What a message about a problem calls this.
    name: str

    def __init__(self, on_problem: Callable[[str], None] = log.warning, source: Source | None = None) -> None:
        self.dropped = 0
        self._on_problem = on_problem
        self._complained = False
        self._source = source or Source()
        self._lines: deque[bytes] = deque()
        self._flushes: deque[threading.Event] = deque()
        self._closing = False
        #: When the thread last began with something (time.monotonic).
        self._rested = 0.0
        #: The thread waits, without a limit, for the next thing to do.
        self._idle = False
        #: Held; to let go of it wakes the thread. The cheapest thing to wait for that Python has.
        self._bell = threading.Lock()
        self._bell.acquire()
        self._thread = threading.Thread(target=self._run, name=type(self).__name__, daemon=True)
        self._thread.start()

    def put(self, event: Event) -> None:
        """Have an event written."""
        try:
            self.put_line(line_of(event))
        except Exception as error:
            self.dropped += 1
            self._complain(f"an event cannot be written: {error}")
        self.poke()

    def put_line(self, line: bytes) -> None:
        """Have a line written once `poke` or `wake` says that it is there."""
        if len(self._lines) < LINES_LIMIT:
            self._lines.append(line)
        else:
            self.dropped += 1

    def poke(self) -> None:
        """There is something to write, or to fetch from the source: at once, or PAUSE_SECONDS after the last time."""
        if self._idle:
            self._idle = False
            self.wake()

    def wake(self) -> None:
        """There is something to be written now."""
        with contextlib.suppress(RuntimeError):  # it rings already
            self._bell.release()

    def flush(self, timeout: float = 5.0) -> None:
        """Have what is waiting written, for at most `timeout` seconds."""
        written = threading.Event()
        self._flushes.append(written)
        self.wake()
        written.wait(timeout)

    def close(self, timeout: float = 5.0) -> None:
        """Write what is waiting, for at most `timeout` seconds."""
        self._closing = True
        self.wake()
        self._thread.join(timeout)

    def _write(self, lines: list[bytes]) -> None:
        """Hand on the lines, which are at least one. May raise."""
        raise NotImplementedError

    def _release(self) -> None:
        """Nothing comes any more."""

    def _run(self) -> None:
        closing = False
        while not closing:
            self._rest()
            self._rested = time.monotonic()
            # What was asked for before the lines are taken is about lines that are among them.
            closing, flushes = self._closing, [self._flushes.popleft() for _ in range(len(self._flushes))]
            self._source.fetch()
            while self._lines:
                self._hand_on([self._lines.popleft() for _ in range(min(1000, len(self._lines)))])
            for written in flushes:
                written.set()
        self._release()

    def _rest(self) -> None:
        """Wait until there is something to do, and at least until PAUSE_SECONDS after the last time, unless woken."""
        left = self._rested + PAUSE_SECONDS - time.monotonic()
        if left > 0 and not (self._flushes or self._closing):
            self._bell.acquire(timeout=left)
        self._idle = True
        if not (self._lines or self._flushes or self._closing or self._source.waits()):
            self._bell.acquire()
        self._idle = False

    def _hand_on(self, lines: list[bytes]) -> None:
        try:
            self._write(lines)
        except Exception as error:
            self.dropped += len(lines)
            self._complain(f"cannot be written: {error}; trying again with what comes next")

    def _complain(self, what: str) -> None:
        """Say it, unless something was said before."""
        if not self._complained:
            self._complained = True
            self._on_problem(f"{self.name}: {what}")

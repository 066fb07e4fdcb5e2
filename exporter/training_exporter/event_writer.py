"""Events on their way out of the training loop: a queue and a thread of its own for each place that they go to."""

from __future__ import annotations

import json
import logging
import queue
import threading
from collections.abc import Callable, Iterable

from training_exporter.events import Event, to_record

#: Events that may wait to be written before further ones are dropped (and counted): about 4 MB of memory.
QUEUE_LIMIT = 20_000

log = logging.getLogger(__name__)


#: `json.dumps` makes an encoder at each call that is not its usual one.
_encode = json.JSONEncoder(allow_nan=False).encode


def lines_of(events: Iterable[Event]) -> bytes:
    """Events as a journal has them, one line each."""
    return "".join(_encode(to_record(event)) + "\n" for event in events).encode()


class EventWriter:
    """Hands events on from a thread of its own.

    `put` never blocks and never raises. When `_write` raises, `on_problem` hears of it once, and it is tried again with
    the next event; what could not be handed on is counted in `dropped`.
    """

    #: What a message about a problem calls this.
    name: str

    def __init__(self, on_problem: Callable[[str], None] = log.warning) -> None:
        self.dropped = 0
        self._on_problem = on_problem
        self._complained = False
        self._queue: queue.SimpleQueue[Event | threading.Event | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=type(self).__name__, daemon=True)
        self._thread.start()

    def put(self, event: Event) -> None:
        if self._queue.qsize() < QUEUE_LIMIT:
            self._queue.put(event)
        else:
            self.dropped += 1

    def flush(self, timeout: float = 5.0) -> None:
        """Have what is waiting written, for at most `timeout` seconds."""
        written = threading.Event()
        self._queue.put(written)
        written.wait(timeout)

    def close(self, timeout: float = 5.0) -> None:
        """Write what is waiting, for at most `timeout` seconds."""
        self._queue.put(None)
        self._thread.join(timeout)

    def _write(self, batch: list[Event]) -> None:
        """Hand on the events, which are at least one. May raise."""
        raise NotImplementedError

    def _release(self) -> None:
        """Nothing comes any more."""

    def _run(self) -> None:
        closing = False
        while not closing:
            batch, flushed, closing = self._next_batch()
            try:
                if batch:
                    self._write(batch)
            except Exception as error:
                self.dropped += len(batch)
                self._complain(f"cannot be written: {error}; trying again with each event")
            if flushed is not None:
                flushed.set()
        self._release()

    def _complain(self, what: str) -> None:
        """Say it, unless something was said before."""
        if not self._complained:
            self._complained = True
            self._on_problem(f"{self.name}: {what}")

    def _next_batch(self) -> tuple[list[Event], threading.Event | None, bool]:
        """All that has come meanwhile, for one write, who waits for it, and whether `close` was called.

        Waits for the first event.
        """
        batch: list[Event] = []
        item = self._queue.get()
        while item is not None:
            if isinstance(item, threading.Event):
                return batch, item, False
            batch.append(item)
            if len(batch) >= 1000:
                return batch, None, False
            try:
                item = self._queue.get_nowait()
            except queue.Empty:
                return batch, None, False
        return batch, None, True

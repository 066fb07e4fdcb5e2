"""The wall clock of a process, and whether somebody has set it.

Events carry Unix seconds, because they are compared with the clocks of others. A clock that is set while a run goes on
(by NTP some time after the start, by a person) puts an hour between two steps that took a second, or makes the second
one the earlier.
"""

from __future__ import annotations

import time

#: Seconds by which the clock must be off: NTP corrects less by letting it run a little faster or slower.
LEAST_SECONDS = 5.0

#: A clock that nobody sets; the one that goes on while the machine sleeps, where there is one.
_STEADY = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def _offset() -> float:
    return time.time() - time.clock_gettime(_STEADY)


class Clock:
    """Compares the wall clock with one that nobody sets."""

    def __init__(self) -> None:
        self._offset = _offset()
        self._last = 0.0

    def set_by(self) -> float:
        """Seconds by which the wall clock was set since this was last asked; 0 where it was not."""
        offset = _offset()
        seconds = offset - self._offset
        self._offset = offset
        if -LEAST_SECONDS < seconds < LEAST_SECONDS:
            return 0.0
        self._last = seconds
        return seconds

    def now(self, at: float) -> float:
        """`at` (Unix seconds, of a moment ago) on the clock as it is now, where it was taken before it was set."""
        if self._last == 0.0:
            return at
        present = time.time()
        return at + self._last if abs(at + self._last - present) < abs(at - present) else at

"""Windows over points, in constant time and memory."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection

#: A turn of this share of the level is never cut, so that a series that begins flat can show what it does later.
_LEAST_TURN = 0.15
#: A loss below this is zero: a ratio to it says nothing.
TINY = 1e-9


#: Losses are computed in 32 bits or fewer: what is beyond is as good as infinite, and its square would be.
LARGEST = 3.4028234663852886e38


def is_number(value: float) -> bool:
    """Whether `value` is neither NaN nor infinite, nor beyond what a loss, a gradient or a rate can be."""
    return -LARGEST <= value <= LARGEST


def clamp(value: float, low: float, high: float) -> float:
    """`value`, or the bound that it is beyond."""
    return min(max(value, low), high)


def mean(values: Collection[float]) -> float:
    """The mean, also of numbers whose sum is beyond the largest float."""
    return sum(value / len(values) for value in values)


def turn(before: float, after: float) -> float:
    """How far two differences in a row go and come back: the smaller one, 0 where both point the same way."""
    return min(abs(before), abs(after)) if before * after < 0 else 0.0


def scaled(points: float, low: float, high: float) -> float:
    """A window of `points`, at least `low`; above `high` it grows with the square root only, up to three times that.

    A run of 100,000 points needs wider windows than one of 1,000 to be as seldom mistaken, but not a hundred times
    as wide: it would learn of everything late.
    """
    return max(points, low) if points <= high else high * min(3.0, math.sqrt(points / high))


class SlidingExtreme:
    """Least (or largest) of the last `size` values; None before there are as many."""

    __slots__ = ("_candidates", "_index", "_sign", "_size")

    def __init__(self, size: int, *, largest: bool = False) -> None:
        self._size = size
        self._sign = -1.0 if largest else 1.0
        self._index = 0
        # Values that may still become the extreme, in order, with their index: each enters and leaves once.
        self._candidates: deque[tuple[int, float]] = deque()

    def add(self, value: float) -> float | None:
        """Take a value and give the extreme of the last `size`."""
        value *= self._sign
        candidates = self._candidates
        while candidates and candidates[-1][1] >= value:
            candidates.pop()
        candidates.append((self._index, value))
        if candidates[0][0] <= self._index - self._size:
            candidates.popleft()
        self._index += 1
        return self._sign * candidates[0][1] if self._index >= self._size else None


class Halfway:
    """What a value was at about half of its points so far, from snapshots at growing distances."""

    __slots__ = ("_count", "_snapshots")

    #: Snapshots per doubling of the points.
    _DENSITY = 4

    def __init__(self) -> None:
        self._count = 0
        self._snapshots: deque[tuple[int, float]] = deque(maxlen=self._DENSITY + 2)

    def add(self, value: float) -> float | None:
        """Take a value and give the one at half the points: the last snapshot that is not younger."""
        self._count += 1
        snapshots = self._snapshots
        if not snapshots or self._count >= snapshots[-1][0] * 2 ** (1 / self._DENSITY):
            snapshots.append((self._count, value))
        while len(snapshots) > 1 and 2 * snapshots[1][0] <= self._count:
            snapshots.popleft()
        return snapshots[0][1] if 2 * snapshots[0][0] <= self._count else None


class Zigzag:
    """Mean to and fro of a series: how much it goes up only to come down again, and the other way round.

    Of two neighbouring differences that point in opposite directions the smaller counts; of two in the same direction
    none does. A trend, however steep, a level that steps once, and the slow side of a sawtooth are thus no
    fluctuation. About 0.6 standard deviations of pure noise.

    One turn counts as eight usual ones at most, and the largest of the first ones not at all: a spike is not many
    small ones. `window` is the width of the exponential mean in values, `needed` how many differences make it known.
    """

    __slots__ = ("_alpha", "_count", "_first", "_last", "_level", "_mean", "_needed", "_step", "ratio", "value")

    #: Usual turns that one counts as at most.
    _MOST = 8.0

    def __init__(self, window: float, needed: int) -> None:
        self._alpha = 2 / (1 + window)
        self._needed = needed
        self._count = 0
        self._first: list[float] = []
        self._last: float | None = None
        self._step = 0.0
        self._mean = 0.0
        self._level = 0.0
        #: The mean to and fro, in the unit of the series.
        self.value: float | None = None
        #: The same as a share of the mean of the series; None where that is not positive.
        self.ratio: float | None = None

    def add(self, value: float) -> None:
        """Take a value."""
        if self._last is None:
            self._last = value
            return
        step = value - self._last
        turned = turn(self._step, step)
        self._last, self._step = value, step
        self._count += 1
        alpha = max(1 / self._count, self._alpha)
        self._level += alpha * (value - self._level)
        if self._count <= self._needed:
            self._first.append(turned)
            if self._count == self._needed:
                self._first.sort()
                kept = self._first[: -max(1, self._needed // 6)]
                self._mean = sum(kept) / len(kept)
                self._first = []
        else:
            most = max(self._MOST * self._mean, _LEAST_TURN * abs(self._level))
            self._mean += alpha * (min(turned, most) - self._mean)
        if self._count >= self._needed:
            self.value = self._mean
            self.ratio = self._mean / self._level if self._level > TINY else None

"""Whether the run goes as fast as it used to."""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import deque

from training_exporter.signals.windows import scaled

#: Spread of single steps, as a difference of logarithms, that is assumed at least.
_LEAST_SPREAD = 0.02
#: Median and upper quartile of the distance between two values of a normal distribution, in its deviations.
_DISTANCE_MEDIAN, _DISTANCE_QUARTILE = 0.6745 * math.sqrt(2), 1.1503 * math.sqrt(2)
#: Deviation of a median over that of a mean.
_MEDIAN_DEVIATION = math.sqrt(math.pi / 2)


class Quartiles:
    """Median and upper quartile of all values so far, by the P-square algorithm (Jain and Chlamtac 1985).

    Its five markers are the least value, the quartiles and the largest; each moves along a parabola through its
    neighbours when it lags behind its place.
    """

    __slots__ = ("_heights", "_positions", "count")

    def __init__(self) -> None:
        self._heights: list[float] = []
        self._positions = [0, 1, 2, 3, 4]
        self.count = 0

    def add(self, value: float) -> None:
        """Take a value."""
        heights, positions = self._heights, self._positions
        last = self.count
        self.count = last + 1
        if last < 5:
            insort(heights, value)
            return
        if value < heights[0]:
            heights[0] = value
        elif value > heights[4]:
            heights[4] = value
        for i in range(max(1, bisect_left(heights, value)), 5):
            positions[i] += 1
        for i in (1, 2, 3):
            ahead = i * last / 4 - positions[i]
            if ahead >= 1 and positions[i + 1] - positions[i] > 1:
                self._move(i, 1)
            elif ahead <= -1 and positions[i] - positions[i - 1] > 1:
                self._move(i, -1)

    def _move(self, i: int, step: int) -> None:
        q, n = self._heights, self._positions
        below, above = n[i] - n[i - 1], n[i + 1] - n[i]
        up, down = (q[i + 1] - q[i]) / above, (q[i] - q[i - 1]) / below
        parabola = q[i] + step / (above + below) * ((below + step) * up + (above - step) * down)
        # Where the parabola would leave the order, a straight line.
        q[i] = parabola if q[i - 1] < parabola < q[i + 1] else q[i] + (up if step > 0 else -down)
        n[i] += step

    @property
    def median(self) -> float:
        """NaN before five values."""
        return self._heights[2] if self.count >= 5 else math.nan

    @property
    def upper(self) -> float:
        """NaN before five values."""
        return self._heights[3] if self.count >= 5 else math.nan


class _Speed:
    """One speed beside its own past."""

    __slots__ = ("_before", "_changes", "_needed", "_recent", "_scale", "_usual", "_wander", "_window")

    def __init__(self, window: int) -> None:
        self._window: deque[float] = deque(maxlen=window)
        self._recent: list[float] = []  # the window, sorted
        self._usual = Quartiles()
        self._changes = Quartiles()
        # Of a machine that others use too the speed wanders: it differs from window to window by more than its steps
        # among themselves say. A slowdown, however gradual, differs little from one window to the next, or only once.
        self._wander = Quartiles()
        self._before = math.nan
        self._needed = 3 * window
        self._scale = _MEDIAN_DEVIATION / _DISTANCE_QUARTILE / math.sqrt(window)

    def add(self, value: float) -> tuple[float, float] | None:
        """Take a speed; the ratio of the recent median to the usual one, and how many deviations it is below it."""
        window, recent, usual = self._window, self._recent, self._usual
        level = math.log(value)
        if window:
            self._changes.add(abs(level - window[-1]))
        if len(window) == window.maxlen:
            del recent[bisect_left(recent, window[0])]
        window.append(level)
        insort(recent, level)
        usual.add(level)
        middle = recent[len(recent) // 2]
        if usual.count % len(recent) == 0 and len(recent) == window.maxlen:
            if self._before == self._before:
                self._wander.add(abs(middle - self._before))
            self._before = middle
        if usual.count < self._needed:
            return None
        below = usual.median - middle
        spread = self._scale * max(_LEAST_SPREAD * _DISTANCE_QUARTILE, self._changes.upper)
        if self._wander.count >= 5:
            spread = max(spread, self._wander.median / _DISTANCE_MEDIAN)
        return math.exp(-below), below / spread


class PaceSignals:
    """Speed of the last steps beside what is usual for this run.

    The run is slow only when both its tokens per second and its steps per second are: longer examples make fewer
    steps, shorter ones fewer tokens per second where batches are padded, and neither is a fault. `expected_steps` is
    how many steps the run will make (None when unknown). Where time was taken only every `timing_steps` steps and is
    spread over them, one of them counts.
    """

    __slots__ = ("_by_steps", "_by_tokens", "_step_calls", "_steps", "_timing_steps", "_token_calls", "_tokens")

    def __init__(self, expected_steps: int | None, timing_steps: int = 1) -> None:
        window = int(scaled((expected_steps or 1000) / timing_steps / 40, 7, 31))
        self._timing_steps = timing_steps
        self._step_calls = self._token_calls = 0
        self._tokens, self._steps = _Speed(window), _Speed(window)
        self._by_tokens: tuple[float, float] | None = None
        self._by_steps: tuple[float, float] | None = None

    def add_step(self, seconds: float) -> None:
        """Take the duration of an optimizer step."""
        self._step_calls += 1
        if seconds > 0 and self._step_calls % self._timing_steps == 0:
            self._by_steps = self._steps.add(1 / seconds)

    def add_tokens(self, tokens: int, seconds: float) -> None:
        """Take the non-padding tokens of an optimizer step and its duration."""
        self._token_calls += 1
        if seconds > 0 and tokens > 0 and self._token_calls % self._timing_steps == 0:
            self._by_tokens = self._tokens.add(tokens / seconds)

    @property
    def ratio(self) -> float | None:
        """Median speed of the last steps over the median of all steps."""
        if self._by_steps is None:
            return None
        return max(self._by_steps[0], self._by_tokens[0]) if self._by_tokens else self._by_steps[0]

    @property
    def zscore(self) -> float | None:
        """How far that is below what is usual, in deviations of such a median."""
        if self._by_steps is None:
            return None
        return min(self._by_steps[1], self._by_tokens[1]) if self._by_tokens else self._by_steps[1]

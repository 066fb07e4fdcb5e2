"""Statistics over the steps of a run that the alert rules compare with their thresholds.

The guide speaks of steps; Prometheus samples in seconds. So what is defined per step is computed here, per logged
loss, in constant time and memory. Nothing here decides: a signal is a number, the threshold stands in `alerts/`.

A *point* is one logged loss: one optimizer step, or the mean of `logging_steps` of them. Smoothing scales with the
number of points that the run will have, because a constant that suits 60 points gives false alarms at 1,000.
"""

from __future__ import annotations

import math
from collections import deque


def _clamp(value: float, low: int, high: int) -> int:
    return int(min(max(value, low), high))


class LossSignals:
    """Where the training loss comes from, where it is, and whether it has turned.

    `expected_points` is how many losses the run will log (None when unknown).
    """

    def __init__(self, expected_points: int | None) -> None:
        points = expected_points or 500
        #: Points that count as the beginning; their mean is `initial`.
        self._initial_points = _clamp(points / 50, 3, 10)
        self._alpha = 2 / (1 + _clamp(points / 20, 4, 50))
        #: A rise counts once it has held for this many points.
        self._hold = _clamp(points / 50, 3, 20)
        self._mean = 0.0
        self._weight = 0.0
        # The noise is followed three times as slowly as the level, so that a rise does not hide in its own noise.
        self._noise_alpha = self._alpha / 3
        self._noise = 0.0
        self._noise_weight = 0.0
        self._initial_sum = 0.0
        self._recent_rises: deque[float] = deque(maxlen=self._hold)
        self._recent_zscores: deque[float] = deque(maxlen=self._hold)
        self.points = 0
        self.best: float | None = None

    def add(self, loss: float) -> None:
        """Take one logged loss; a non-finite one is no point (the run state counts it)."""
        if not math.isfinite(loss):
            return
        self.points += 1
        if self.points <= self._initial_points:
            self._initial_sum += loss
        if self._weight:
            self._add_residual(loss - self._mean / self._weight)
        self._mean += self._alpha * (loss - self._mean)
        self._weight += self._alpha * (1 - self._weight)
        smoothed = self._mean / self._weight
        if self.points >= self._initial_points:
            self.best = smoothed if self.best is None else min(self.best, smoothed)
            # Losses of preference and policy objectives go below zero, where a ratio means nothing.
            if self.best > 0:
                self._recent_rises.append(smoothed / self.best - 1)
            if (deviation := self._smoothed_deviation()) is not None:
                self._recent_zscores.append((smoothed - self.best) / deviation)

    def _add_residual(self, residual: float) -> None:
        """Follow the noise of single points around their mean; one outlier counts as three deviations at most."""
        if self._noise > 0:
            limit = 3 * math.sqrt(self._noise / self._noise_weight)
            residual = min(max(residual, -limit), limit)
        self._noise += self._noise_alpha * (residual * residual - self._noise)
        self._noise_weight += self._noise_alpha * (1 - self._noise_weight)

    def _smoothed_deviation(self) -> float | None:
        """Standard deviation that the noise alone gives to the smoothed loss."""
        if self._noise <= 0:
            return None
        return math.sqrt(self._noise / self._noise_weight * self._alpha / (2 - self._alpha))

    @property
    def smoothed(self) -> float | None:
        """Bias-corrected exponential mean of the loss."""
        return self._mean / self._weight if self.points else None

    @property
    def initial(self) -> float | None:
        """Mean of the first losses, known once there are enough of them."""
        return self._initial_sum / self._initial_points if self.points >= self._initial_points else None

    @property
    def rise_ratio(self) -> float | None:
        """How far the smoothed loss has stayed above its best: the least of the last few points' excess."""
        return min(self._recent_rises) if len(self._recent_rises) == self._hold else None

    @property
    def rise_zscore(self) -> float | None:
        """The same rise in standard deviations of the smoothed loss: what noise alone does not reach."""
        return min(self._recent_zscores) if len(self._recent_zscores) == self._hold else None

    @property
    def improvement_ratio(self) -> float | None:
        """Share of the initial loss that training has removed so far (negative when the loss is higher)."""
        if self.initial is None or self.smoothed is None or self.initial <= 0:
            return None
        return 1 - self.smoothed / self.initial

"""Where the training loss comes from, where it is, and whether it has turned."""

from __future__ import annotations

import math
from itertools import pairwise
from statistics import median

from training_exporter.signals.windows import TINY, Halfway, SlidingExtreme, Zigzag, clamp, is_number, mean, scaled

#: Points per run that the windows assume when the run does not say how many it will have.
_USUAL_POINTS = 500
#: Share of the initial loss below which a rise is no longer measured against the best loss itself: from 0.01 to 0.02
#: is a doubling, and nothing in a run that began at 2.
_SCALE_FLOOR = 0.1
#: Points that say too little of their noise: with as many, the variance is taken for twice what they show.
_FEW_POINTS = 10
#: Variance of a median over that of a mean.
_MEDIAN_VARIANCE = math.pi / 2
#: Points of a burst: between the first and the last the loss need not turn.
_BURST = 3
#: A first loss that is this many times as high as the ones after it, or as low, is not like them.
_ODD = 2.0


class LossSignals:
    """Statistics of the training loss.

    `expected_points` is how many losses the run will log (None when unknown). `from_start` is False for a process
    that took up a run in its middle and has not seen where it began: what is measured from there stays unknown.

    Attributes are finite, and None until they are known. Ratios end with the first negative loss: those of policy
    objectives cross zero, where a ratio means nothing.
    """

    __slots__ = (
        "_alpha", "_best_halfway", "_best_variance", "_burst", "_bursts", "_first", "_first_count", "_from_start",
        "_halfway", "_held", "_held_long", "_held_long_zscores", "_held_zscores", "_mean_square", "_noise_points",
        "_previous", "_signed", "_spikes", "_widest", "_zigzag", "best", "improvement_ratio", "initial", "points",
        "recent_improvement_ratio", "rise_ratio", "rise_zscore", "smoothed", "spike_zscore", "sustained_rise_ratio",
        "sustained_rise_zscore",
    )  # fmt: skip

    def __init__(self, expected_points: int | None, *, from_start: bool = True) -> None:
        points = expected_points or _USUAL_POINTS
        self._from_start = from_start
        self._signed = False
        self._first: list[float] = []
        self._first_count = int(clamp(points / 50, 3, 10))
        #: Smoothing window at its widest, in points.
        self._widest = scaled(points / 20, 4, 50)
        self._alpha = 1.0
        self._mean_square = 0.0
        self._noise_points = 0
        self._best_variance = 0.0
        self._previous = (math.inf, math.inf)
        hold, hold_long = int(scaled(points / 80, 3, 20)), int(scaled(points / 20, 6, 60))
        self._held, self._held_zscores = SlidingExtreme(hold), SlidingExtreme(hold)
        self._held_long, self._held_long_zscores = SlidingExtreme(hold_long), SlidingExtreme(hold_long)
        self._spikes = SlidingExtreme(hold, largest=True)
        width, needed = scaled(points / 20, 12, 40), int(clamp(points / 8, 6, 12))
        self._zigzag = Zigzag(width, needed)
        # Bursts of a few points turn nowhere in between: seen from further away they do.
        self._bursts = Zigzag(width / _BURST, max(3, needed // _BURST))
        self._burst: list[float] = []
        self._halfway, self._best_halfway = Halfway(), Halfway()

        self.points = 0
        #: Bias-corrected exponential mean of the loss.
        self.smoothed: float | None = None
        #: Median of the first losses; the first one alone where the others have left it far behind.
        self.initial: float | None = None
        #: Lowest smoothed loss so far.
        self.best: float | None = None
        #: How far the smoothed loss has stayed above its best: the least excess of the last few points.
        self.rise_ratio: float | None = None
        #: The same in standard deviations of the smoothed loss: what noise alone does not reach.
        self.rise_zscore: float | None = None
        #: Both over three times as many points.
        self.sustained_rise_ratio: float | None = None
        self.sustained_rise_zscore: float | None = None
        #: Share of the initial loss that training has removed so far (negative when the loss is higher).
        self.improvement_ratio: float | None = None
        #: Share of the loss that the later half of the points so far has removed.
        self.recent_improvement_ratio: float | None = None
        #: Largest sudden rise of the last few points, in deviations of a single point.
        self.spike_zscore: float | None = None

    @property
    def fluctuation(self) -> float | None:
        """Typical to and fro from point to point, in the unit of the loss (nats per token)."""
        near = None if self._signed else self._zigzag.value
        return None if near is None else max(near, self._bursts.value or 0.0)

    @property
    def fluctuation_ratio(self) -> float | None:
        """The same as a share of the loss."""
        near = None if self._signed else self._zigzag.ratio
        return None if near is None else max(near, self._bursts.ratio or 0.0)

    def add(self, loss: float) -> None:
        """Take one logged loss; a non-finite one is no point (the run state counts it)."""
        if not is_number(loss):
            return
        self.points += 1
        if loss < 0 and not self._signed:
            self._end_ratios()
        self._follow(loss)
        if self.points <= self._first_count:
            self._begin(loss)
        if self.points >= self._first_count:
            self._compare(loss)
        self._previous = (self._previous[1], loss)
        self._zigzag.add(loss)
        self._burst.append(loss)
        if len(self._burst) == _BURST:
            self._bursts.add(mean(self._burst))
            self._burst.clear()

    def _follow(self, loss: float) -> None:
        """Level and noise. The window grows with the points so far, so that a young run is followed closely."""
        if self.smoothed is None:
            self.smoothed = loss
            return
        alpha = self._alpha = max(1 / self.points, 2 / (1 + min(self._widest, max(4.0, self.points / 5))))
        residual = loss - self.smoothed
        if self._mean_square > 0:
            deviation = math.sqrt(self._mean_square)
            if self.points > self._first_count:
                self.spike_zscore = self._spikes.add(residual / deviation)
            # One outlier counts as three deviations at most.
            residual = clamp(residual, -3 * deviation, 3 * deviation)
        self._noise_points += 1
        # Three times as slowly as the level, so that a rise does not hide in its own noise.
        self._mean_square += max(1 / self._noise_points, alpha / 3) * (residual * residual - self._mean_square)
        self.smoothed += alpha * (loss - self.smoothed)

    def _begin(self, loss: float) -> None:
        self._first.append(loss)
        if len(self._first) < self._first_count:
            return
        first, later = self._first[0], self._first[1:]
        typical = median(self._first)
        if first > _ODD * median(later) > 0:
            # A first point that is an outlier (it may hold what came before the first step) is not where it began.
            typical = median(later)
            self.smoothed = mean(later)
            self._mean_square = mean([(b - a) * (b - a) for a, b in pairwise(later)]) / 2
        elif 0 < first < typical / _ODD:
            # A run that diverges at once began where its first loss was.
            typical = first
        if self._from_start:
            self.initial = typical
        # The run has been there, whatever the mean of these points is by now.
        self.best, self._best_variance = typical, _MEDIAN_VARIANCE * self._mean_square / len(self._first)
        self._first = []

    def _compare(self, loss: float) -> None:
        smoothed = self.smoothed
        assert smoothed is not None
        variance = self._mean_square * self._alpha / (2 - self._alpha)
        if self.best is None or smoothed < self.best:
            self.best, self._best_variance = smoothed, variance
        best = self.best
        # The median of the last three has forgotten a spike at once, where the mean remembers it.
        a, b = self._previous
        excess = max(0.0, min(smoothed, max(min(a, b), min(max(a, b), loss))) - best)
        # Of the difference: the best has its own noise, the more the fewer points it was the mean of. And few points
        # know little about their noise.
        doubt = 1 + _FEW_POINTS / self._noise_points
        deviation = math.sqrt(doubt * (variance + max(variance, self._best_variance)))
        if deviation > 0:
            self.rise_zscore = self._held_zscores.add(excess / deviation)
            self.sustained_rise_zscore = self._held_long_zscores.add(excess / deviation)
        if self._signed:
            return
        scale = max(best, _SCALE_FLOOR * (self.initial or 0.0))
        if scale > TINY:
            self.rise_ratio = self._held.add(excess / scale)
            self.sustained_rise_ratio = self._held_long.add(excess / scale)
        if self.initial and self.initial > TINY:
            self.improvement_ratio = 1 - smoothed / self.initial
        # Of the mean or of the best, whichever got on: a mean that swings may be up by chance, and a best that chance
        # has made early may stay the best for long.
        half, best_half = self._halfway.add(smoothed), self._best_halfway.add(best)
        if half and half > TINY and best_half and best_half > TINY:
            self.recent_improvement_ratio = 1 - min(smoothed / half, best / best_half)

    def _end_ratios(self) -> None:
        self._signed = True
        self.rise_ratio = self.sustained_rise_ratio = None
        self.improvement_ratio = self.recent_improvement_ratio = None

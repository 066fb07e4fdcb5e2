"""Whether validation follows training."""

from __future__ import annotations

from collections import deque

from training_exporter.signals.windows import TINY, Halfway, is_number, mean, turn

#: Evaluations over which a statistic must hold: at least two, because one that is off may be chance and fine-tunings
#: have few, and a quarter of those so far, because among a hundred two in a row are chance as well.
_LEAST_HOLD, _LARGEST_HOLD, _HOLD_SHARE = 2, 12, 4


class _Held:
    """Least of the last evaluations."""

    __slots__ = ("_count", "_values")

    def __init__(self) -> None:
        self._count = 0
        self._values: deque[float] = deque(maxlen=_LARGEST_HOLD)

    def add(self, value: float) -> float | None:
        self._count += 1
        self._values.append(value)
        hold = min(max(_LEAST_HOLD, self._count // _HOLD_SHARE), _LARGEST_HOLD)
        return min(list(self._values)[-hold:]) if self._count >= hold else None


class _Turns:
    """Mean to and fro of the last evaluations, as `Zigzag` has it, for series of a few values.

    The largest turn is left out: one evaluation that is off is one turn.
    """

    __slots__ = ("_turns", "_values", "ratio")

    #: Evaluations that make it known.
    _NEEDED = 4

    def __init__(self) -> None:
        self._values: deque[float] = deque(maxlen=_LARGEST_HOLD)
        self._turns: deque[float] = deque(maxlen=_LARGEST_HOLD - 2)
        #: As a share of the mean of the values; None where that is not positive.
        self.ratio: float | None = None

    def add(self, value: float) -> None:
        values, turns = self._values, self._turns
        values.append(value)
        if len(values) < 3:
            return
        turns.append(turn(values[-2] - values[-3], value - values[-2]))
        if len(values) >= self._NEEDED:
            level = mean(values)
            self.ratio = (sum(turns) - max(turns)) / (len(turns) - 1) / level if level > TINY else None


class ValidationSignals:
    """Statistics of the validation loss, each beside the smoothed training loss of its time.

    Attributes are None until they are known, and for losses of which no ratio can be taken.
    """

    __slots__ = (
        "_best_gap", "_divergences", "_gaps", "_growths", "_halfway", "_turns", "best", "divergence_ratio",
        "gap_growth_ratio", "gap_ratio", "recent_improvement_ratio",
    )  # fmt: skip

    def __init__(self) -> None:
        self._divergences, self._gaps, self._growths = _Held(), _Held(), _Held()
        self._turns = _Turns()
        self._halfway = Halfway()
        self._best_gap: float | None = None

        #: Lowest validation loss so far.
        self.best: float | None = None
        #: How far validation has stayed above its best while training did not rise with it: the least excess of the
        #: last evaluations, or the widening of the gap since the best where that is less.
        self.divergence_ratio: float | None = None
        #: How far validation has stayed above training: validation / training - 1, the least of the last evaluations.
        self.gap_ratio: float | None = None
        #: How much validation / training has grown since the best validation loss, the least of the last evaluations.
        self.gap_growth_ratio: float | None = None
        #: Share of the best validation loss that the later half of the evaluations has removed.
        self.recent_improvement_ratio: float | None = None

    @property
    def fluctuation_ratio(self) -> float | None:
        """Typical to and fro from evaluation to evaluation, as a share of the validation loss."""
        return self._turns.ratio

    def add(self, loss: float, training_loss: float | None) -> None:
        """Take an evaluation's loss and the smoothed training loss of the moment (None when there is none)."""
        if not is_number(loss):
            return
        gap = loss / training_loss if training_loss is not None and training_loss > TINY and loss > TINY else None
        if self.best is None or loss < self.best:
            self.best, self._best_gap = loss, gap
        if self.best > TINY:
            excess = loss / self.best
            growth = gap / self._best_gap if gap and self._best_gap else None
            self.divergence_ratio = self._divergences.add(min(excess, growth or excess) - 1)
            if growth is not None:
                self.gap_growth_ratio = self._growths.add(growth - 1)
            half = self._halfway.add(self.best)
            self.recent_improvement_ratio = None if half is None else 1 - self.best / half
        if gap is not None:
            self.gap_ratio = self._gaps.add(gap - 1)
        self._turns.add(loss)

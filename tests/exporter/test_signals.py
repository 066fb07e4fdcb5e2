"""Signals on curves whose truth is known."""

from __future__ import annotations

import math
import random

import pytest

from training_exporter.signals import LossSignals


def healthy(points: int, seed: int, noise: float = 0.05) -> list[float]:
    rng = random.Random(seed)
    return [(0.7 + 1.3 * math.exp(-5 * n / points)) * math.exp(rng.gauss(0, noise)) for n in range(points)]


def fed(losses: list[float], expected: int | None = None) -> LossSignals:
    signals = LossSignals(expected or len(losses))
    for value in losses:
        signals.add(value)
    return signals


@pytest.mark.parametrize("points", [60, 200, 1000, 20_000])
@pytest.mark.parametrize("seed", range(5))
def test_a_healthy_run_does_not_look_like_a_rise(points: int, seed: int) -> None:
    signals = LossSignals(points)
    for value in healthy(points, seed, noise=0.1):
        signals.add(value)
        rise, zscore = signals.rise_ratio, signals.rise_zscore
        assert not (rise is not None and zscore is not None and rise > 0.10 and zscore > 6)


@pytest.mark.parametrize("points", [60, 200, 1000, 20_000])
@pytest.mark.parametrize("seed", range(5))
def test_a_rise_shows_soon(points: int, seed: int) -> None:
    losses = healthy(points, seed)
    onset = points // 2
    # Twice the loss within a twentieth of the run, and staying there.
    losses[onset:] = [v * min(2.0, 1 + 20 * (n - onset) / points) for n, v in enumerate(losses[onset:], onset)]
    signals = LossSignals(points)
    seen = None
    for n, value in enumerate(losses):
        signals.add(value)
        rise, zscore = signals.rise_ratio, signals.rise_zscore
        if seen is None and rise is not None and zscore is not None and rise > 0.10 and zscore > 6:
            seen = n
    assert seen is not None
    assert onset < seen <= onset + max(12, 0.08 * points)


def test_improvement_tells_a_plateau_from_learning() -> None:
    flat = fed([2.0 + 0.02 * (-1) ** n for n in range(300)])
    assert flat.improvement_ratio == pytest.approx(0, abs=0.01)
    learning = fed(healthy(300, 1)).improvement_ratio
    assert learning is not None
    assert learning > 0.5


def test_nothing_is_known_too_early_and_nonsense_is_no_point() -> None:
    signals = LossSignals(1000)
    for _ in range(5):
        signals.add(2.0)
    for bad in (math.nan, math.inf, -math.inf):
        signals.add(bad)
    assert signals.points == 5
    assert signals.initial is None
    assert signals.rise_ratio is None
    assert signals.improvement_ratio is None


def test_losses_below_zero_give_no_ratio() -> None:
    signals = fed([-0.1 * n for n in range(200)])
    assert signals.rise_ratio is None
    assert signals.improvement_ratio is None

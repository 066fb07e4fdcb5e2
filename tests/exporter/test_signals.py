"""Signals on curves whose truth is known: what is harmless stays below the rules' thresholds, what is not does not.

The thresholds themselves stand in alerts/rules; the few that are repeated here say so.
"""

from __future__ import annotations

import math
import pickle
import random
import statistics
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training_exporter.signals import LossSignals, PaceSignals, ValidationSignals
from training_exporter.signals.pace import Quartiles
from training_exporter.signals.windows import Halfway, SlidingExtreme, Zigzag

LENGTHS = [60, 200, 1000, 20_000]


def curve(points: int, seed: int, noise: float = 0.05, start: float = 2.0, end: float = 0.7) -> list[float]:
    rng = random.Random(seed)
    return [(end + (start - end) * math.exp(-10 * n / points)) * math.exp(rng.gauss(0, noise)) for n in range(points)]


def rises(g: LossSignals) -> bool:
    """LossRising, as the rule has it."""

    def both(ratio: float | None, zscore: float | None, limit: float) -> bool:
        return ratio is not None and zscore is not None and ratio > limit and zscore > 6

    at_once = (
        g.rise_ratio is not None
        and g.initial is not None
        and g.smoothed is not None
        and g.rise_ratio > 0.7
        and g.smoothed > 1.7 * g.initial
    )
    long = both(g.sustained_rise_ratio, g.sustained_rise_zscore, 0.3)
    return both(g.rise_ratio, g.rise_zscore, 0.45) or long or at_once


def fluctuates(g: LossSignals) -> bool:
    """LossFluctuating, as the rule has it."""
    nats, share = g.fluctuation, g.fluctuation_ratio
    if nats is None or share is None:
        return False
    return (nats > 0.42 and share > 0.07) or (nats > 0.1 and share > 0.28)


def first(losses: list[float], sign: object, expected: int | None = None) -> int | None:
    """The first point at which `sign` holds."""
    assert callable(sign)
    signals = LossSignals(expected or len(losses))
    for n, value in enumerate(losses):
        signals.add(value)
        if sign(signals):
            return n
    return None


def fed(losses: list[float], expected: int | None = None) -> LossSignals:
    signals = LossSignals(expected or len(losses))
    for value in losses:
        signals.add(value)
    return signals


# -- rising -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("points", LENGTHS)
@pytest.mark.parametrize("seed", range(5))
def test_a_healthy_run_neither_rises_nor_fluctuates(points: int, seed: int) -> None:
    losses = curve(points, seed, noise=0.1)
    assert first(losses, rises) is None
    assert first(losses, fluctuates) is None


@pytest.mark.parametrize("points", LENGTHS)
@pytest.mark.parametrize("seed", range(5))
def test_a_rise_shows_soon(points: int, seed: int) -> None:
    losses = curve(points, seed)
    onset = points // 2
    # Twice the loss within a twentieth of the run, and staying there.
    losses[onset:] = [v * min(2.0, 1 + 20 * (n - onset) / points) for n, v in enumerate(losses[onset:], onset)]
    seen = first(losses, rises)
    assert seen is not None
    # A run of 60 points has shown little of its noise by then, and must not cry wolf.
    assert onset < seen <= onset + max(20, 0.08 * points)


@pytest.mark.parametrize("points", [60, 200, 1000])
def test_divergence_from_the_start_shows_at_once(points: int) -> None:
    losses = [1.6, 2.5, 4.0, 6.0] + [8.0] * (points - 4)
    seen = first(losses, rises)
    assert seen is not None
    assert seen <= max(8, 0.08 * points)


@pytest.mark.parametrize("points", [120, 1000, 5000])
@pytest.mark.parametrize("seed", range(3))
def test_harmless_oddities_are_no_rise(points: int, seed: int) -> None:
    plain = curve(points, seed)
    half = points // 2
    oddities = {
        "a first point that is an outlier": [plain[0] * 8, *plain[1:]],
        "a lone spike": [v * (4 if n in (half, half + 1) else 1) for n, v in enumerate(plain)],
        "harder data for a while": [
            v * (1 + 0.2 * math.exp(-4 * (n - half) / points) * (n >= half)) for n, v in enumerate(plain)
        ],
        "a bump in warm-up": [
            v * (1 + 0.15 * math.sin(math.pi * n / (0.1 * points)) * (n < 0.1 * points)) for n, v in enumerate(plain)
        ],
        "batches sorted by length": [v * (0.8 + 0.4 * (n % 12) / 12) for n, v in enumerate(plain)],
        "flat from a trained adapter": [0.35 * math.exp(random.Random(n + seed).gauss(0, 0.15)) for n in range(points)],
        "a doubling near zero": [max(0.004, 2 * math.exp(-20 * n / points)) * (1 + (n > half)) for n in range(points)],
    }
    for name, losses in oddities.items():
        assert first(losses, rises) is None, name


def test_a_step_down_at_each_epoch_is_neither_rise_nor_fluctuation() -> None:
    losses = [v * 0.8 ** (n // 200) for n, v in enumerate(curve(1000, 1))]
    assert first(losses, rises) is None
    assert first(losses, fluctuates) is None


def test_the_score_of_a_rise_knows_how_noisy_the_best_was() -> None:
    quiet, noisy = (fed([2.0 + s * (-1) ** n for n in range(50)] + [2.6] * 10, 60) for s in (0.02, 0.4))
    assert quiet.rise_zscore is not None
    assert noisy.rise_zscore is not None
    assert quiet.rise_zscore > 6 > noisy.rise_zscore


# -- level, start, improvement ----------------------------------------------------------------------------------------


def test_improvement_tells_a_plateau_from_learning() -> None:
    flat = fed([2.0 + 0.02 * (-1) ** n for n in range(300)])
    assert flat.improvement_ratio == pytest.approx(0, abs=0.02)
    assert flat.recent_improvement_ratio == pytest.approx(0, abs=0.02)
    learning = fed(curve(300, 1)).improvement_ratio
    assert learning is not None
    assert learning > 0.5


def test_the_later_half_is_what_recent_means() -> None:
    fell_early = fed([3.0] * 100 + [1.5] * 900).recent_improvement_ratio
    falls_on = fed([3.0 - 2.5 * n / 1000 for n in range(1000)]).recent_improvement_ratio
    assert fell_early == pytest.approx(0, abs=0.01)
    assert falls_on is not None
    assert 0.5 < falls_on < 0.8


def test_where_a_run_begins() -> None:
    assert fed([14.75, 1.2, 0.8, 0.7, 0.7], 75).initial == pytest.approx(1.0), "an outlier is not the start"
    diverged = fed([1.6, 11.8, 11.6, 10.4, 10.4], 10)
    assert diverged.initial == 1.6, "what it diverged from is"
    assert diverged.best == 1.6
    assert fed([2.1, 1.9, 2.0, 1.8, 1.7], 75).initial == 2.0


def test_a_process_that_resumed_does_not_know_the_start() -> None:
    signals = LossSignals(1000, from_start=False)
    for value in curve(500, 2):
        signals.add(value)
    assert signals.initial is None
    assert signals.improvement_ratio is None
    assert signals.best is not None
    assert signals.rise_ratio is not None


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
    assert signals.fluctuation is None


def test_losses_below_zero_give_no_ratio() -> None:
    signals = fed([-0.1 * n for n in range(200)])
    assert signals.rise_ratio is None
    assert signals.improvement_ratio is None
    assert signals.fluctuation is None
    crossing = fed([0.5 * math.cos(n / 7) for n in range(200)])
    assert crossing.rise_ratio is None
    assert crossing.recent_improvement_ratio is None


@given(st.lists(st.floats(-1e6, 1e6), max_size=60), st.integers(1, 100_000))
def test_whatever_comes_the_figures_are_finite(losses: list[float], expected: int) -> None:
    signals = fed(losses, expected)
    names = [name for name in LossSignals.__slots__ if not name.startswith("_")]
    for name in (*names, "fluctuation", "fluctuation_ratio"):
        value = getattr(signals, name)
        assert value is None or math.isfinite(value), name


# -- fluctuation and spikes -------------------------------------------------------------------------------------------


def test_two_sources_in_turn_fluctuate() -> None:
    rng = random.Random(3)
    losses = [rng.choice((1.0, 4.0)) * math.exp(rng.gauss(0, 0.05)) for _ in range(200)]
    seen = first(losses, fluctuates)
    assert seen is not None
    assert seen < 30


@pytest.mark.parametrize("points", [120, 1000])
@pytest.mark.parametrize("width", [1, 2])
def test_spikes_that_keep_coming_fluctuate(points: int, width: int) -> None:
    healthy = curve(points, 3, noise=0.03)
    onset = points // 3
    found = first([2.5 * x if n >= onset and n % 7 < width else x for n, x in enumerate(healthy)], fluctuates)
    assert found is not None
    assert onset <= found <= onset + points // 2


def test_zigzag_sees_turns_and_not_trends() -> None:
    def of(values: list[float]) -> float:
        zigzag = Zigzag(20, needed=10)
        for value in values:
            zigzag.add(value)
        assert zigzag.value is not None
        return zigzag.value

    rng = random.Random(1)
    assert of([10 - 0.1 * n for n in range(90)]) == 0
    assert of([5.0] * 40 + [1.0] * 40) == 0
    assert of([1.0] * 40 + [9.0] + [1.0] * 39) < 0.05
    assert of([rng.gauss(0, 1) for _ in range(3000)]) == pytest.approx(0.6, abs=0.2)


def test_a_spike_shows_for_a_few_points() -> None:
    losses = curve(300, 1)
    before = fed(losses[:200], 300).spike_zscore
    during = fed([*losses[:200], losses[200] * 4], 300).spike_zscore
    after = fed([*losses[:200], losses[200] * 4, *losses[201:]], 300).spike_zscore
    assert before is not None
    assert during is not None
    assert after is not None
    assert before < 5 < 8 < during
    assert after < 5


# -- validation -------------------------------------------------------------------------------------------------------


def evaluated(pairs: list[tuple[float, float | None]]) -> ValidationSignals:
    signals = ValidationSignals()
    for loss, training in pairs:
        signals.add(loss, training)
    return signals


def test_overfitting_diverges() -> None:
    signals = evaluated([(1.5, 1.4), (1.2, 1.0), (1.25, 0.8), (1.3, 0.6), (1.4, 0.5)])
    assert signals.best == 1.2
    assert signals.divergence_ratio == pytest.approx(1.3 / 1.2 - 1)
    assert signals.gap_growth_ratio is not None
    assert signals.gap_growth_ratio > 0.5
    assert signals.gap_ratio == pytest.approx(1.3 / 0.6 - 1)


def test_one_evaluation_that_is_off_is_chance() -> None:
    signals = evaluated([(1.5, 1.4), (1.2, 1.1), (1.5, 1.0), (1.19, 1.0)])
    assert signals.divergence_ratio == 0


def test_validation_that_rises_with_training_does_not_diverge() -> None:
    signals = evaluated([(1.5, 1.4), (1.2, 1.1), (2.4, 2.2), (2.6, 2.4)])
    assert signals.divergence_ratio is not None
    assert signals.divergence_ratio < 0.02


def test_validation_without_a_training_loss_knows_no_gap() -> None:
    signals = evaluated([(1.5, None), (1.2, None), (1.5, None), (1.6, None)])
    assert signals.gap_ratio is None
    assert signals.divergence_ratio == pytest.approx(0.25)


def test_improvement_of_validation_is_of_the_later_half() -> None:
    assert evaluated([(2 - 0.1 * n, 1.0) for n in range(10)]).recent_improvement_ratio == pytest.approx(
        1 - 1.1 / 1.6, abs=0.1
    )
    assert evaluated([(2.0, 1.0), *[(1.0, 0.5)] * 9]).recent_improvement_ratio == 0


def test_random_subsets_fluctuate_and_a_descent_does_not() -> None:
    wild = evaluated([(v, 0.7) for v in (1.0, 3.0, 0.7, 2.5, 0.6, 4.0)]).fluctuation_ratio
    calm = evaluated([(v, 0.7) for v in (2.0, 1.4, 1.1, 1.12, 1.0, 0.99)]).fluctuation_ratio
    assert wild is not None
    assert calm is not None
    assert calm < 0.03 < 0.12 < wild
    assert evaluated([(1.0, 0.7), (3.0, 0.7), (1.0, 0.7)]).fluctuation_ratio is None


def test_evaluations_that_fluctuate_do_so_however_calm_they_began() -> None:
    calm = [1.0, 0.95, 0.92, 0.9, 0.89, 0.88]
    wild = [*calm, 1.3, 0.8, 1.2, 0.7, 1.1]
    assert (evaluated([(x, 0.8) for x in calm]).fluctuation_ratio or 0) < 0.01
    assert (evaluated([(x, 0.8) for x in wild]).fluctuation_ratio or 0) > 0.15
    once = [*calm, 1.3, 0.87, 0.87]
    assert (evaluated([(x, 0.8) for x in once]).fluctuation_ratio or 0) < 0.02


@given(st.lists(st.tuples(st.floats(-10, 100), st.one_of(st.none(), st.floats(-10, 100))), max_size=40))
def test_whatever_is_evaluated_the_figures_are_finite(pairs: list[tuple[float, float | None]]) -> None:
    signals = evaluated(pairs)
    for name in ("divergence_ratio", "gap_ratio", "gap_growth_ratio", "recent_improvement_ratio", "fluctuation_ratio"):
        value = getattr(signals, name)
        assert value is None or math.isfinite(value), name


# -- pace -------------------------------------------------------------------------------------------------------------


def timed(seconds: list[float], tokens: list[int] | None = None, expected: int | None = None) -> PaceSignals:
    pace = PaceSignals(expected or len(seconds))
    for n, duration in enumerate(seconds):
        pace.add_step(duration)
        if tokens is not None:
            pace.add_tokens(tokens[n], duration)
    return pace


def slow(pace: PaceSignals) -> bool:
    """ThroughputDrop, as the rule has it."""
    return pace.ratio is not None and pace.zscore is not None and pace.ratio < 0.7 and pace.zscore > 10


def jittered(steps: int, seed: int = 1) -> list[float]:
    rng = random.Random(seed)
    return [math.exp(rng.gauss(0, 0.05)) * (3 if rng.random() < 0.03 else 1) for _ in range(steps)]


@pytest.mark.parametrize("steps", [120, 1000, 10_000])
def test_half_the_speed_shows_within_a_few_steps(steps: int) -> None:
    seconds = jittered(steps)
    assert not slow(timed(seconds))
    onset = steps // 2
    late = max(10, steps // 40)
    halved = [*seconds[:onset], *(2 * s for s in seconds[onset : onset + late])]
    assert slow(timed(halved, expected=steps))


def test_slow_first_batches_and_slow_steps_here_and_there_are_nothing() -> None:
    seconds = [5.0, 4.0, 3.0, *jittered(297, 2)]
    for n in range(30, 300):
        assert not slow(timed(seconds[:n], expected=300))


def test_a_slowdown_that_creeps_in_is_one() -> None:
    creeping = [s * (1 + max(0, n - 100) / 100) for n, s in enumerate(jittered(300, 3))]
    assert any(slow(timed(creeping[:n], expected=300)) for n in range(200, 300))


def test_speed_that_changes_from_step_to_step_by_nature_is_no_slowdown() -> None:
    rng = random.Random(5)
    uneven = [rng.choice((0.4, 0.7, 1.0, 1.8, 2.6)) for _ in range(400)]
    assert not any(slow(timed(uneven[:n], expected=400)) for n in range(100, 400, 7))


def test_speed_that_wanders_on_a_shared_machine_is_no_slowdown() -> None:
    """Other processes take a share of the cores for a dozen steps, again and again."""
    rng = random.Random(7)
    shared = [load * s for _ in range(40) for load in (rng.uniform(0.8, 1.8),) for s in jittered(12, rng.randrange(99))]
    paces = [timed(shared[:n], expected=480) for n in range(120, 480, 3)]
    assert min(pace.ratio for pace in paces if pace.ratio is not None) < 0.7
    assert not any(slow(pace) for pace in paces)


def test_a_time_that_is_spread_over_steps_counts_once() -> None:
    """Every tenth step was timed, and one of these times holds a checkpoint."""
    seconds = [s for n in range(30) for s in [3.0 if n == 25 else 1.0 + 0.01 * (n % 3)] * 10]
    pace = PaceSignals(300, timing_steps=10)
    for duration in seconds:
        pace.add_step(duration)
        pace.add_tokens(1000, duration)
        assert not slow(pace)
    assert pace.ratio is not None
    assert slow(timed(seconds[:260], expected=300))


def test_longer_and_shorter_examples_are_no_slowdown() -> None:
    longer = timed([1.0] * 100 + [3.0] * 20, [1000] * 100 + [3000] * 20)
    shorter = timed([1.0] * 120, [1000] * 100 + [300] * 20)
    both = timed([1.0] * 100 + [3.0] * 20, [1000] * 120)
    assert not slow(longer)
    assert not slow(shorter)
    assert slow(both)


def test_nothing_is_known_of_the_first_steps_or_of_a_clock_that_stands() -> None:
    assert timed([1.0] * 10, expected=1000).ratio is None
    assert timed([0.0] * 100).ratio is None


@given(st.lists(st.floats(-50, 50), min_size=5, max_size=300))
def test_quartiles_lie_among_the_values(values: list[float]) -> None:
    quartiles = Quartiles()
    for value in values:
        quartiles.add(value)
    assert min(values) <= quartiles.median <= quartiles.upper <= max(values)


def test_quartiles_are_about_right() -> None:
    rng = random.Random(5)
    values = [rng.lognormvariate(0, 0.5) for _ in range(5000)]
    quartiles = Quartiles()
    for value in values:
        quartiles.add(value)
    assert quartiles.median == pytest.approx(statistics.median(values), rel=0.03)
    assert quartiles.upper == pytest.approx(statistics.quantiles(values)[2], rel=0.03)


# -- windows ----------------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=60), st.integers(1, 12), st.booleans())
def test_the_sliding_extreme_is_that_of_the_window(values: list[float], size: int, largest: bool) -> None:
    extreme = SlidingExtreme(size, largest=largest)
    for n, value in enumerate(values, 1):
        found = extreme.add(value)
        window = values[max(0, n - size) : n]
        assert found == (None if n < size else max(window) if largest else min(window))


def test_halfway_is_near_half() -> None:
    halfway = Halfway()
    found = [halfway.add(float(n)) for n in range(1, 2001)]
    for n, value in enumerate(found, 1):
        if n >= 8:
            assert value is not None
            assert 0.4 * n <= value <= 0.5 * n + 1
    known = [value for value in found if value is not None]
    assert all(a <= b for a, b in pairwise(known))


@pytest.mark.parametrize("make", [lambda n: LossSignals(n), lambda n: PaceSignals(n)], ids=["loss", "pace"])
def test_memory_does_not_grow_with_the_points_so_far(make: object) -> None:
    assert callable(make)

    def size(points: int) -> int:
        signals = make(100_000)
        for value in curve(points, 1):
            signals.add(value) if isinstance(signals, LossSignals) else signals.add_step(value)
        return len(pickle.dumps(signals))

    assert size(20_000) < size(5_000) * 1.2

"""What the alerts about the losses look at."""

from __future__ import annotations

from generator import facts
from generator.model import Panel
from generator.queries import of_run
from generator.run.limits import PERCENT, bound_of, constant, fixed_limits, in_percent, limit, signals
from generator.style import Grid


def loss_limits(id: int, grid: Grid) -> Panel:
    """All that the smoothed loss itself is compared with."""
    above = facts.factor("LossOutOfBand", "info", "llm_training_expected_loss")
    below = facts.factor("LossOutOfBand", "info", "llm_training_expected_final_loss")
    start = facts.factor("LossRising", "critical", "llm_training_loss_initial")
    chance = facts.factor("WorseThanRandom", "critical", "llm_training_random_loss")
    return signals(
        id,
        "Loss against its limits",
        "Good: the smoothed loss lies between the limits. Chance is what a model that knows nothing reaches; the "
        f"critical LossRising needs a loss above its start, or above {start:g} times it.",
        [(of_run("llm_training_loss_smoothed"), "training, smoothed")],
        [
            limit("WorseThanRandom", "critical", "chance", f"{chance:g} * {of_run('llm_training_random_loss')}"),
            limit("LossRising", "critical", f"{start:g} x start", f"{start:g} * {of_run('llm_training_loss_initial')}"),
            limit("LossOutOfBand", "info", "above", f"{above:g} * {bound_of('expected_loss', 'upper')}"),
            limit("LossOutOfBand", "info", "below", f"{below:g} * {bound_of('expected_final_loss', 'lower')}"),
            limit("LossCollapsed", "warning", "below", of_run("llm_training_expected_loss_floor")),
        ],
        grid,
        runbooks=["WorseThanRandom", "LossRising", "LossOutOfBand", "LossCollapsed"],
        custom={"scaleDistribution": {"type": "log", "log": 10}},  # from a floor near 0 to chance, near 10
    )


def rise(id: int, grid: Grid) -> Panel:
    most = facts.thresholds("LossRising", "critical", "llm_training_loss_rise_ratio")[-1]
    return signals(
        id,
        "Rise above the best loss",
        "How far the smoothed loss has stayed above its best, over a few points and over three times as many. Good: "
        f"0. LossRising warns above its lines when the noise does not explain it; above {in_percent(most)} it is "
        "critical where the loss has left its starting value far behind.",
        [
            (of_run("llm_training_loss_rise_ratio"), "rise"),
            (of_run("llm_training_loss_sustained_rise_ratio"), "sustained"),
        ],
        [
            *fixed_limits("LossRising", "warning", "llm_training_loss_rise_ratio", percent=True, of="rise"),
            *fixed_limits(
                "LossRising", "warning", "llm_training_loss_sustained_rise_ratio", percent=True, of="sustained"
            ),
            limit("LossRising", "critical", f"rise above {in_percent(most)}", constant(most)),
        ],
        grid,
        runbooks=["LossRising"],
        **PERCENT,
    )


def rise_in_noise(id: int, grid: Grid) -> Panel:
    return signals(
        id,
        "Rise, measured in the run's noise",
        "The same rise in standard deviations of the smoothed loss. Good: near 0. LossRising needs both: a large rise, "
        "and one that this run's noise does not explain.",
        [
            (of_run("llm_training_loss_rise_zscore"), "rise"),
            (of_run("llm_training_loss_sustained_rise_zscore"), "sustained"),
        ],
        fixed_limits("LossRising", "warning", "llm_training_loss_rise_zscore"),
        grid,
        runbooks=["LossRising"],
    )


def fluctuation(id: int, grid: Grid) -> Panel:
    return signals(
        id,
        "Fluctuation from point to point",
        "Typical to and fro of the loss, in nats per token. Good: small against the loss. LossFluctuating fires above "
        "the lower line where the share (beside) is large too, above the upper line where it is of some size.",
        [(of_run("llm_training_loss_fluctuation"), "fluctuation")],
        fixed_limits("LossFluctuating", "warning", "llm_training_loss_fluctuation"),
        grid,
        runbooks=["LossFluctuating"],
        min=0,
    )


def fluctuation_share(id: int, grid: Grid) -> Panel:
    return signals(
        id,
        "Fluctuation, share of the loss",
        "The same to and fro as a share of the loss. Good: a few percent. See the chart beside it for the other half "
        "of the condition.",
        [(of_run("llm_training_loss_fluctuation_ratio"), "share")],
        fixed_limits("LossFluctuating", "warning", "llm_training_loss_fluctuation_ratio", percent=True),
        grid,
        runbooks=["LossFluctuating"],
        min=0,
        **PERCENT,
    )


def spike(id: int, grid: Grid) -> Panel:
    return signals(
        id,
        "Sudden jumps",
        "Largest sudden rise of the last few points, in standard deviations of a single point. Good: below the line. A "
        "jump that stays is a rise, and LossRising's.",
        [(of_run("llm_training_loss_spike_zscore"), "jump")],
        fixed_limits("LossSpike", "info", "llm_training_loss_spike_zscore"),
        grid,
        runbooks=["LossSpike"],
    )


def learnt(id: int, grid: Grid) -> Panel:
    share = facts.factor("SlowFirstEpoch", "warning", "llm_training_expected_improvement_ratio")
    plateau = facts.threshold("EarlyPlateau", "warning", "llm_training_loss_initial")
    best, initial = of_run("llm_training_loss_best"), of_run("llm_training_loss_initial")
    return signals(
        id,
        "Learnt so far",
        "Share of the initial loss that is gone at the best, and what the later half of the points so far has "
        "removed. Good: the first rises to 30-40% in the first epoch. EarlyPlateau and SlowFirstEpoch look at it "
        "after the first quarter of the run; SlowFirstEpoch's line begins after one epoch.",
        [
            (f"1 - {best} / {initial}", "learnt"),
            (of_run("llm_training_loss_recent_improvement_ratio"), "of late"),
        ],
        [
            limit("EarlyPlateau", "warning", f"learnt below {in_percent(plateau)}", constant(plateau)),
            *fixed_limits(
                "EarlyPlateau",
                "warning",
                "llm_training_loss_recent_improvement_ratio",
                percent=True,
                side="below",
                of="of late",
            ),
            limit(
                "SlowFirstEpoch",
                "warning",
                "learnt below",
                f"{share:g} * {bound_of('expected_improvement_ratio', 'lower')}",
            ),
        ],
        grid,
        runbooks=["EarlyPlateau", "SlowFirstEpoch"],
        **PERCENT,
    )


def perplexity_limits(id: int, grid: Grid) -> Panel:
    return signals(
        id,
        "Perplexity against its limits",
        "At the start, and at the best so far. Good: below the lines. HighPerplexity looks after several epochs (its "
        "line begins there), and fires where the loss no longer improves.",
        [
            (f"exp({of_run('llm_training_loss_initial')})", "at the start"),
            (f"exp({of_run('llm_training_loss_best')})", "at best"),
        ],
        [
            limit("InitialPerplexity", "warning", "start above", bound_of("expected_initial_perplexity", "upper")),
            limit("HighPerplexity", "warning", "best above", bound_of("expected_late_perplexity", "upper")),
        ],
        grid,
        runbooks=["InitialPerplexity", "HighPerplexity"],
        min=0,
        decimals=1,
    )


def learning_rate_deviation(id: int, grid: Grid) -> Panel:
    metric = "llm_training_learning_rate_deviation_ratio"
    return signals(
        id,
        "Learning rate: distance from its schedule",
        "As a share of the peak, the least of the last three steps. Good: 0.",
        [(of_run(metric), "distance")],
        fixed_limits("LearningRateOffSchedule", "warning", metric, percent=True),
        grid,
        runbooks=["LearningRateOffSchedule"],
        no_value="no run, or its schedule is not known",
        min=0,
        **PERCENT,
    )


def nonfinite(id: int, grid: Grid) -> Panel:
    def so_far(kind: str) -> str:
        return f'sum by (run) (max_over_time(llm_training_nonfinite_total{{run="$run",kind="{kind}"}}[$__interval]))'

    return signals(
        id,
        "NaN and infinite values",
        "How many so far, by what they were; optimizer steps over which every gradient was one. Good: 0. A loss scaler "
        "skips a few steps at the start of a training in half precision.",
        [
            (so_far("loss"), "losses"),
            (so_far("validation"), "validation losses"),
            (so_far("gradient"), "gradients"),
            (of_run("llm_training_nonfinite_gradient_steps"), "steps without a gradient"),
        ],
        fixed_limits("LossNaN", "critical", "llm_training_nonfinite_gradient_steps", of="steps"),
        grid,
        runbooks=["LossNaN"],
        unit="locale",
        decimals=0,
        min=0,
    )

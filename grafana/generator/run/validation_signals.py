"""What the alerts about the validation loss look at."""

from __future__ import annotations

from generator import facts
from generator.model import Panel
from generator.queries import of_run
from generator.run.limits import PERCENT, bound_of, constant, fixed_limits, in_percent, limit, signals
from generator.style import Grid


def divergence(id: int, grid: Grid) -> Panel:
    metric = "llm_training_validation_divergence_ratio"
    noise = facts.factor("ValidationDiverging", "warning", "llm_training_validation_fluctuation_ratio")
    early, clear, blind = facts.thresholds("ValidationDiverging", "warning", metric)
    return signals(
        id,
        "Validation: rise above its best",
        "How far validation loss has stayed above its best, and further than training rose with it; how much the "
        f"distance to training has grown since. Good: 0. ValidationDiverging fires above {in_percent(clear)}; above "
        f"{in_percent(early)} where the distance has grown; always beyond {noise:g} times the usual to and fro, and "
        f"{in_percent(blind)} before that is known.",
        [(of_run(metric), "rise"), (of_run("llm_training_validation_gap_growth_ratio"), "distance grown")],
        [
            limit("ValidationDiverging", "warning", f"rise above {in_percent(clear)}", constant(clear)),
            limit(
                "ValidationDiverging",
                "warning",
                f"and above {noise:g} x to and fro",
                f"{noise:g} * {of_run('llm_training_validation_fluctuation_ratio')}",
            ),
        ],
        grid,
        runbooks=["ValidationDiverging"],
        **PERCENT,
    )


def gap(id: int, grid: Grid) -> Panel:
    times = facts.factor("ValidationGap", "warning", "llm_training_expected_validation_gap_ratio")
    still = facts.threshold("ValidationGap", "warning", "llm_training_validation_recent_improvement_ratio")
    return signals(
        id,
        "Validation: distance to training",
        "How far validation loss has stayed above the smoothed training loss. Good: 5-15%. ValidationGap fires above "
        f"the line, {times:g} times what is expected, where validation has improved by less than {in_percent(still)} "
        "of late.",
        [
            (of_run("llm_training_validation_gap_ratio"), "distance"),
            (of_run("llm_training_validation_recent_improvement_ratio"), "improved of late"),
        ],
        [
            limit(
                "ValidationGap",
                "warning",
                "distance above",
                f"{times:g} * {bound_of('expected_validation_gap_ratio', 'upper')}",
            )
        ],
        grid,
        runbooks=["ValidationGap"],
        **PERCENT,
    )


def validation_fluctuation(id: int, grid: Grid) -> Panel:
    metric = "llm_training_validation_fluctuation_ratio"
    return signals(
        id,
        "Validation: to and fro",
        "Typical to and fro from evaluation to evaluation, as a share of the validation loss; known from four "
        "evaluations on. Good: a few percent.",
        [(of_run(metric), "to and fro")],
        fixed_limits("ValidationFluctuating", "warning", metric, percent=True),
        grid,
        runbooks=["ValidationFluctuating"],
        no_value="fewer than four evaluations",
        min=0,
        **PERCENT,
    )

"""Charts of the wall: the shown run's figures inside what is expected of them."""

from __future__ import annotations

from generator import facts
from generator.model import Panel, Target
from generator.style import ACT, LOOK, MAIN, MAIN_FAINT, REFERENCE, SECOND, Grid, band, chart, line, steps
from generator.wall.runs import SELECTED, now, shown

NOT_NOW = "No run in this time range"


def loss(id: int, grid: Grid) -> Panel:
    return chart(
        id,
        "Loss",
        "Good: falls inside the band, which is what the run's profile (by default the guide) expects after as many "
        "epochs: fast in the first 10-20% of the training, then slower; validation follows 5-15% above.",
        [
            *band(
                Target(now("llm_training_expected_loss", 'bound="lower"'), "expected, from"),
                Target(now("llm_training_expected_loss", 'bound="upper"'), "expected"),
                REFERENCE,
            ),
            Target(now("llm_training_loss"), "as logged", properties=line(MAIN_FAINT, 1)),
            Target(now("llm_training_loss_smoothed"), "training", properties=line(MAIN, 4)),
            Target(_evaluations("llm_training_validation_loss"), "validation", properties=line(SECOND, 3, points=True)),
        ],
        grid,
        no_value=NOT_NOW,
        last=False,
        min=0,
        runbooks=["LossRising", "ValidationDiverging", "LossOutOfBand"],
    )


def _evaluations(metric: str) -> str:
    """At the moments when it was new: a line through the evaluations, not stairs that come late."""
    value = f"max by (run) ({metric}{SELECTED})"
    before = f"max by (run) ({metric}{SELECTED} offset $__interval)"
    return shown(f"({value} unless {before} == {value})")


def learning_rate(id: int, grid: Grid) -> Panel:
    return chart(
        id,
        "Learning rate",
        "Good: lies on its schedule: warm-up in the first 10% of the steps, then decay.",
        [
            Target(now("llm_training_expected_learning_rate"), "schedule", properties=line(REFERENCE, 8)),
            Target(now("llm_training_learning_rate"), "actual", properties=line(MAIN, 3)),
        ],
        grid,
        no_value=NOT_NOW,
        last=False,
        unit="sci",
        decimals=1,
        min=0,
        runbooks=["LearningRateOffSchedule"],
    )


def tokens_per_second(id: int, grid: Grid) -> Panel:
    usual = f"(llm_training_tokens_per_second{SELECTED} / llm_training_speed_ratio{SELECTED})[10m:$__interval]"
    drop = facts.threshold("ThroughputDrop", "warning", "llm_training_speed_ratio")
    return chart(
        id,
        "Tokens per second",
        "Good: steady, inside or above the band of what the job's GPUs should give (drawn for GPU models that the "
        f"profile knows). ThroughputDrop warns when the median of the last steps stays below {drop:.0%} of what is "
        "usual for the run.",
        [
            *band(
                Target(now("llm_training_expected_tokens_per_second", 'bound="lower"'), "expected, from"),
                Target(now("llm_training_expected_tokens_per_second", 'bound="upper"'), "expected"),
                REFERENCE,
            ),
            Target(
                shown(f"(max by (run) (avg_over_time({usual})) and on (run) llm_training_tokens_per_second{SELECTED})"),
                "usual for this run",
                properties=line(REFERENCE, 2, dash=True),
            ),
            Target(now("llm_training_tokens_per_second"), "actual", properties=line(MAIN, 3)),
        ],
        grid,
        no_value=NOT_NOW,
        last=False,
        unit="locale",
        decimals=0,
        min=0,
        runbooks=["ThroughputDrop", "ThroughputLow"],
    )


def gpu_memory(id: int, grid: Grid) -> Panel:
    high = facts.threshold("GpuMemoryHigh", "warning", "llm_gpu_memory_total_bytes")
    full = facts.threshold("GpuMemoryHigh", "critical", "llm_gpu_memory_total_bytes")
    return chart(
        id,
        "GPU memory per device",
        f"Share of what each device has, up to 100%. Good: stable, below {high:.0%} (orange line); above {full:.0%} "
        "(red line) an out-of-memory error is near.",
        [
            Target(
                "gpu:llm_gpu_memory_used:ratio * on (gpu, uuid) group_left (name) "
                "max by (gpu, uuid, name) (llm_gpu_info)",
                "GPU {{gpu}}, {{name}}",
            )
        ],
        grid,
        no_value="No GPU in this time range",
        last=False,
        unit="percentunit",
        decimals=0,
        min=0,
        max=1,
        custom={"thresholdsStyle": {"mode": "line"}, "lineWidth": 3},
        thresholds=steps((None, "transparent"), (high, LOOK), (full, ACT)),
        runbooks=["GpuMemoryHigh", "GpuMemoryGrowing"],
    )

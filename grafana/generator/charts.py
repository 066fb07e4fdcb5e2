"""Charts: the run's figures over time. The guide's expected patterns stand in the descriptions."""

from __future__ import annotations

from generator import facts
from generator.model import Panel, Target
from generator.queries import RUN, at_evaluations, of_run, per_step
from generator.style import ACT, LOOK, MAIN, MAIN_FAINT, REFERENCE, SECOND, THIRD, Grid, chart, line, steps


def loss(id: int, grid: Grid) -> Panel:
    limit = 1 + facts.threshold("LossRising", "warning", "llm_training_loss_rise_ratio")
    return chart(
        id,
        "Loss",
        "Good: a rapid decrease in the first 10-20% of the training, then a steady, slower one, then flattening; the "
        "validation loss follows 5-15% above. LossRising fires when the smoothed loss has stayed above the dashed line "
        f"({limit:g} times its best so far) for several points, and by more than this run's noise explains.",
        [
            Target(of_run("llm_training_loss"), "training", properties=line(MAIN_FAINT, 1)),
            Target(of_run("llm_training_loss_smoothed"), "training, smoothed", properties=line(MAIN, 3)),
            Target(at_evaluations("llm_training_validation_loss"), "validation", properties=line(SECOND, points=True)),
            Target(
                f"{limit:g} * {of_run('llm_training_loss_best')}",
                "alert line of the smoothed loss",
                properties=line(ACT, 1, dash=True),
            ),
        ],
        grid,
    )


def perplexity(id: int, grid: Grid) -> Panel:
    return chart(
        id,
        "Perplexity",
        "Good: a sharp decrease from about 7-12, then levelling off: 3-5 after one epoch, 1.5-3 after three.",
        [
            Target(of_run("llm_training_perplexity"), "training", properties=line(MAIN)),
            Target(
                at_evaluations("llm_training_validation_perplexity"), "validation", properties=line(SECOND, points=True)
            ),
        ],
        grid,
    )


def learning_rate(id: int, grid: Grid) -> Panel:
    return chart(
        id,
        "Learning rate",
        "Good: lies on what the configured schedule expects: warm-up in the first 10% of the steps, then decay.",
        [
            Target(of_run("llm_training_expected_learning_rate"), "schedule", properties=line(REFERENCE, 5)),
            Target(of_run("llm_training_learning_rate"), "actual", properties=line(THIRD)),
        ],
        grid,
        unit="sci",
        decimals=1,
        min=0,
    )


def tokens_per_second(id: int, grid: Grid) -> Panel:
    return chart(
        id,
        "Tokens per second",
        "Good: steady after the first few batches; A100 1500-2000, V100 1000-1500, RTX 3090 700-1200, RTX 2080 Ti "
        "400-800. “In steps” counts step time only, “overall” evaluations and checkpoints too. Bad: a drop that "
        "stays.",
        [
            Target(
                f"sum by (run) (rate(llm_training_tokens_total{RUN}[$__rate_interval]))",
                "overall",
                properties=line(REFERENCE, 1),
            ),
            Target(of_run("llm_training_tokens_per_second"), "in steps", properties=line(MAIN)),
        ],
        grid,
        unit="locale",
        decimals=0,
        min=0,
    )


def gpu_memory(id: int, grid: Grid) -> Panel:
    high = facts.threshold("GpuMemoryHigh", "warning", "llm_gpu_memory_total_bytes")
    full = facts.threshold("GpuMemoryHigh", "critical", "llm_gpu_memory_total_bytes")
    return chart(
        id,
        "GPU memory per device",
        "Share of what each device has. Good: a sharp rise at the start, then stable, with small spikes at "
        f"evaluations. GpuMemoryHigh warns above {high:.0%} and is critical above {full:.0%} (dashed lines).",
        [
            Target(
                "gpu:llm_gpu_memory_used:ratio * on (gpu, uuid) group_left (name) "
                "max by (gpu, uuid, name) (llm_gpu_info)",
                "GPU {{gpu}}, {{name}}",
            )
        ],
        grid,
        no_value="no GPU",
        unit="percentunit",
        decimals=0,
        min=0,
        max=1,
        custom={"thresholdsStyle": {"mode": "dashed"}},
        thresholds=steps((None, "transparent"), (high, LOOK), (full, ACT)),
    )


def gradient_norm(id: int, grid: Grid) -> Panel:
    return chart(
        id,
        "Gradient norm",
        "Of the gradient before clipping. Good: of one size, slowly falling. Bad: spikes, or growth together with "
        "the loss.",
        [Target(of_run("llm_training_gradient_norm"), "gradient norm", properties=line(MAIN))],
        grid,
        min=0,
    )


def step_time(id: int, grid: Grid) -> Panel:
    return chart(
        id,
        "Step time",
        "Mean time of an optimizer step, and the part of it that waits for the data loader. Good: steady, with next "
        "to no waiting. Bad: the waiting grows: a CPU bottleneck in data loading.",
        [
            Target(
                per_step("llm_training_data_wait_seconds_total"),
                "waiting for data",
                properties=line(SECOND, 1, fill=40),
            ),
            Target(per_step("llm_training_step_duration_seconds_sum"), "whole step", properties=line(MAIN, fill=8)),
        ],
        grid,
        unit="s",
        min=0,
    )

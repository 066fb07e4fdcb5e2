"""Charts: the run's figures over time. The guide's expected patterns stand in the descriptions."""

from __future__ import annotations

from generator import facts
from generator.model import Panel, Target
from generator.queries import RUN, at_evaluations, of_run, per_step
from generator.run.limits import limit
from generator.style import ACT, LOOK, MAIN, MAIN_FAINT, REFERENCE, SECOND, THIRD, Grid, band, chart, line, steps


def loss(id: int, grid: Grid) -> Panel:
    limit = 1 + facts.threshold("LossRising", "warning", "llm_training_loss_rise_ratio")
    return chart(
        id,
        "Loss",
        "Good: a rapid decrease in the first 10-20% of the training, then a steady, slower one, then flattening; the "
        "validation loss follows 5-15% above; all in the grey band, which is what the run's profile (by default the "
        "guide) expects after as many epochs. LossRising fires when the smoothed loss has stayed above the dashed "
        f"line ({limit:g} times its best so far) for several points, and by more than this run's noise explains.",
        [
            *_expected("loss"),
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
        runbooks=["LossRising", "LossOutOfBand", "LossNaN", "ValidationDiverging"],
    )


def _expected(metric: str) -> tuple[Target, Target]:
    """The band of what the profile expects of the run where it stands."""
    lower, upper = (
        of_run(f"llm_training_expected_{metric}").replace(RUN, f'{{run="$run",bound="{bound}"}}')
        for bound in ("lower", "upper")
    )
    return band(Target(lower, "expected, from"), Target(upper, "expected"), REFERENCE)


def perplexity(id: int, grid: Grid) -> Panel:
    return chart(
        id,
        "Perplexity",
        "Good: a sharp decrease from about 7-12, then levelling off: 3-5 after one epoch, 1.5-3 after three; inside "
        "the band.",
        [
            *_expected("perplexity"),
            Target(of_run("llm_training_perplexity"), "training", properties=line(MAIN)),
            Target(
                at_evaluations("llm_training_validation_perplexity"), "validation", properties=line(SECOND, points=True)
            ),
        ],
        grid,
        unit="short",
        custom={"scaleDistribution": {"type": "log", "log": 2}},  # a diverged run's perplexity is astronomical
        runbooks=["InitialPerplexity", "HighPerplexity"],
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
        runbooks=["LearningRateOffSchedule"],
    )


def tokens_per_second(id: int, grid: Grid) -> Panel:
    share = facts.factor("ThroughputLow", "warning", "llm_training_expected_tokens_per_second")
    lower = 'max by (run) (llm_training_expected_tokens_per_second{run="$run",bound="lower"})'
    return chart(
        id,
        "Tokens per second",
        "Good: steady after the first few batches, inside the band of what the job's GPUs should give (drawn for "
        "models that the profile knows: A100 1500-2000, V100 1000-1500, RTX 3090 700-1200, RTX 2080 Ti 400-800 each). "
        "“In steps” counts step time only, “overall” evaluations and checkpoints too. Bad: a drop that stays. "
        f"ThroughputLow fires below {share:.0%} of the band.",
        [
            *_expected("tokens_per_second"),
            Target(
                f"sum by (run) (rate(llm_training_tokens_total{RUN}[$__rate_interval]))",
                "overall",
                properties=line(REFERENCE, 1),
            ),
            Target(of_run("llm_training_tokens_per_second"), "in steps", properties=line(MAIN)),
            limit("ThroughputLow", "warning", "below", f"{share:g} * {lower}"),
        ],
        grid,
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
        min=0,
        max=1,
        custom={"thresholdsStyle": {"mode": "dashed"}},
        thresholds=steps((None, "transparent"), (high, LOOK), (full, ACT)),
        runbooks=["GpuMemoryHigh", "GpuMemoryGrowing"],
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
    parts = {
        "waiting for data": ("llm_training_data_wait_seconds_total", SECOND),
        "forward and backward": ("llm_training_forward_backward_seconds_total", MAIN),
        "optimizer": ("llm_training_optimizer_seconds_total", THIRD),
    }
    stacked = {"custom.stacking": {"mode": "normal", "group": "A"}}
    return chart(
        id,
        "Step time and its parts",
        "Mean time of an optimizer step (line), and what it goes into: waiting for the data loader, the forward and "
        "backward passes of all its batches, clipping and optimizer. Above them: moving data, logging, other "
        "callbacks. Good: steady, with next to no waiting. Bad: the waiting grows: a CPU bottleneck in data loading.",
        [
            *(
                Target(per_step(metric), name, properties=line(color, 1, fill=40, **stacked))
                for name, (metric, color) in parts.items()
            ),
            Target(
                per_step("llm_training_step_duration_seconds_sum"), "whole step", properties=line(REFERENCE, fill=0)
            ),
        ],
        grid,
        unit="s",
        min=0,
        runbooks=["ThroughputDrop", "EvaluationOverhead"],
    )

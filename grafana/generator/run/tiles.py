"""Tiles: one figure of the run, large. The guide's numbers stand in the descriptions."""

from __future__ import annotations

from generator import facts
from generator.model import Panel, Target
from generator.queries import NO_ANSWER, of_run, state
from generator.style import (
    ACT,
    GOOD,
    LOOK,
    MAIN,
    NEUTRAL,
    SECOND,
    THIRD,
    Grid,
    above,
    fixed,
    steps,
    tile,
    words,
)
from training_exporter.events import STATES

#: The colour says how the run stands, the text which state it is.
STATE_COLORS = {
    "starting": NEUTRAL,
    "training": "dark-green",
    "evaluating": "dark-green",
    "saving": "dark-green",
    "completed": "dark-blue",
    "failed": "dark-red",
    "interrupted": "dark-orange",
}


def run_state(id: int, grid: Grid) -> Panel:
    texts = {str(number): (name.capitalize(), STATE_COLORS[name]) for number, name in enumerate(STATES, 1)}
    return tile(
        id,
        "State",
        "Green: the run is at work. Blue: it has completed. Orange: somebody interrupted it. Red: it has failed, or "
        "it was at work and no longer answers.",
        [Target(state())],
        grid,
        color=fixed(NEUTRAL),
        color_mode="background_solid",
        graph=False,
        value_size=None,
        mappings=[words({**texts, str(NO_ANSWER): ("No answer", "dark-red")})],
    )


def progress(id: int, grid: Grid) -> Panel:
    left = {"unit": "dthms", "decimals": 0, "mappings": [words({"0": ("–", None)})]}
    return tile(
        id,
        "Progress",
        "Share of the optimizer steps that is done; time left at the pace so far, evaluations and checkpoints "
        "included; epochs done.",
        [
            Target(of_run("llm_training_progress_ratio"), "done", properties={"unit": "percentunit", "decimals": 0}),
            Target(of_run("llm_training_remaining_seconds"), "left", properties=left),
            Target(of_run("llm_training_epoch"), "epoch", properties={"unit": "none", "decimals": 2}),
        ],
        grid,
        graph=False,
        names=True,
        value_size=26,
    )


def loss(id: int, grid: Grid) -> Panel:
    return tile(
        id,
        "Training loss",
        "Good: declines from about 2.0 (1.5-2.5) to about 0.7 (0.5-0.9 after 3 epochs), by 30-40% in the first "
        "epoch. Bad: flat in the first 20% of the training, or rising over many steps.",
        [Target(of_run("llm_training_loss"))],
        grid,
        color=fixed(MAIN),
        decimals=3,
    )


def validation_loss(id: int, grid: Grid) -> Panel:
    return tile(
        id,
        "Validation loss",
        "Of the last evaluation. Good: declines with the training loss and stays 5-15% above it; 0.6-1.0 after 3 "
        "epochs. Bad: rises while the training loss falls.",
        [Target(of_run("llm_training_validation_loss"))],
        grid,
        color=fixed(SECOND),
        no_value="none yet",
        decimals=3,
    )


def perplexity(id: int, grid: Grid) -> Panel:
    return tile(
        id,
        "Perplexity",
        "Exponential of the training loss. Good: from about 7-12 down to 3-5 after one epoch and 1.5-3 after three. "
        "Bad: above 20 at the start, or above 5 after several epochs.",
        [Target(of_run("llm_training_perplexity"))],
        grid,
        color=fixed(MAIN),
        decimals=2,
        mappings=[above(100_000, "> 100k")],
    )


def learning_rate(id: int, grid: Grid) -> Panel:
    return tile(
        id,
        "Learning rate",
        "Good: up to the configured peak (typically 2e-4) in the first 10% of the steps, then down as the schedule "
        "says.",
        [Target(of_run("llm_training_learning_rate"))],
        grid,
        color=fixed(THIRD),
        graph=False,
        unit="sci",
        decimals=2,
    )


def tokens_per_second(id: int, grid: Grid) -> Panel:
    return tile(
        id,
        "Tokens per second",
        "Non-padding tokens per second of step time, over the last 20 steps. Good: steady after the first few batches; "
        "A100 1500-2000, V100 1000-1500, RTX 3090 700-1200, RTX 2080 Ti 400-800.",
        [Target(of_run("llm_training_tokens_per_second"))],
        grid,
        color=fixed(MAIN),
        graph=False,  # it would magnify the noise of a steady speed
        unit="locale",
        decimals=0,
    )


def gpu_memory(id: int, grid: Grid) -> Panel:
    high = facts.threshold("GpuMemoryHigh", "warning", "llm_gpu_memory_total_bytes")
    full = facts.threshold("GpuMemoryHigh", "critical", "llm_gpu_memory_total_bytes")
    return tile(
        id,
        "GPU memory",
        f"Of the fullest device. Good: stable, below {high:.0%}. Above {full:.0%} an out-of-memory error is near.",
        [Target("max(gpu:llm_gpu_memory_used:ratio)")],
        grid,
        color={"mode": "thresholds"},
        graph=False,
        no_value="no GPU",
        unit="percentunit",
        decimals=1,
        min=0,
        max=1,
        thresholds=steps((None, GOOD), (high, LOOK), (full, ACT)),
    )

"""Where its panels are: the run at a glance on one screen of 1920x1080, below it what happened and what alerts look at.

Panel ids are parts of links (`viewPanel`): they stay when a panel moves.
"""

from __future__ import annotations

from collections.abc import Callable

from generator import family
from generator.model import Dashboard, Panel, Row
from generator.run import charts, events, learning_signals, pace_signals, process, tables, tiles, validation_signals
from generator.style import Grid

#: What the alerts look at, three to a line, by panel id.
LEARNING: dict[int, Callable[[int, Grid], Panel]] = {
    30: learning_signals.loss_limits,
    31: learning_signals.rise,
    32: learning_signals.rise_in_noise,
    33: learning_signals.learnt,
    34: learning_signals.perplexity_limits,
    35: learning_signals.spike,
    36: learning_signals.fluctuation,
    37: learning_signals.fluctuation_share,
    38: learning_signals.learning_rate_deviation,
    39: validation_signals.divergence,
    40: validation_signals.gap,
    41: validation_signals.validation_fluctuation,
}
PACE: dict[int, Callable[[int, Grid], Panel]] = {
    50: pace_signals.speed,
    51: pace_signals.slowness,
    52: pace_signals.stall,
    53: pace_signals.overhead,
    54: pace_signals.unsaved,
    55: learning_signals.nonfinite,
    56: pace_signals.out_of_memory,
    57: pace_signals.own_work,
    58: pace_signals.straggling,
}
WIDTH, HEIGHT = 8, 7


def _in_lines(panels: dict[int, Callable[[int, Grid], Panel]], top: int) -> list[Panel]:
    columns = 24 // WIDTH
    return [
        make(id, (i % columns * WIDTH, top + i // columns * HEIGHT, WIDTH, HEIGHT))
        for i, (id, make) in enumerate(panels.items())
    ]


def dashboard() -> Dashboard:
    """Alerts link to /d/llm-training?var-run=<run>."""
    return Dashboard(
        family.RUN_DETAIL,
        "Training run",
        "Everything about one fine-tuning: state, losses, learning rate, speed, GPU memory, alerts and what they look "
        "at.",
        [
            tiles.run_state(1, (0, 0, 3, 4)),
            tiles.progress(2, (3, 0, 3, 4)),
            tiles.loss(3, (6, 0, 3, 4)),
            tiles.validation_loss(4, (9, 0, 3, 4)),
            tiles.perplexity(5, (12, 0, 3, 4)),
            tiles.learning_rate(6, (15, 0, 3, 4)),
            tiles.tokens_per_second(7, (18, 0, 3, 4)),
            tiles.gpu_memory(8, (21, 0, 3, 4)),
            tables.firing_alerts(9, (0, 4, 18, 4)),
            tables.run_settings(10, (18, 4, 6, 11)),
            charts.loss(11, (0, 8, 18, 7)),
            charts.perplexity(12, (0, 15, 8, 6)),
            charts.learning_rate(13, (8, 15, 8, 6)),
            charts.tokens_per_second(14, (16, 15, 8, 6)),
            charts.step_time(17, (0, 21, 8, 6)),
            charts.gradient_norm(16, (8, 21, 8, 6)),
            charts.gpu_memory(15, (16, 21, 8, 6)),
            Row(20, "What happened", 27),
            events.states(21, (0, 28, 12, 5)),
            events.alerts(22, (12, 28, 12, 5)),
            Row(29, "What the alerts about learning look at (dashed: where they fire)", 33),
            *_in_lines(LEARNING, 34),
            Row(49, "What the alerts about pace, saving and errors look at", 62),
            *_in_lines(PACE, 63),
            Row(60, "Its processes on the host (below training-exporter run)", 84),
            process.host_memory(61, (0, 85, 12, 7)),
            process.processors(62, (12, 85, 12, 7)),
        ],
        [family.DATA_SOURCE, family.ONE_RUN, family.STARTED, family.runbooks()],
        [family.whole_run(family.RUN_DETAIL), family.RELATED],
        [family.TAG],
        annotations=events.annotations(),
    )

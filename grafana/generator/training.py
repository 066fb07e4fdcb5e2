"""The dashboard "Training": one run at a glance, on one screen of 1920x1080."""

from __future__ import annotations

from generator import charts, family, tables, tiles
from generator.model import Dashboard


def dashboard() -> Dashboard:
    """Alerts link to /d/llm-training?var-run=<run>."""
    return Dashboard(
        family.RUN_DETAIL,
        "Training",
        "One fine-tuning at a glance: state, losses, learning rate, speed, GPU memory, firing alerts.",
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
            charts.gpu_memory(15, (0, 21, 8, 5)),
            charts.gradient_norm(16, (8, 21, 8, 5)),
            charts.step_time(17, (16, 21, 8, 5)),
        ],
        [family.DATA_SOURCE, family.ONE_RUN, family.STARTED, family.runbooks()],
        [family.whole_run(family.RUN_DETAIL), family.RELATED],
        [family.TAG],
    )

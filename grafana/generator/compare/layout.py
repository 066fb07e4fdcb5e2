"""Where its panels are."""

from __future__ import annotations

from generator import family
from generator.compare import curves, tables
from generator.model import Dashboard


def dashboard() -> Dashboard:
    return Dashboard(
        family.COMPARE,
        "Compare runs",
        "Several runs side by side: settings, results, and curves over steps. Yesterday's run beside today's.",
        [
            tables.results(1, (0, 0, 24, 7)),
            curves.loss(10, (0, 7, 12, 8)),
            curves.validation_loss(11, (12, 7, 12, 8)),
            curves.on_the_way(16, (0, 15, 24, 6)),
            tables.settings(2, (0, 21, 24, 6)),
            curves.loss_by_hours(12, (0, 27, 8, 8)),
            curves.learning_rate(13, (8, 27, 8, 8)),
            curves.tokens_per_second(14, (16, 27, 8, 8)),
            tables.when(15, (0, 35, 24, 7)),
        ],
        [family.DATA_SOURCE, family.runs("Runs", all_means="All"), family.KEPT_RUN, family.runbooks()],
        [family.RELATED],
        [family.TAG],
        time_from="now-2d",
        refresh="1m",
    )

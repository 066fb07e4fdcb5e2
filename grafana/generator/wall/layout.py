"""What stands where: 26 rows of 38 pixels, which fill a screen of 1920x1080 in kiosk mode without scrolling."""

from __future__ import annotations

from generator import family
from generator.model import Dashboard
from generator.wall import charts, tiles, verdict


def dashboard() -> Dashboard:
    """No rows: a dashboard with rows cannot be fitted to a screen by `autofitpanels`."""
    return Dashboard(
        family.WALL,
        "Training wall",
        "For a screen on the wall: from four metres it says “All well”, or what is wrong.",
        [
            verdict.verdict(1, (0, 0, 14, 7)),
            verdict.sentences(2, (14, 0, 10, 7)),
            tiles.run_state(3, (0, 7, 6, 4)),
            tiles.progress(4, (6, 7, 7, 4)),
            tiles.time_left(5, (13, 7, 6, 4)),
            tiles.steps(6, (19, 7, 5, 4)),
            tiles.loss(7, (0, 11, 4, 5)),
            tiles.validation_loss(8, (4, 11, 4, 5)),
            tiles.perplexity(9, (8, 11, 4, 5)),
            tiles.learning_rate(10, (12, 11, 4, 5)),
            tiles.tokens_per_second(11, (16, 11, 4, 5)),
            tiles.gpu_memory(12, (20, 11, 4, 5)),
            charts.loss(13, (0, 16, 11, 10)),
            charts.learning_rate(14, (11, 16, 6, 5)),
            charts.tokens_per_second(15, (11, 21, 6, 5)),
            charts.gpu_memory(16, (17, 16, 7, 10)),
        ],
        [family.DATA_SOURCE, family.runs("Run", all_means="the newest"), family.runbooks()],
        [family.RELATED],
        [family.TAG],
        refresh="10s",
    )

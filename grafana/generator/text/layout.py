"""Where its panels are."""

from __future__ import annotations

from generator import family
from generator.model import Dashboard, Note
from generator.text import guide, samples, scores


def dashboard() -> Dashboard:
    return Dashboard(
        family.TEXT_QUALITY,
        "Text quality",
        "What the model writes at 20%, 50% and the end of its training, and how that compares with what is expected.",
        [
            scores.stage(1, (0, 0, 8, 3)),
            scores.too_low(2, (8, 0, 5, 3)),
            scores.weakest(3, (13, 0, 6, 3)),
            scores.mean(4, (19, 0, 5, 3)),
            scores.table(5, (0, 3, 18, 11)),
            Note(6, "What the guide expects", guide.expectations(), (18, 3, 6, 11)),
            samples.texts(7, (0, 14, 24, 12)),
            scores.over_time(8, (0, 26, 12, 7)),
            scores.shortfall(9, (12, 26, 12, 7)),
        ],
        [family.DATA_SOURCE, family.ONE_RUN, family.STARTED, family.runbooks()],
        [family.whole_run(family.TEXT_QUALITY), family.RELATED],
        [family.TAG],
        time_from="now-1d",
        refresh="30s",
    )

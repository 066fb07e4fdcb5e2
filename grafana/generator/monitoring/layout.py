"""Where its panels are."""

from __future__ import annotations

from generator import family
from generator.model import Dashboard
from generator.monitoring import messages, scrapes, tiles


def dashboard() -> Dashboard:
    return Dashboard(
        family.MONITORING,
        "Monitoring health",
        "Whether the monitoring itself works: scrapes, rules, notifications, exporters.",
        [
            *tiles.tiles(),
            scrapes.targets(9, (0, 3, 16, 7)),
            scrapes.discovered(10, (16, 3, 8, 7)),
            scrapes.scrape_duration(11, (0, 10, 8, 5)),
            scrapes.samples(12, (8, 10, 8, 5)),
            scrapes.rejected(13, (16, 10, 8, 5)),
            messages.rule_duration(14, (0, 15, 8, 6)),
            messages.rule_failures(15, (8, 15, 8, 6)),
            messages.messages(16, (16, 15, 8, 6)),
            scrapes.parts(17, (0, 21, 8, 5)),
            scrapes.exporters(18, (8, 21, 8, 5)),
            scrapes.storage(19, (16, 21, 8, 5)),
        ],
        [family.DATA_SOURCE, family.KEPT_RUN, family.runbooks()],
        [family.RELATED],
        [family.TAG],
    )

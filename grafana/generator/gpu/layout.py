"""Where its panels are."""

from __future__ import annotations

from generator import family
from generator.gpu import charts, common, tables
from generator.model import Dashboard


def dashboard() -> Dashboard:
    return Dashboard(
        family.GPU,
        "GPU",
        "Every GPU that is scraped: memory, utilization, power, temperature, clocks, and the processes that use it.",
        [
            tables.devices(1, (0, 0, 24, 6)),
            charts.memory(2, (0, 6, 12, 8)),
            tables.processes(3, (12, 6, 12, 8)),
            charts.utilization(4, (0, 14, 8, 6)),
            charts.power(5, (8, 14, 8, 6)),
            charts.temperature(6, (16, 14, 8, 6)),
            charts.throttling(7, (0, 20, 8, 6)),
            charts.forecast(8, (8, 20, 8, 6)),
            charts.process_memory(9, (16, 20, 8, 6)),
        ],
        [family.DATA_SOURCE, common.variable(), family.KEPT_RUN, family.runbooks()],
        [family.RELATED],
        [family.TAG],
    )

"""What one scrape collects: each source behind a boundary of its own, timed, and said to have worked or not."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.core import GaugeMetricFamily

log = logging.getLogger(__name__)

#: A source of families: called at every scrape, may raise.
Collect = Callable[[], Iterable[Metric]]

SUCCESS = "training_exporter_collector_success"
DURATION = "training_exporter_collector_duration_seconds"


class GuardedCollectors:
    """A prometheus_client collector made of several; an error in one costs that one only."""

    def __init__(self, sources: Sequence[tuple[str, Collect]]) -> None:
        self._sources = list(sources)
        self._failing: set[str] = set()

    def describe(self) -> Iterable[Metric]:
        """Nothing, so that registering does not collect."""
        return []

    def collect(self) -> Iterator[Metric]:
        success = GaugeMetricFamily(SUCCESS, "1 if the collector worked at this scrape, else 0.", labels=["collector"])
        duration = GaugeMetricFamily(DURATION, "Time that the collector took at this scrape.", labels=["collector"])
        for name, source in self._sources:
            began = time.perf_counter()
            try:
                # All or nothing: half a collector would be read as values that have gone.
                metrics = list(source())
            except Exception:
                success.add_metric([name], 0)
                if name not in self._failing:
                    self._failing.add(name)
                    log.exception("collector %r failed; its metrics are missing until it works again", name)
            else:
                self._failing.discard(name)
                success.add_metric([name], 1)
                yield from metrics
            duration.add_metric([name], time.perf_counter() - began)
        yield success
        yield duration


def registry_of(sources: Sequence[tuple[str, Collect]]) -> CollectorRegistry:
    """A registry of its own for these sources; the process-wide one is never touched."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(GuardedCollectors(sources))
    return registry

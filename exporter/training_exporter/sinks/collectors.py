"""What one scrape collects: each source behind a boundary of its own, timed, and said to have worked or not."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Metric

from training_exporter.errors import SourceUnavailable
from training_exporter.families import Family, collect

log = logging.getLogger(__name__)

#: A source of families: called at every scrape, may raise.
Collect = Callable[[], Iterable[Metric]]


@dataclass
class _Outcome:
    """How the collectors of one scrape fared: success (0 or 1) and seconds, by collector."""

    success: dict[tuple[str, ...], float] = field(default_factory=dict)
    duration: dict[tuple[str, ...], float] = field(default_factory=dict)


COLLECTOR_FAMILIES: tuple[Family[_Outcome], ...] = (
    Family(
        "training_exporter_collector_success",
        "gauge",
        "1 if the collector worked at this scrape, else 0.",
        lambda outcome: outcome.success,
        ("collector",),
    ),
    Family(
        "training_exporter_collector_duration_seconds",
        "gauge",
        "Time that the collector took at this scrape.",
        lambda outcome: outcome.duration,
        ("collector",),
    ),
)


class GuardedCollectors:
    """A prometheus_client collector made of several; an error in one costs that one only."""

    def __init__(self, sources: Sequence[tuple[str, Collect]]) -> None:
        self._sources = list(sources)
        self._failing: set[str] = set()

    def describe(self) -> Iterable[Metric]:
        """Nothing, so that registering does not collect."""
        return []

    def collect(self) -> Iterator[Metric]:
        outcome = _Outcome()
        for name, source in self._sources:
            began = time.perf_counter()
            try:
                # All or nothing: half a collector would be read as values that have gone.
                metrics = list(source())
            except Exception as error:
                outcome.success[(name,)] = 0.0
                if name not in self._failing:
                    self._failing.add(name)
                    log.error(
                        "collector %r failed; its metrics are missing until it works again: %s",
                        name,
                        error,
                        exc_info=not isinstance(error, SourceUnavailable),
                    )
            else:
                self._failing.discard(name)
                outcome.success[(name,)] = 1.0
                yield from metrics
            outcome.duration[(name,)] = time.perf_counter() - began
        yield from collect(COLLECTOR_FAMILIES, outcome, {})


def registry_of(sources: Sequence[tuple[str, Collect]]) -> CollectorRegistry:
    """A registry of its own for these sources; the process-wide one is never touched."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(GuardedCollectors(sources))
    return registry

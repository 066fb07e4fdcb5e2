"""A metrics page that is served, announced to Prometheus, and kept until its last state was scraped."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from training_exporter.sinks.collectors import Collect, registry_of
from training_exporter.sinks.server import MetricsApp, MetricsServer
from training_exporter.targets import TargetRegistration

log = logging.getLogger(__name__)


class Endpoint:
    """Serves `sources` from its creation on; `title` is asked at each landing page.

    `port` None takes `preferred_port` or the next one that is free, a number demands that port (PortTaken when it is
    not to be had), 0 takes any.
    """

    def __init__(
        self,
        sources: Sequence[tuple[str, Collect]],
        title: Callable[[], str],
        *,
        host: str,
        port: int | None,
        preferred_port: int,
    ) -> None:
        self.app = MetricsApp(registry_of(sources), title)
        self.server = MetricsServer(self.app, host=host, port=port, preferred_port=preferred_port)
        self._registration: TargetRegistration | None = None

    @property
    def url(self) -> str:
        """Where the metrics are, as seen from this machine."""
        return self.server.url

    def announce(self, name: str, directory: Path) -> None:
        """Tell Prometheus the address, under `name`; an earlier name is taken back. Raises OSError."""
        before = self._registration
        self._registration = TargetRegistration(directory, name, self.server.host, self.server.port)
        self._registration.open()
        if before is not None and before.path != self._registration.path:
            before.close()

    def linger(self, what: str, seconds: float) -> None:
        """Wait until the page was scraped twice, but no longer than the scrapes so far let expect, and at most
        `seconds`; not at all when nobody scrapes. `what` is waiting, for the log."""
        patience = min(self.app.patience(), seconds)
        if patience > 0:
            log.info("waiting for Prometheus to take the final state of %s (%.0f s at most)", what, patience)
            # Twice, because the first scrape may have begun before the end was known.
            self.app.wait_for_scrapes(2, patience)

    def close(self) -> None:
        """Take the address back and stop serving."""
        if self._registration is not None:
            self._registration.close()
        self.server.stop()

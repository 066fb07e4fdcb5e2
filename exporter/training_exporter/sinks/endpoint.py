"""A metrics page that is served, announced to Prometheus, and kept until its last state was scraped."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

from training_exporter.sinks.collectors import Collect, registry_of
from training_exporter.sinks.server import MetricsApp, MetricsServer
from training_exporter.targets import TargetRegistration, targets_dir
from training_exporter.web.options import ServeOptions

log = logging.getLogger(__name__)


class Endpoint:
    """Serves `sources` from its creation on; `title` is asked at each landing page.

    Without a port in `options` it takes `preferred_port` or the next one that is free. Raises PortTaken and
    WebConfigError.
    """

    def __init__(
        self,
        sources: Sequence[tuple[str, Collect]],
        title: Callable[[], str],
        options: ServeOptions,
        preferred_port: int,
    ) -> None:
        self._targets_dir = targets_dir(options.targets_dir)
        self.app = MetricsApp(registry_of(sources), title)
        self.server = MetricsServer(self.app, options, preferred_port)
        self._registration: TargetRegistration | None = None
        self._since = time.monotonic()

    @property
    def url(self) -> str:
        """Where the metrics are, as seen from this machine."""
        return self.server.url

    def announce(self, name: str) -> None:
        """Tell Prometheus the address, under `name`, where a directory for that is known; an earlier name is taken
        back. Raises OSError."""
        if self._targets_dir is None:
            return
        before, server = self._registration, self.server
        self._registration = TargetRegistration(self._targets_dir, name, server.host, server.port, server.scheme)
        self._registration.open()
        if before is not None and before.path != self._registration.path:
            before.close()

    def linger(self, what: str, seconds: float, *, first: bool = False) -> None:
        """Wait until the page was scraped twice, but no longer than the scrapes so far let expect, and at most
        `seconds`; not at all when nobody scrapes. `what` is waiting, for the log.

        `first`: a page that was announced only just now, and not scraped yet, may be until it is `seconds` old.
        """
        patience = min(self.app.patience(), seconds)
        if first and self._registration is not None and not self.app.scraped:
            patience = seconds - (time.monotonic() - self._since)
        if patience > 0:
            log.info("waiting for Prometheus to take the final state of %s (%.0f s at most)", what, patience)
            # Twice, because the first scrape may have begun before the end was known.
            self.app.wait_for_scrapes(2, patience)

    def close(self) -> None:
        """Take the address back and stop serving."""
        if self._registration is not None:
            self._registration.close()
        self.server.stop()

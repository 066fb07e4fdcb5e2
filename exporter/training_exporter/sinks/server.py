"""`/metrics` over HTTP: the pages, and the server with its address and who may ask it."""

from __future__ import annotations

import errno
import html
import ipaddress
import logging
import math
import threading
import time
from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.exposition import choose_encoder

from training_exporter.web.access import Access
from training_exporter.web.messages import Request, Response, text
from training_exporter.web.options import ServeOptions
from training_exporter.web.server import HttpServer

log = logging.getLogger(__name__)

#: How many ports after the preferred one are tried when it is taken.
PORT_ATTEMPTS = 50


class PortTaken(OSError):
    """The address cannot be listened on; the message says which, why, and what to do."""


class MetricsApp:
    """`/`, `/metrics`, `/-/healthy`, `/-/ready`; 404 otherwise. `title` is asked at each landing page."""

    def __init__(self, registry: CollectorRegistry, title: Callable[[], str]) -> None:
        self._registry = registry
        self._title = title
        self._scrapes = 0
        self._last_scrape: float | None = None
        self._interval: float | None = None
        self._scraped = threading.Condition()

    def __call__(self, request: Request) -> Response:
        if request.path not in {"/", "/metrics", "/-/healthy", "/-/ready"}:
            return text(404, "Not found. The metrics are at /metrics.\n")
        if request.method not in {"GET", "HEAD"}:
            return text(405, "Allowed: GET, HEAD.\n", ("Allow", "GET, HEAD"))
        if request.path == "/metrics":
            return self._metrics(request)
        if request.path == "/":
            title = html.escape(self._title())
            page = (
                f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
                f'<h1>{title}</h1><p><a href="/metrics">Metrics</a></p></html>\n'
            )
            return Response(200, page.encode(), "text/html; charset=utf-8")
        return text(200, "OK\n")

    def _metrics(self, request: Request) -> Response:
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        names = frozenset(request.arguments("name[]"))
        # Never compressed: that would cost the training's interpreter more than it saves on a page of a few kB.
        body = encode(_Named(self._registry, names) if names else self._registry)
        if request.method == "GET":
            with self._scraped:
                now = time.monotonic()
                self._interval = None if self._last_scrape is None else now - self._last_scrape
                self._scrapes += 1
                self._last_scrape = now
                self._scraped.notify_all()
        return Response(200, body, content_type)

    @property
    def scraped(self) -> bool:
        return self._last_scrape is not None

    def patience(self) -> float:
        """Seconds after which, by the scrapes so far, two more should have come; 0 when nobody is listening any more.

        Infinite when there was only one scrape, from which no interval can be told.
        """
        if self._last_scrape is None:
            return 0.0
        if self._interval is None:
            return math.inf
        patience = 3 * self._interval + 2.0
        return patience if time.monotonic() - self._last_scrape < patience else 0.0

    def wait_for_scrapes(self, count: int, timeout: float) -> bool:
        """Block until `count` further scrapes were answered, or for `timeout` seconds. True when they were."""
        with self._scraped:
            target = self._scrapes + count
            return self._scraped.wait_for(lambda: self._scrapes >= target, timeout)


class _Named:
    """The families and series that `name[]=` asks for. prometheus_client's own filter knows no collectors like ours,
    whose families are made at the scrape."""

    def __init__(self, registry: CollectorRegistry, names: frozenset[str]) -> None:
        self._registry, self._names = registry, names

    def collect(self) -> Iterable[Metric]:
        for metric in self._registry.collect():
            if metric.name not in self._names:
                metric.samples = [sample for sample in metric.samples if sample.name in self._names]
            if metric.samples:
                yield metric


class MetricsServer:
    """Serves an app as `options` say, on a daemon thread.

    Without a port in `options` it takes `preferred_port`, or the next that is free (`log` says which). A port that is
    given is demanded: PortTaken when it cannot be had. Raises WebConfigError too.
    """

    def __init__(self, app: MetricsApp, options: ServeOptions, preferred_port: int) -> None:
        self.app, self.host = app, options.host
        access = Access(options.web_config_path)
        self.scheme = "https" if access.config.tls is not None else "http"
        port = options.port
        candidates = range(preferred_port, min(preferred_port + PORT_ATTEMPTS, 65536)) if port is None else (port,)
        for candidate in candidates:
            try:
                self._server = HttpServer(app, host=options.host, port=candidate, access=access)
                break
            except OSError as error:
                if error.errno not in {errno.EADDRINUSE, errno.EACCES} or port is not None:
                    raise PortTaken(error.errno, _explain(options.host, candidate, error)) from None
        else:
            raise PortTaken(
                errno.EADDRINUSE,
                f"no free port from {candidates[0]} to {candidates[-1]} on {options.host}; name a free one",
            )
        self.port = self._server.port
        if port is None and self.port != preferred_port:
            log.warning("port %d is taken; metrics are at %s instead", preferred_port, self.url)
        if not is_loopback(options.host) and not access.config.asks_who:
            log.warning(
                "metrics are served to the network on %s:%d, to everybody who reaches it; a web configuration file "
                "with passwords, a token or client certificates changes that (docs/security.md)",
                options.host,
                self.port,
            )

    @property
    def url(self) -> str:
        """Where the metrics are, as seen from this machine."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)
        return f"{self.scheme}://{f'[{host}]' if ':' in host else host}:{self.port}/metrics"

    def stop(self) -> None:
        self._server.stop()


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches `host`. A name that is none of its own counts as the network."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _explain(host: str, port: int, error: OSError) -> str:
    reason = {
        errno.EADDRINUSE: "the port is taken by another process; name another one, or none to get one that is free",
        errno.EACCES: "this user may not use that port; ports from 1024 on are free to all",
        errno.EADDRNOTAVAIL: "this machine has no such address",
    }.get(error.errno or 0, error.strerror or str(error))
    return f"cannot serve metrics on {host}:{port}: {reason}"

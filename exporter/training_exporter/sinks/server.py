"""`/metrics` over HTTP: a small WSGI app with real routes, on threads that end with the process."""

from __future__ import annotations

import errno
import html
import logging
import math
import queue
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

import cheroot.errors
import cheroot.wsgi
from prometheus_client import CollectorRegistry, make_wsgi_app

log = logging.getLogger(__name__)

#: How many ports after the preferred one are tried when it is taken.
PORT_ATTEMPTS = 50

StartResponse = Callable[..., Any]


class PortTaken(OSError):
    """The address cannot be listened on; the message says which, why, and what to do."""


class MetricsApp:
    """`/`, `/metrics`, `/-/healthy`, `/-/ready`; 404 otherwise. `title` is asked at each landing page."""

    def __init__(self, registry: CollectorRegistry, title: Callable[[], str]) -> None:
        # Compression would cost the training's interpreter more than it saves on a page of a few kB.
        self._metrics = make_wsgi_app(registry, disable_compression=True)
        self._title = title
        self._scrapes = 0
        self._last_scrape: float | None = None
        self._interval: float | None = None
        self._scraped = threading.Condition()

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        path, method = environ.get("PATH_INFO", "/"), environ.get("REQUEST_METHOD", "GET")
        if path not in {"/", "/metrics", "/-/healthy", "/-/ready"}:
            return _answer(start_response, "404 Not Found", "Not found. The metrics are at /metrics.\n")
        if method not in {"GET", "HEAD"}:
            return _answer(start_response, "405 Method Not Allowed", "Allowed: GET, HEAD.\n", ("Allow", "GET, HEAD"))
        if path == "/metrics":
            body: Iterable[bytes] = self._metrics(environ, start_response)
            if method == "GET":
                with self._scraped:
                    now = time.monotonic()
                    self._interval = None if self._last_scrape is None else now - self._last_scrape
                    self._scrapes += 1
                    self._last_scrape = now
                    self._scraped.notify_all()
            return body
        if path == "/":
            title = html.escape(self._title())
            page = (
                f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
                f'<h1>{title}</h1><p><a href="/metrics">Metrics</a></p></html>\n'
            )
            return _answer(start_response, "200 OK", page, ("Content-Type", "text/html; charset=utf-8"))
        return _answer(start_response, "200 OK", "OK\n")

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


def _answer(start_response: StartResponse, status: str, body: str, *headers: tuple[str, str]) -> list[bytes]:
    data = body.encode()
    named = {name for name, _ in headers}
    content_type = [] if "Content-Type" in named else [("Content-Type", "text/plain; charset=utf-8")]
    start_response(status, [*headers, *content_type, ("Content-Length", str(len(data)))])
    return [data]


class MetricsServer:
    """Serves an app on `host`, from daemon threads.

    `port` None means: the preferred one, or the next that is free (`log` says which). A port that is given is
    demanded: PortTaken when it cannot be had. 0 takes any free port.
    """

    def __init__(self, app: MetricsApp, *, host: str, port: int | None, preferred_port: int) -> None:
        self.app = app
        self.host = host
        candidates = range(preferred_port, min(preferred_port + PORT_ATTEMPTS, 65536)) if port is None else (port,)
        for candidate in candidates:
            try:
                self._server, self.port = self._listen(candidate)
                break
            except OSError as error:
                if error.errno not in {errno.EADDRINUSE, errno.EACCES} or port is not None:
                    raise PortTaken(error.errno, _explain(host, candidate, error)) from None
        else:
            raise PortTaken(
                errno.EADDRINUSE,
                f"no free port from {candidates[0]} to {candidates[-1]} on {host}; name a free one",
            )
        if port is None and self.port != preferred_port:
            log.warning("port %d is taken; metrics are at %s instead", preferred_port, self.url)

    @property
    def url(self) -> str:
        """Where the metrics are, as seen from this machine."""
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(self.host, self.host)
        return f"http://{host}:{self.port}/metrics"

    def stop(self) -> None:
        self._server.stop()

    def _listen(self, port: int) -> tuple[Any, int]:
        server = _Server(
            (self.host, port), self.app, numthreads=2, max=4, timeout=10, shutdown_timeout=1, request_queue_size=64
        )
        # A peer that floods or dribbles must not grow the training process.
        server.max_request_header_size = 32 * 1024
        server.max_request_body_size = 64 * 1024
        setattr(server, "error_log", _log_http_error)  # noqa: B010  (cheroot documents it as a method to replace)
        outcome: queue.SimpleQueue[OSError | None] = queue.SimpleQueue()

        def serve() -> None:
            # Prepared on a daemon thread because cheroot's workers inherit that: they must not keep the process alive.
            try:
                server.prepare()
            except OSError as error:
                outcome.put(server.bind_error or error)
                return
            outcome.put(None)
            server.serve()

        threading.Thread(target=serve, name="metrics-http", daemon=True).start()
        error = outcome.get()
        if error is not None:
            raise error
        return server, int(server.bind_addr[1])


class _Server(cheroot.wsgi.Server):
    """Keeps why the address could not be had: cheroot replaces it by an error without a number."""

    bind_error: OSError | None = None

    def bind(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().bind(*args, **kwargs)
        except OSError as error:
            self.bind_error = error
            raise


def _log_http_error(msg: str = "", level: int = 20, traceback: bool = False) -> None:
    """What a peer did wrong is no news on the training's console."""
    log.debug("http: %s", msg, exc_info=traceback)


def _explain(host: str, port: int, error: OSError) -> str:
    reason = {
        errno.EADDRINUSE: "the port is taken by another process; name another one, or none to get one that is free",
        errno.EACCES: "this user may not use that port; ports from 1024 on are free to all",
        errno.EADDRNOTAVAIL: "this machine has no such address",
    }.get(error.errno or 0, error.strerror or str(error))
    return f"cannot serve metrics on {host}:{port}: {reason}"

"""An HTTP server on one daemon thread, for a process that has better things to do.

Tornado's event loop: a connection that says nothing, dribbles, or never ends its TLS handshake costs a socket and a few
kB, never a thread, and keeps no other from being answered. All is bounded: connections, headers, bodies, time.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from tornado import httputil, iostream
from tornado.httpserver import HTTPServer

from training_exporter.web.access import Access, Verdict, certificate_of

log = logging.getLogger(__name__)

#: Connections held at a time. One more closes that which was served longest ago.
MAX_CONNECTIONS = 100
#: Seconds for a TLS handshake and a request's headers, counted from the connection or the answer before.
HEADER_SECONDS = 30.0
BODY_SECONDS = 10.0
#: Seconds that an answer on its way has when the server is stopped.
STOP_SECONDS = 1.0
MAX_HEADER_BYTES = 32 * 1024
BACKLOG = 128
THREAD_NAME = "training-exporter-http"
#: What tells nothing of the run, for probes that have no password. TLS, where it is on, holds here too.
PROBES = frozenset({"/-/healthy", "/-/ready"})


@dataclass(frozen=True)
class Response:
    """An answer. For a HEAD the body is made all the same, and only its length is sent."""

    status: int
    body: bytes
    content_type: str = "text/plain; charset=utf-8"
    headers: tuple[tuple[str, str], ...] = ()


def text(status: int, body: str, *headers: tuple[str, str]) -> Response:
    return Response(status, body.encode(), headers=headers)


Handler = Callable[[httputil.HTTPServerRequest], Response]


class HttpServer:
    """Serves `handler` on `host:port` until `stop`. Raises OSError where the address cannot be had.

    `handler` runs on the server's thread; while it runs, others wait. An error in it is a 500, and logged once.
    """

    def __init__(
        self, handler: Handler, *, host: str, port: int, access: Access, max_body_bytes: int = 64 * 1024
    ) -> None:
        self._handler, self._access = handler, access
        self._socket = _listen(host, port)
        self.port = int(self._socket.getsockname()[1])
        self._failed = False
        self._ready = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Event | None = None
        self._max_body_bytes = max_body_bytes
        _quieten_tornado()
        self._thread = threading.Thread(target=self._run, name=THREAD_NAME, daemon=True)
        self._thread.start()
        self._ready.wait()

    def stop(self) -> None:
        """Stop listening, give answers on their way a second, and close what is open. Safe to call more than once."""
        if self._loop is not None and self._stopping is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(2 * STOP_SECONDS)
        self._access.close()

    def _run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
        # What a peer did wrong is no news on the training's console.
        self._loop.set_exception_handler(lambda _, context: log.debug("http: %s", context.get("message")))
        server = _Server(self._answer, self._access, self._max_body_bytes)
        server.add_socket(self._socket)
        self._ready.set()
        await self._stopping.wait()
        await server.end()

    def _answer(self, request: httputil.HTTPServerRequest) -> None:
        asyncio.ensure_future(self._respond(request))  # noqa: RUF006  (the connection's own future holds it)

    async def _respond(self, request: httputil.HTTPServerRequest) -> None:
        response = await self._checked(request)
        connection = request.connection
        assert connection is not None
        headers = httputil.HTTPHeaders({"Content-Type": response.content_type})
        headers["Content-Length"] = str(len(response.body))
        for name, value in response.headers:
            headers.add(name, value)
        line = httputil.ResponseStartLine("HTTP/1.1", response.status, HTTPStatus(response.status).phrase)
        with contextlib.suppress(iostream.StreamClosedError):  # the peer has gone
            connection.write_headers(line, headers, b"" if request.method == "HEAD" else response.body)
            connection.finish()

    async def _checked(self, request: httputil.HTTPServerRequest) -> Response:
        try:
            if request.path not in PROBES:
                stream = getattr(request.connection, "stream", None)
                verdict = await self._access.verdict(
                    request.headers.get("Authorization"), certificate_of(getattr(stream, "socket", None))
                )
                if verdict is not Verdict.ALLOWED:
                    return self._refusal(verdict)
            return self._handler(request)
        except Exception:
            log.log(logging.DEBUG if self._failed else logging.ERROR, "no answer to a request", exc_info=True)
            self._failed = True
            return text(500, "An error of the exporter; its log has it.\n")

    def _refusal(self, verdict: Verdict) -> Response:
        if verdict is Verdict.BUSY:
            return text(503, "Too many passwords to check.\n", ("Retry-After", "1"))
        if verdict is Verdict.FORBIDDEN:
            return text(403, "This certificate's owner may not.\n")
        config = self._access.config
        ways = [*(["Basic realm=metrics"] if config.users else []), *(["Bearer"] if config.bearer_token else [])]
        return text(401, "Unauthorized\n", *(("WWW-Authenticate", way) for way in ways))


class _Server(HTTPServer):
    """Tornado's server, with a bound on connections and a TLS context that follows its files."""

    def initialize(self, callback: Callable[[httputil.HTTPServerRequest], None], access: Access, max_body: int) -> None:  # type: ignore[override]
        self._access = access
        # The one that was served longest ago first.
        self._streams: dict[iostream.IOStream, None] = {}
        super().initialize(
            callback,
            idle_connection_timeout=HEADER_SECONDS,
            body_timeout=BODY_SECONDS,
            max_header_size=MAX_HEADER_BYTES,
            max_body_size=max_body,
            max_buffer_size=MAX_HEADER_BYTES + max_body,
            chunk_size=16 * 1024,
        )

    @property
    def ssl_options(self) -> dict[str, Any] | ssl.SSLContext | None:
        """Read by Tornado at each new connection."""
        return self._access.config.tls

    @ssl_options.setter
    def ssl_options(self, _: Any) -> None:
        """Set by Tornado's constructor, to nothing of interest."""

    def handle_stream(self, stream: iostream.IOStream, address: tuple[Any, ...]) -> None:
        while len(self._streams) >= MAX_CONNECTIONS:
            oldest = next(iter(self._streams))
            del self._streams[oldest]
            oldest.close()
        self._streams[stream] = None
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            # A peer that does not read its answer is given up by the kernel.
            with contextlib.suppress(OSError):
                stream.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(1000 * HEADER_SECONDS))
        super().handle_stream(stream, address)

    def start_request(self, server_conn: object, request_conn: httputil.HTTPConnection) -> httputil.HTTPMessageDelegate:
        # Called for the next request as soon as one was answered.
        stream = getattr(server_conn, "stream", None)
        if stream in self._streams:
            del self._streams[stream]
            self._streams[stream] = None
        return super().start_request(server_conn, request_conn)

    def on_close(self, server_conn: object) -> None:
        self._streams.pop(getattr(server_conn, "stream", None), None)  # type: ignore[arg-type]
        super().on_close(server_conn)

    async def end(self) -> None:
        self.stop()
        end = asyncio.get_running_loop().time() + STOP_SECONDS
        while any(stream.writing() for stream in self._streams) and asyncio.get_running_loop().time() < end:
            await asyncio.sleep(0.01)
        await self.close_all_connections()


def _listen(host: str, port: int) -> socket.socket:
    """A listening socket; `::` takes IPv4 as well."""
    family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
    both = host == "::" and socket.has_dualstack_ipv6()
    try:
        listening = socket.create_server((host, port), family=family, backlog=BACKLOG, dualstack_ipv6=both)
    except OverflowError:
        raise OSError(errno.EINVAL, "ports are numbers from 0 to 65535") from None
    listening.setblocking(False)
    return listening


def _not_ours(record: logging.LogRecord) -> bool:
    return record.threadName != THREAD_NAME


def _quieten_tornado() -> None:
    """Tornado tells of each bad request and handshake, at levels that reach a console; not where we are its user."""
    for name in ("tornado.access", "tornado.application", "tornado.general"):
        logging.getLogger(name).addFilter(_not_ours)

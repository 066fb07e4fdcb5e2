"""An HTTP server on one daemon thread, for a process that has better things to do.

An event loop: a connection that says nothing, dribbles, or never ends its TLS handshake costs a socket and a few kB,
never a thread, and keeps no other from being answered. All is bounded: connections, headers, bodies, time. A request is
parsed (by h11), answered and written where its bytes arrive, without a turn of the loop between: each turn would give
the interpreter back to the training, which returns it after milliseconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
import threading
from collections.abc import Callable

from training_exporter.web.access import Access
from training_exporter.web.connection import Connection
from training_exporter.web.messages import Request, Response

log = logging.getLogger(__name__)

#: Connections held at a time. One more closes that which was served longest ago.
MAX_CONNECTIONS = 100
#: Seconds that an answer on its way has when the server is stopped.
STOP_SECONDS = 1.0
BACKLOG = 128
THREAD_NAME = "training-exporter-http"

Handler = Callable[[Request], Response]


class HttpServer:
    """Serves `handler` on `host:port` until `stop`. Raises OSError where the address cannot be had.

    `handler` runs on the server's thread; while it runs, others wait. An error in it is a 500, and logged once.
    `max_body_bytes`: of a request; who only reads needs none.
    """

    def __init__(self, handler: Handler, *, host: str, port: int, access: Access, max_body_bytes: int = 1024) -> None:
        self.handler, self.access, self.max_body_bytes = handler, access, max_body_bytes
        self._socket = _listen(host, port)
        self.port = int(self._socket.getsockname()[1])
        # The one that was served longest ago first.
        self._connections: dict[Connection, None] = {}
        self._ready = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Event | None = None
        self.thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name=THREAD_NAME, daemon=True)
        self.thread.start()
        self._ready.wait()

    def stop(self) -> None:
        """Stop listening, give answers on their way a second, and close what is open. Safe to call more than once."""
        if self._loop is not None and self._stopping is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(self._stopping.set)
        self.thread.join(2 * STOP_SECONDS)
        self.access.close()

    def opened(self, connection: Connection) -> None:
        """Called by a connection; closes another where there are too many."""
        while len(self._connections) >= MAX_CONNECTIONS:
            next(iter(self._connections)).abort()
        self._connections[connection] = None

    def used(self, connection: Connection) -> None:
        """A request of this connection was answered."""
        if connection in self._connections:
            del self._connections[connection]
            self._connections[connection] = None

    def closed(self, connection: Connection) -> None:
        self._connections.pop(connection, None)

    async def _serve(self) -> None:
        self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
        # What a peer did wrong is no news on the training's console.
        self._loop.set_exception_handler(lambda _, context: log.debug("http: %s", context.get("message")))
        server = await self._loop.create_server(lambda: Connection(self), sock=self._socket, backlog=BACKLOG)
        self._ready.set()
        await self._stopping.wait()
        server.close()
        end = self._loop.time() + STOP_SECONDS
        while any(connection.writing for connection in self._connections) and self._loop.time() < end:
            await asyncio.sleep(0.01)
        for connection in list(self._connections):
            connection.abort()


def _listen(host: str, port: int) -> socket.socket:
    """A listening socket; `::` takes IPv4 as well."""
    family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
    both = host == "::" and socket.has_dualstack_ipv6()
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG, dualstack_ipv6=both)
    except OverflowError:
        raise OSError(errno.EINVAL, "ports are numbers from 0 to 65535") from None

"""A monitor's line to the supervisor that started its process, where there is one."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable

from training_exporter.event_writer import EventWriter, Source
from training_exporter.supervise import protocol
from training_exporter.supervise.protocol import Figures, Hello, Welcome

log = logging.getLogger(__name__)

#: How long to wait for the supervisor's first word.
WELCOME_SECONDS = 5.0


class SupervisorLink(EventWriter):
    """Passes on a run's events. `on_lost` is called, once, when the supervisor is gone: then nobody shows the run.

    A supervisor that is there and does not read costs the training nothing: of what waits for it, only so much is kept.
    """

    name = "link to the supervisor"

    def __init__(
        self,
        connection: socket.socket,
        hello: Hello,
        figures: Callable[[], Figures],
        on_lost: Callable[[], None],
        source: Source | None = None,
    ) -> None:
        self._connection: socket.socket | None = connection
        self._figures = figures
        self._told: Figures | None = None
        self._on_lost = on_lost
        connection.settimeout(None)
        self._send(protocol.line(hello))
        super().__init__(log.warning, source)

    def _write(self, lines: list[bytes]) -> None:
        self._send(b"".join(lines))
        figures = self._figures()
        if figures != self._told:
            self._told = figures
            self._send(protocol.line(figures))

    def _send(self, data: bytes) -> None:
        if self._connection is None:
            return
        try:
            # Not even a script that takes SIGPIPE to heart dies with its supervisor.
            view = memoryview(data)
            while view:
                view = view[self._connection.send(view, socket.MSG_NOSIGNAL) :]
        except OSError as error:
            log.warning("the supervisor is gone (%s); the training goes on", error)
            self._release()
            self._on_lost()

    def _release(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def connect() -> tuple[socket.socket, Welcome] | None:
    """The connection to this process' supervisor and its welcome, None without one (or when it is gone)."""
    path = os.environ.get(protocol.SOCKET_VARIABLE)
    if not path:
        return None
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(WELCOME_SECONDS)
        connection.connect(path)
        with connection.makefile("rb") as lines:
            return connection, protocol.parse(lines.readline(), Welcome)
    except (OSError, protocol.ProtocolError) as error:
        log.warning("no supervisor at %s=%s (%s); this process serves its metrics itself",
                    protocol.SOCKET_VARIABLE, path, error)  # fmt: skip
        connection.close()
        return None

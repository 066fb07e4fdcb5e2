"""The inbox' SMTP side: takes every mail, sends none on."""

from __future__ import annotations

import errno

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session

from training_exporter.stack.errors import StackError
from training_exporter.stack.messages import MAX_MESSAGE_BYTES, Store, parse_mail
from training_exporter.stack.servers import port_is_free

READY_SECONDS = 10.0
IDLE_SECONDS = 60.0


class _Handler:
    def __init__(self, store: Store) -> None:
        self.store = store

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        content = envelope.content or b""
        raw = content.encode() if isinstance(content, str) else content
        self.store.add("email", parse_mail(raw, envelope.mail_from or "", list(envelope.rcpt_tos)))
        return "250 OK: shown in the inbox"


def start(store: Store, host: str, port: int) -> Controller:
    """Receive mail on `host:port` in a thread of its own, until the controller's `stop()`.

    Raises StackError where the port is taken.
    """
    controller = Controller(
        _Handler(store),
        hostname=host,
        port=port,
        data_size_limit=MAX_MESSAGE_BYTES,
        ready_timeout=READY_SECONDS,
        ident="training-exporter inbox",
        # A client that connects and says nothing is let go.
        timeout=IDLE_SECONDS,
    )
    try:
        # The controller notices a taken port only after its whole time-out.
        if not port_is_free(port, host):
            raise OSError(errno.EADDRINUSE, "in use, or not permitted")
        controller.start()
    except OSError as error:
        raise StackError(f"SMTP port {port} on {host}: {error.strerror}; choose another with --smtp-port") from None
    return controller

"""The inbox: a local server that takes Slack webhooks and mail and shows both on one page.

Alerts go here when nobody has given a Slack or mail address: compose, demo and tests use it.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from types import TracebackType

from aiosmtpd.controller import Controller

from training_exporter import ports
from training_exporter.stack import smtp
from training_exporter.stack.errors import StackError
from training_exporter.stack.messages import MAX_MESSAGE_BYTES, Message, Store
from training_exporter.stack.servers import port_is_free
from training_exporter.stack.web import App
from training_exporter.web.access import Access
from training_exporter.web.server import HttpServer


class Inbox:
    """Both servers, each in threads of this process, from `start()` to `close()`; also a context.

    `port` and `smtp_port` are demanded: StackError where one is taken. `data`: JSON lines that keep the messages over
    a restart. `on_message` is called by a server thread for each new message and must not raise.
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = ports.INBOX_HTTP,
        smtp_port: int = ports.INBOX_SMTP,
        *,
        runbooks: Path | None = None,
        data: Path | None = None,
        on_message: Callable[[Message], None] | None = None,
    ) -> None:
        self.host, self.port, self.smtp_port = host, port, smtp_port
        self.store = Store(path=data, on_message=on_message)
        self._app = App(self.store, runbooks)
        self._http: HttpServer | None = None
        self._smtp: Controller | None = None

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    def start(self) -> Inbox:
        """Listen on both ports. Raises StackError where one is taken."""
        if not port_is_free(self.port, self.host):
            raise StackError(f"port {self.port} on {self.host} is in use, or not permitted; choose another with --port")
        self._smtp = smtp.start(self.store, self.host, self.smtp_port)
        try:
            # The app itself says what is too large; what is far beyond is not read.
            self._http = HttpServer(
                self._app, host=self.host, port=self.port, access=Access(None), max_body_bytes=4 * MAX_MESSAGE_BYTES
            )
        except OSError as error:
            self.close()
            raise StackError(f"port {self.port} on {self.host}: {error}; choose another with --port") from None
        return self

    def close(self) -> None:
        if self._http is not None:
            self._http.stop()
            self._http = None
        if self._smtp is not None:
            self._smtp.stop()
            self._smtp = None

    def __enter__(self) -> Inbox:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def describe(message: Message) -> str:
    """One line for a terminal: when, by which way, what. Control characters of a stranger's text are dropped."""
    time = datetime.fromtimestamp(message.received).strftime("%H:%M:%S")
    title = "".join(character for character in message.title if character.isprintable())
    return f"{time}  {'Slack ' if message.channel == 'slack' else 'e-mail'}  {title[:200]}"

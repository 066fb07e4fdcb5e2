"""One connection of the HTTP server: TLS, requests one after another, limits."""

from __future__ import annotations

import asyncio
import logging
import ssl
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import h11

from training_exporter.web.access import Verdict
from training_exporter.web.messages import Request, Response, target_of, text

if TYPE_CHECKING:
    from training_exporter.web.server import HttpServer

log = logging.getLogger(__name__)

#: Seconds for a TLS handshake, and then from an answer (or the handshake) to the end of the next request.
REQUEST_SECONDS = 30.0
MAX_HEADER_BYTES = 32 * 1024
#: What tells nothing of the run, for probes that have no password. TLS, where it is on, holds here too.
PROBES = frozenset({"/-/healthy", "/-/ready"})


class Connection(asyncio.Protocol):
    """Belongs to a server, which it tells of its beginning, its use and its end."""

    def __init__(self, server: HttpServer) -> None:
        self._server = server
        self._loop = asyncio.get_running_loop()
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEADER_BYTES)
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._request: h11.Request | None = None
        self._body = bytearray()
        self._pending = False  # a handshake or a password: nothing may be answered yet
        self._unread = False  # the peer does not read what was written
        self._failed = False

    @property
    def writing(self) -> bool:
        """Whether an answer is on its way."""
        return self._transport is not None and (self._pending or self._transport.get_write_buffer_size() > 0)

    def abort(self) -> None:
        """Close at once."""
        self._server.closed(self)
        if self._transport is not None:
            self._transport.abort()

    # -- called by the event loop ----------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._server.opened(self)
        self._start_timer()
        context = self._server.access.config.tls
        if context is not None:
            # Not a byte is read before the handshake has begun, and none answered before it has ended.
            transport.pause_reading()
            self._pending = True
            self._task = self._loop.create_task(self._handshake(transport, context))

    def data_received(self, data: bytes) -> None:
        self._http.receive_data(data)
        if not self._held:
            self._go_on()
        elif self._transport is not None and len(self._http.trailing_data[0]) > MAX_HEADER_BYTES:
            # A peer that sends on waits until it was answered.
            self._transport.pause_reading()

    def eof_received(self) -> bool:
        if self._held:
            return False
        self._http.receive_data(b"")
        self._go_on()
        return False  # what was written is still sent, then the connection is closed

    def pause_writing(self) -> None:
        self._unread = True

    def resume_writing(self) -> None:
        self._unread = False
        self._loop.call_soon(self._go_on)

    def connection_lost(self, error: Exception | None) -> None:
        self._server.closed(self)
        self._stop_timer()
        if self._task is not None:
            self._task.cancel()
        self._transport = None

    # -- requests --------------------------------------------------------------------------------------------------

    @property
    def _held(self) -> bool:
        return self._pending or self._unread

    def _go_on(self) -> None:
        """Take what has arrived, up to the end of one request."""
        if self._held or self._transport is None or self._transport.is_closing():
            return
        try:
            while True:
                event = self._http.next_event()
                if event is h11.NEED_DATA:
                    if self._http.they_are_waiting_for_100_continue:
                        self._send(h11.InformationalResponse(status_code=100, headers=[]))
                    self._transport.resume_reading()
                    return
                if isinstance(event, h11.Request):
                    self._request, self._body = event, bytearray()
                    if (refusal := self._framing(event)) is not None:
                        self._write(refusal, last=True)
                        return
                elif isinstance(event, h11.Data):
                    self._body += event.data
                    if len(self._body) > self._server.max_body_bytes:
                        self._write(text(413, "More than is taken here.\n"), last=True)
                        return
                elif isinstance(event, h11.EndOfMessage):
                    self._answer()
                    return
                else:  # closed by the peer, or nothing more is expected of it
                    self._transport.close()
                    return
        except h11.RemoteProtocolError as error:
            self._write(text(error.error_status_hint, "This is no request.\n"), last=True)

    def _framing(self, request: h11.Request) -> Response | None:
        """A refusal where two headers disagree about the body's length, or it is known to be too long."""
        found = {name: value for name, value in request.headers if name in {b"content-length", b"transfer-encoding"}}
        if len(found) == 2:
            return text(400, "Content-Length and Transfer-Encoding: one of them.\n")
        if int(found.get(b"content-length", b"0")) > self._server.max_body_bytes:
            return text(413, "More than is taken here.\n")
        return None

    def _answer(self) -> None:
        """Answer the request at once, or after its password was checked."""
        assert self._request is not None
        headers = {name.decode("latin1"): value.decode("latin1") for name, value in self._request.headers}
        try:
            path, query = target_of(self._request.target.decode("latin1"))
        except ValueError:
            self._write(text(400, "This is no address.\n"), last=True)
            return
        request = Request(self._request.method.decode("latin1"), path, query, headers, bytes(self._body))
        if path in PROBES:
            self._handle(request, Verdict.ALLOWED)
            return
        verdict = self._server.access.verdict(headers.get("authorization"), self._certificate())
        if isinstance(verdict, Verdict):
            self._handle(request, verdict)
        else:
            self._pending = True
            self._task = self._loop.create_task(self._handle_later(request, verdict))

    async def _handle_later(self, request: Request, verdict: asyncio.Future[Verdict]) -> None:
        try:
            found = await verdict
        except RuntimeError:  # the interpreter ends, and starts no thread for bcrypt any more
            found = Verdict.BUSY
        self._pending = False
        self._handle(request, found)

    def _handle(self, request: Request, verdict: Verdict) -> None:
        if verdict is not Verdict.ALLOWED:
            self._write(self._refusal(verdict))
            return
        try:
            response = self._server.handler(request)
        except Exception:
            log.log(logging.DEBUG if self._failed else logging.ERROR, "no answer to a request", exc_info=True)
            self._failed = True
            response = text(500, "An error of the exporter; its log has it.\n")
        self._write(response)

    def _refusal(self, verdict: Verdict) -> Response:
        if verdict is Verdict.BUSY:
            return text(503, "Too many passwords to check.\n", ("Retry-After", "1"))
        if verdict is Verdict.FORBIDDEN:
            return text(403, "This certificate's owner may not.\n")
        config = self._server.access.config
        ways = [*(['Basic realm="metrics"'] if config.users else []), *(["Bearer"] if config.bearer_token else [])]
        return text(401, "Unauthorized\n", *(("WWW-Authenticate", way) for way in ways))

    def _write(self, response: Response, last: bool = False) -> None:
        """Send an answer; then close (`last`, or the peer wants it), or go on with the next request."""
        transport = self._transport
        if transport is None or not self._may_answer:
            self.abort()  # nothing that could be answered
            return
        headers = [("Content-Type", response.content_type), ("Content-Length", str(len(response.body)))]
        headers += [*response.headers, *([("Connection", "close")] if last else [])]
        # Of a request that could not be read, h11 does not know the method.
        head = self._request is not None and self._request.method == b"HEAD"
        reason = HTTPStatus(response.status).phrase
        data = self._http.send(h11.Response(status_code=response.status, headers=headers, reason=reason)) or b""
        if not head:
            data += self._http.send(h11.Data(data=response.body)) or b""
        data += self._http.send(h11.EndOfMessage()) or b""
        self._request = None
        self._server.used(self)
        self._start_timer()
        transport.write(data)
        if last or (self._http.our_state, self._http.their_state) != (h11.DONE, h11.DONE):
            transport.close()
            return
        self._http.start_next_cycle()
        if self._http.trailing_data[0]:
            # There is more of this peer already: others first.
            self._loop.call_soon(self._go_on)

    @property
    def _may_answer(self) -> bool:
        return self._http.our_state in {h11.SEND_RESPONSE, h11.IDLE}

    def _send(self, event: h11.Event) -> None:
        if self._transport is not None:
            self._transport.write(self._http.send(event) or b"")

    def _certificate(self) -> dict[str, Any] | None:
        return self._transport.get_extra_info("peercert") if self._transport is not None else None

    async def _handshake(self, plain: asyncio.Transport, context: ssl.SSLContext) -> None:
        try:
            transport = await self._loop.start_tls(
                plain, self, context, server_side=True, ssl_handshake_timeout=REQUEST_SECONDS
            )
        except (OSError, ssl.SSLError) as error:
            log.debug("http: no TLS handshake: %s", error)
            self.abort()
            return
        self._transport, self._pending = transport, False
        self._start_timer()
        self._go_on()

    def _start_timer(self) -> None:
        self._stop_timer()
        self._timer = self._loop.call_later(REQUEST_SECONDS, self.abort)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

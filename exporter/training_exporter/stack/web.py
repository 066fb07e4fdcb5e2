"""The inbox' web side: takes Slack webhooks and shows messages and runbooks."""

from __future__ import annotations

import json
import re
import secrets
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from urllib.parse import parse_qs, unquote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markdown_it import MarkdownIt
from markupsafe import Markup

from training_exporter.stack import mrkdwn
from training_exporter.stack.messages import MAX_MESSAGE_BYTES, MalformedMessage, Message, Store, parse_slack
from training_exporter.web.messages import Request, Response

_SLACK_COLOURS = {"good": "#2eb67d", "warning": "#ecb22e", "danger": "#e01e5a"}
_HEX_COLOUR = re.compile(r"#(?:[0-9a-fA-F]{3}|[0-9a-fA-F]{6})")
_RUNBOOK_NAME = re.compile(r"[A-Za-z0-9]+")
# No script but the page's own file, nothing from other hosts, no page of others around ours.
_PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; frame-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
# A mail's HTML is a stranger's: no script, no form, no request to any host. `allow-same-origin` lets the page measure
# its height; without scripts it gives the mail nothing.
_MAIL_POLICY = (
    "sandbox allow-same-origin allow-popups allow-popups-to-escape-sandbox; default-src 'none'; "
    "style-src 'unsafe-inline'; img-src data:; form-action 'none'; frame-ancestors 'self'"
)
_HTML = "text/html; charset=utf-8"
_TEXT = "text/plain; charset=utf-8"
_JSON = "application/json"


class _Answer(Exception):
    """Ends a request with this status and text."""

    def __init__(self, status: HTTPStatus, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


class App:
    """The inbox as a WSGI application over `store`. `runbooks`: the folder of the `<Alert>.md` files (None: none)."""

    def __init__(self, store: Store, runbooks: Path | None = None) -> None:
        self.store = store
        self.runbooks = runbooks
        # A page that was loaded from an earlier process must not take new messages for old ones: ids start again.
        self.epoch = secrets.token_hex(8)
        self.templates = Environment(
            loader=FileSystemLoader(Path(__file__).parent / "templates"), autoescape=True, undefined=StrictUndefined
        )
        self.templates.filters.update(
            mrkdwn=mrkdwn.render, slack_text=mrkdwn.decode, safe_link=mrkdwn.safe_link, colour=_colour, clock=_clock
        )
        # Raw HTML in a runbook stays text; markdown-it refuses javascript: links by itself.
        self.markdown = MarkdownIt("commonmark", {"html": False}).enable("table")

    def __call__(self, request: Request) -> Response:
        headers: dict[str, str] = {}
        try:
            status, content_type, body, headers = self._route(request)
        except _Answer as answer:
            status, content_type, body = answer.status, _TEXT, answer.text.encode()
        more = {
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            "Cache-Control": "no-store",
            "Content-Security-Policy": _PAGE_POLICY,
            **headers,
        }
        return Response(status.value, body, content_type, tuple(more.items()))

    def _route(self, request: Request) -> tuple[HTTPStatus, str, bytes, dict[str, str]]:
        # As a browser means it: %2e is a dot.
        path, method = unquote(request.path) or "/", request.method
        if path == "/slack":
            if method != "POST":
                raise _Answer(HTTPStatus.METHOD_NOT_ALLOWED, "POST a Slack webhook payload here")
            return HTTPStatus.OK, _TEXT, self._receive(request.body), {}
        if method not in {"GET", "HEAD"}:
            raise _Answer(HTTPStatus.METHOD_NOT_ALLOWED, "GET only")
        content_type, body, headers = self._get(path, request.query)
        return HTTPStatus.OK, content_type, body, headers

    def _get(self, path: str, query: str) -> tuple[str, bytes, dict[str, str]]:
        if path == "/":
            return _HTML, self._page("inbox.html", messages=self.store.all(), epoch=self.epoch), {}
        if path == "/new":
            return _HTML, self._new(parse_qs(query)), {}
        if path == "/messages":
            return _JSON, json.dumps([message.as_dict() for message in self.store.all()]).encode(), {}
        if path in {"/-/healthy", "/-/ready"}:
            return _TEXT, b"ok\n", {}
        if path in {"/style.css", "/inbox.js"}:
            content_type = "text/css; charset=utf-8" if path.endswith("css") else "text/javascript; charset=utf-8"
            return content_type, (Path(__file__).parent / "templates" / path[1:]).read_bytes(), {}
        if mail := re.fullmatch(r"/messages/(\d{1,9})/html", path):
            message = self.store.get(int(mail[1]))
            if message is None or message.channel != "email":
                raise _Answer(HTTPStatus.NOT_FOUND, "no such mail")
            # Links of a mail open beside the inbox, as in a mail reader.
            return (
                _HTML,
                ('<base target="_blank">' + message.body["html"]).encode(),
                {"Content-Security-Policy": _MAIL_POLICY},
            )
        if path.startswith("/runbooks"):
            return _HTML, self._runbook(path.removeprefix("/runbooks").strip("/")), {}
        raise _Answer(HTTPStatus.NOT_FOUND, "not here; try / /messages /runbooks/ /-/healthy, or POST /slack")

    def _receive(self, raw: bytes) -> bytes:
        if len(raw) > MAX_MESSAGE_BYTES:
            raise _Answer(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "payload_too_large")
        try:
            self.store.add("slack", parse_slack(raw))
        except MalformedMessage as error:
            raise _Answer(HTTPStatus.BAD_REQUEST, str(error)) from None
        return b"ok"  # Alertmanager takes any other text for a failure.

    def _new(self, query: dict[str, list[str]]) -> bytes:
        """What the open page has not shown yet. Another process' page is told to load itself anew."""
        if query.get("epoch") != [self.epoch]:
            raise _Answer(HTTPStatus.CONFLICT, "the inbox was started again")
        after = query.get("after", ["0"])[0]
        if not re.fullmatch(r"\d{1,9}", after):
            raise _Answer(HTTPStatus.BAD_REQUEST, "after must be a message's number")
        return self._page("messages.html", messages=self.store.all(int(after)))

    def _runbook(self, name: str) -> bytes:
        names = sorted(path.stem for path in self.runbooks.glob("*.md")) if self.runbooks else []
        if not name:
            return self._page("runbooks.html", names=names, name="", text=Markup(""))
        if not _RUNBOOK_NAME.fullmatch(name) or self.runbooks is None or name not in names:
            raise _Answer(HTTPStatus.NOT_FOUND, f"no runbook of that name; there are: {', '.join(names) or 'none'}")
        text = Markup(self.markdown.render((self.runbooks / f"{name}.md").read_text(encoding="utf-8")))
        return self._page("runbooks.html", names=names, name=name, text=text)

    def _page(self, template: str, **values: object) -> bytes:
        return self.templates.get_template(template).render(**values).encode()


def _colour(value: str) -> str:
    """Slack's colour names or a hex value; anything else becomes Slack's grey."""
    return value if _HEX_COLOUR.fullmatch(value) else _SLACK_COLOURS.get(value, "#9e9ea6")


def _clock(message: Message) -> str:
    return datetime.fromtimestamp(message.received, UTC).isoformat(timespec="seconds")

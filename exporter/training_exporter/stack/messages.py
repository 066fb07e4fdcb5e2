"""The inbox' messages: what arrived as a Slack webhook or as a mail, in a bounded store with optional persistence."""

from __future__ import annotations

import email
import email.policy
import json
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from email.message import EmailMessage
from pathlib import Path
from typing import Any

from training_exporter.stack.errors import StackError
from training_exporter.stack.mrkdwn import decode

MAX_MESSAGES = 500
MAX_STORED_BYTES = 32 * 1024 * 1024
MAX_MESSAGE_BYTES = 1024 * 1024
# Slack itself refuses more.
MAX_ATTACHMENTS = 100

Values = dict[str, Any]


class MalformedMessage(ValueError):
    """A body that is no message. The text is Slack's own error code for it."""


@dataclass(frozen=True)
class Message:
    """One message. `received` is Unix seconds; `body` is what `parse_slack` or `parse_mail` made of it."""

    id: int
    channel: str  # "slack" or "email"
    received: float
    body: Values

    @property
    def title(self) -> str:
        """The line that a person reads first: the mail's subject, or the first Slack title."""
        if self.channel == "email":
            return str(self.body["subject"])
        attachments = self.body["attachments"]
        if attachments:
            first = attachments[0]
            return decode(str(first["title"] or first["fallback"] or first["pretext"] or first["text"]))
        return decode(str(self.body["text"]))

    @property
    def text(self) -> str:
        """All words of the message, for a search."""
        if self.channel == "email":
            return "\n".join(str(self.body[key]) for key in ("subject", "text", "html"))
        return json.dumps(self.body, ensure_ascii=False)

    def as_dict(self) -> Values:
        return {**asdict(self), "title": self.title}


def parse_slack(raw: bytes) -> Values:
    """Slack's webhook payload, reduced to the keys that the page draws, each of the type that it must have.

    Raises MalformedMessage with the code that Slack would answer.
    """
    try:
        payload = json.loads(raw)
    except (ValueError, RecursionError):
        raise MalformedMessage("invalid_payload") from None
    if not isinstance(payload, dict):
        raise MalformedMessage("invalid_payload")
    attachments = payload.get("attachments") or []
    if not isinstance(attachments, list) or not all(isinstance(item, dict) for item in attachments):
        raise MalformedMessage("invalid_attachments")
    if len(attachments) > MAX_ATTACHMENTS:
        raise MalformedMessage("too_many_attachments")
    body = {
        "text": _text(payload.get("text")),
        "username": _text(payload.get("username")),
        "channel": _text(payload.get("channel")),
        "attachments": [_attachment(item) for item in attachments],
    }
    if not body["text"] and not attachments:
        raise MalformedMessage("no_text")
    return body


def _attachment(item: Values) -> Values:
    keys = ("color", "fallback", "pretext", "title", "title_link", "text", "footer")
    fields = [part for part in _list(item.get("fields")) if isinstance(part, dict)]
    actions = [part for part in _list(item.get("actions")) if isinstance(part, dict)]
    return {
        **{key: _text(item.get(key)) for key in keys},
        "fields": [
            {"title": _text(part.get("title")), "value": _text(part.get("value")), "short": part.get("short") is True}
            for part in fields
        ],
        "actions": [{key: _text(part.get(key)) for key in ("text", "url", "style")} for part in actions],
    }


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _text(value: object) -> str:
    # A lone surrogate from a JSON escape cannot be written to any page or file.
    text = value if isinstance(value, str) else "" if value is None else str(value)
    return text.encode("utf-8", "replace").decode()


def parse_mail(raw: bytes, sender: str, recipients: list[str]) -> Values:
    """A mail as it came over SMTP. Never fails: what cannot be understood is kept as text."""
    message = email.message_from_bytes(raw, policy=email.policy.default)
    assert isinstance(message, EmailMessage)
    return {
        "subject": _header(message, "Subject") or "(no subject)",
        "from": _header(message, "From") or sender,
        "to": _header(message, "To") or ", ".join(recipients),
        "text": _part(message, "plain"),
        "html": _part(message, "html"),
    }


def _header(message: EmailMessage, name: str) -> str:
    try:
        return _text(message.get(name)).replace("\n", " ").strip()
    except Exception:  # The standard library's header parser raises many kinds on hostile headers.
        return ""


def _part(message: EmailMessage, kind: str) -> str:
    try:
        part = message.get_body(preferencelist=(kind,))
        return _text(part.get_content()) if part is not None else ""
    except Exception:  # An unknown charset, broken base64, a multipart that is none: likewise.
        payload = message.get_payload(decode=True)
        return payload.decode("utf-8", "replace") if kind == "plain" and isinstance(payload, bytes) else ""


@dataclass
class Store:
    """The last MAX_MESSAGES messages, newest last; safe for use from several threads.

    `path`: JSON lines that survive a restart (None: memory only). `on_message` is called for each new message, by
    the thread that received it.
    """

    path: Path | None = None
    on_message: Callable[[Message], None] | None = None
    max_messages: int = MAX_MESSAGES
    max_bytes: int = MAX_STORED_BYTES
    _messages: deque[tuple[Message, str]] = field(default_factory=deque, init=False)
    _bytes: int = field(default=0, init=False)
    _last_id: int = field(default=0, init=False)
    _lines_in_file: int = field(default=0, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)

    def __post_init__(self) -> None:
        if self.path is not None:
            self._load(self.path)

    def add(self, channel: str, body: Values, received: float | None = None) -> Message:
        """Keep a message. `received` None: now."""
        with self._lock:
            message = Message(self._last_id + 1, channel, time.time() if received is None else received, body)
            line = self._keep(message)
            if self.path is not None:
                self._persist(self.path, line)
        if self.on_message is not None:
            self.on_message(message)
        return message

    def all(self, after: int = 0) -> list[Message]:
        """The messages with an id above `after`, newest first."""
        with self._lock:
            return [message for message, _ in reversed(self._messages) if message.id > after]

    def get(self, number: int) -> Message | None:
        with self._lock:
            return next((message for message, _ in self._messages if message.id == number), None)

    def _keep(self, message: Message) -> str:
        line = json.dumps(asdict(message), ensure_ascii=False)
        self._messages.append((message, line))
        self._bytes += len(line)
        self._last_id = message.id
        while len(self._messages) > self.max_messages or (self._bytes > self.max_bytes and len(self._messages) > 1):
            self._bytes -= len(self._messages.popleft()[1])
        return line

    def _load(self, path: Path) -> None:
        try:
            with path.open(encoding="utf-8", errors="replace") as lines:
                for line in lines:
                    self._lines_in_file += 1
                    try:
                        read = json.loads(line)
                        message = Message(int(read["id"]), str(read["channel"]), float(read["received"]), read["body"])
                        _ = message.title  # A line of another program or version lacks the keys.
                    except (ValueError, KeyError, TypeError, IndexError):
                        continue  # A torn last line, or not ours: the rest is still worth having.
                    self._keep(message)
        except FileNotFoundError:
            return
        except OSError as error:
            raise StackError(f"{path}: cannot read the inbox' messages: {error.strerror}") from None

    def _persist(self, path: Path, line: str) -> None:
        """Append; rewrite the file when it holds twice as many lines as the store, so that it stays bounded."""
        try:
            if self._lines_in_file < 2 * self.max_messages:
                with path.open("a", encoding="utf-8") as file:
                    file.write(line + "\n")
                self._lines_in_file += 1
                return
            new = path.with_name(path.name + ".new")
            new.write_text("".join(kept + "\n" for _, kept in self._messages), encoding="utf-8")
            os.replace(new, path)
            self._lines_in_file = len(self._messages)
        except OSError as error:
            # An inbox with a full disk still shows what arrives.
            print(f"inbox: {path}: not saved: {error.strerror}", flush=True)

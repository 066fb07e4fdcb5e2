"""A run with a hostile name, settings and error, through the real Prometheus and Alertmanager: what Slack and mail get.

Templates alone are tried with more names in tests/alerts/test_alert_templates.py.
"""

from __future__ import annotations

import email
import email.policy
import re
import time
import urllib.request
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from training_exporter import Monitor, events
from training_exporter.stack import launch, smtp
from training_exporter.stack.messages import Values
from training_exporter.stack.servers import Stack

EVIL = (
    # Names are cut at some length: what is looked for comes first.
    "{{ .ExternalURL }} "
    '"><script>alert(1)</script><img src=x onerror=alert(1)> <!channel> <@U123> <https://evil.example|Dashboard> '
    "\r\nBcc: evil@example.org\r\nContent-Type: text/plain\r\n\r\nhello \u202egnp.exe\u202c a|b&c' "
    "javascript:x"
)
OURS = {"127.0.0.1", "localhost"}


class Links(HTMLParser):
    """Every tag and every address of a page, with the words that it is under."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.addresses: list[str] = []
        self.words: dict[str, str] = {}
        self.handlers: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.addresses += [value or "" for name, value in attrs if name in {"href", "src"}]
        self.handlers += [name for name, _ in attrs if name.startswith("on")]

    def handle_data(self, data: str) -> None:
        if self.addresses:
            self.words.setdefault(self.addresses[-1], data)


@pytest.mark.timeout(300)
def test_a_hostile_run_reaches_people_as_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mails: list[bytes] = []
    parse = smtp.parse_mail

    def kept(raw: bytes, sender: str, recipients: list[str]) -> Values:
        mails.append(raw)
        assert recipients == ["on-call@training-exporter.local"]
        return parse(raw, sender, recipients)

    monkeypatch.setattr(smtp, "parse_mail", kept)
    with Stack(tmp_path / "log", grace_seconds=3) as stack:
        servers = launch.start_servers(stack, tmp_path)
        monitor = Monitor(EVIL, port=0, gpu=False, targets_dir=servers.targets, linger_seconds=0)
        try:
            settings = {"base_model": EVIL, "dataset": EVIL, "learning_rate": EVIL}
            monitor.emit(events.RunStarted(time=time.time(), run=EVIL, max_steps=100, settings=settings))
            monitor.emit(events.StepEnded(time=time.time(), step=1, tokens=1, duration_seconds=0.1))
            monitor.end("failed", f"ValueError: {EVIL}")
            end = time.monotonic() + 120
            while time.monotonic() < end and {m.channel for m in servers.inbox.store.all()} != {"slack", "email"}:
                time.sleep(0.5)
            messages = servers.inbox.store.all()
            with urllib.request.urlopen(f"{servers.inbox.url}/", timeout=10) as answer:
                page = answer.read().decode()
        finally:
            monitor.close()
            servers.inbox.close()

    slack = next(message.body for message in messages if message.channel == "slack")["attachments"][0]
    for part in ("title", "text", "fallback"):
        # Slack reads <...> as a link, a mention or a command: only our links are left, to our own servers.
        targets = [found.split("|")[0] for found in re.findall(r"<([^>]*)>", slack[part])]
        assert all(urlsplit(target).hostname in OURS for target in targets), (part, targets)
        assert slack[part].count("<") == len(targets)
    assert urlsplit(slack["title_link"]).hostname in OURS
    assert "&lt;!channel&gt;" in slack["title"]
    assert "&lt;script&gt;" in slack["text"]

    (raw,) = mails
    mail = email.message_from_bytes(raw, policy=email.policy.default)
    assert "Bcc" not in mail
    assert mail["To"] == "on-call@training-exporter.local"
    assert len(mail.get_all("Subject")) == 1
    assert mail.get_content_type() == "multipart/alternative"
    assert "<script>" in mail["Subject"], "as text, whole"
    assert "\u202e" not in mail["Subject"]
    plain, html = (mail.get_body((kind,)).get_content() for kind in ("plain", "html"))  # type: ignore[union-attr]
    assert "{{ .ExternalURL }}" in plain, "a name is no template"
    for text in (html, page):
        links = Links(text)
        assert links.handlers == []
        assert "img" not in links.tags
        # As Slack does, the inbox makes a bare address a link: under itself, never under other words.
        foreign = [address for address in links.addresses if urlsplit(address).hostname not in {*OURS, None}]
        assert all(links.words[address] == address for address in foreign), foreign
        assert not foreign or text is page
        assert all(urlsplit(address).scheme in {"http", "https", "", "data"} for address in links.addresses)
    assert "script" not in Links(html).tags
    assert page.count("<script") == 1, "the inbox' own file"

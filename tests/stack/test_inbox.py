"""The inbox over its real ports: what arrives is shown, what is hostile stays text, what is too large is refused."""

from __future__ import annotations

import http.client
import json
import smtplib
import socket
from collections.abc import Callable
from email.message import EmailMessage
from pathlib import Path

import pytest

from training_exporter.stack.errors import StackError
from training_exporter.stack.inbox_server import Inbox, describe
from training_exporter.stack.messages import MAX_MESSAGE_BYTES, Message, Store

SLACK = {
    "channel": "#training",
    "username": "Alertmanager",
    "attachments": [
        {
            "color": "danger",
            "title": "[FIRING] LossRising <script>alert(1)</script>",
            "title_link": "http://127.0.0.1:3000/d/llm-training?a=1&b=2",
            "text": "*Seen* the loss <http://example.org/x?a=1&amp;b=2|rises> `run_a` <img src=x onerror=alert(1)>",
            "fields": [{"title": "Severity", "value": "warning", "short": True}],
            "actions": [
                {"type": "button", "text": "Runbook", "url": "http://127.0.0.1:8025/runbooks/LossRising"},
                {"type": "button", "text": "Bad", "url": "javascript:alert(1)"},
            ],
        }
    ],
}


def request(
    inbox: Inbox, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
) -> tuple[int, str, http.client.HTTPMessage]:
    connection = http.client.HTTPConnection(inbox.host, inbox.port, timeout=10)
    try:
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        return answer.status, answer.read().decode(), answer.headers
    finally:
        connection.close()


def send_slack(inbox: Inbox, payload: object) -> tuple[int, str]:
    return request(inbox, "POST", "/slack", json.dumps(payload).encode())[:2]


def mail(subject: str, text: str = "plain", html: str | None = None) -> EmailMessage:
    message = EmailMessage()
    message["Subject"], message["From"], message["To"] = subject, "alerts@example.org", "you@example.org"
    message.set_content(text)
    if html is not None:
        message.add_alternative(html, subtype="html")
    return message


def send_mail(inbox: Inbox, message: EmailMessage) -> None:
    with smtplib.SMTP(inbox.host, inbox.smtp_port, timeout=10) as client:
        client.send_message(message)


def messages(inbox: Inbox) -> list[dict[str, object]]:
    status, text, headers = request(inbox, "GET", "/messages")
    assert (status, headers["Content-Type"]) == (200, "application/json")
    read = json.loads(text)
    assert isinstance(read, list)
    return read


def test_both_channels_arrive_newest_first(inbox: Inbox) -> None:
    assert send_slack(inbox, SLACK) == (200, "ok")
    send_mail(inbox, mail("[FIRING] LossRising", html="<h1>LossRising</h1>"))
    newest, oldest = messages(inbox)
    assert (newest["channel"], newest["title"]) == ("email", "[FIRING] LossRising")
    assert (oldest["channel"], oldest["id"]) == ("slack", 1)
    page = request(inbox, "GET", "/")[1]
    assert page.index('data-id="2"') < page.index('data-id="1"')


def test_slack_message_is_drawn_as_slack_draws_it(inbox: Inbox) -> None:
    send_slack(inbox, SLACK)
    page = request(inbox, "GET", "/")[1]
    assert 'href="http://127.0.0.1:3000/d/llm-training?a=1&amp;b=2"' in page
    assert "<strong>Seen</strong>" in page
    assert 'href="http://example.org/x?a=1&amp;b=2"' in page
    assert "<code>run_a</code>" in page
    assert 'fill="#e01e5a"' in page
    assert "<dt>Severity</dt><dd>warning</dd>" in page


def test_nothing_of_a_message_becomes_markup(inbox: Inbox) -> None:
    send_slack(inbox, SLACK)
    send_mail(inbox, mail("<script>alert(1)</script>", text="<b>"))
    page = request(inbox, "GET", "/")[1]
    assert "<script>alert" not in page
    assert "<img" not in page
    assert "javascript:" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page


def test_html_mail_is_shown_without_scripts_or_requests(inbox: Inbox) -> None:
    send_mail(inbox, mail("m", html="<h1>Hi</h1><script>alert(1)</script>"))
    assert "alert(1)" not in request(inbox, "GET", "/")[1]
    status, text, headers = request(inbox, "GET", "/messages/1/html")
    assert status == 200
    assert "<h1>Hi</h1>" in text
    policy = headers["Content-Security-Policy"]
    assert policy.startswith("sandbox ")
    assert "allow-scripts" not in policy
    assert "default-src 'none'" in policy


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "invalid_payload"),
        (b"not json", "invalid_payload"),
        (b"[1]", "invalid_payload"),
        (b"[" * 100_000, "invalid_payload"),
        (b"\xff\xfe", "invalid_payload"),
        (b"{}", "no_text"),
        (b'{"attachments": [1]}', "invalid_attachments"),
        (b'{"attachments": {"a": 1}}', "invalid_attachments"),
        (json.dumps({"attachments": [{"title": "t"}] * 101}).encode(), "too_many_attachments"),
    ],
)
def test_malformed_webhook_is_refused_with_slacks_code(shared_inbox: Inbox, body: bytes, code: str) -> None:
    before = messages(shared_inbox)
    assert request(shared_inbox, "POST", "/slack", body)[:2] == (400, code)
    assert messages(shared_inbox) == before


@pytest.mark.parametrize(
    "attachment",
    [
        {},
        {"title": None, "text": 5, "fields": "x", "actions": [1], "color": "url(x)"},
        {"text": "\ud800 lone surrogate \x00 and nul", "fields": [{}, 3]},
        {"text": "*" * 5000 + "<" * 5000 + "`" * 5001},
    ],
)
def test_odd_attachment_is_shown_somehow(shared_inbox: Inbox, attachment: dict[str, object]) -> None:
    before = len(messages(shared_inbox))
    assert send_slack(shared_inbox, {"attachments": [attachment]}) == (200, "ok")
    assert len(messages(shared_inbox)) == before + 1
    status, page, _ = request(shared_inbox, "GET", "/")
    assert status == 200
    assert "url(x)" not in page


def test_oversize_webhook_is_refused(inbox: Inbox) -> None:
    huge = json.dumps({"text": "x" * MAX_MESSAGE_BYTES}).encode()
    try:
        status = request(inbox, "POST", "/slack", huge)[0]
    except (BrokenPipeError, ConnectionResetError):
        status = 413  # Refused by its length, before all of it was read.
    assert status == 413
    assert messages(inbox) == []


def test_oversize_chunked_webhook_is_refused(inbox: Inbox) -> None:
    with socket.create_connection((inbox.host, inbox.port), timeout=10) as client:
        client.sendall(b"POST /slack HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        chunk = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
        try:
            for _ in range(MAX_MESSAGE_BYTES // 0x10000 + 2):
                client.sendall(chunk)
            client.sendall(b"0\r\n\r\n")
            status = int(client.recv(100).split()[1])
        except (BrokenPipeError, ConnectionResetError):
            status = 413
    assert status == 413
    assert messages(inbox) == []


def test_oversize_mail_is_refused(inbox: Inbox) -> None:
    with pytest.raises((smtplib.SMTPResponseException, smtplib.SMTPServerDisconnected, smtplib.SMTPSenderRefused)):
        send_mail(inbox, mail("m", text="x\n" * MAX_MESSAGE_BYTES))
    assert messages(inbox) == []


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"no header at all",
        b"Subject: =?utf-8?b?!!!?=\r\nContent-Type: text/html; charset=none-such\r\n\r\n\xff\xfe",
        b"Content-Type: multipart/mixed\r\n\r\nno boundary",
        b"From: <<<>>>@@\r\nTo: ;;;,,,\r\nSubject: a\r\n b\r\n\r\nx",
        b"Content-Transfer-Encoding: base64\r\nContent-Type: text/plain\r\n\r\n%%%",
    ],
)
def test_malformed_mail_is_kept_and_shown(shared_inbox: Inbox, raw: bytes) -> None:
    before = len(messages(shared_inbox))
    with smtplib.SMTP(shared_inbox.host, shared_inbox.smtp_port, timeout=10) as client:
        client.sendmail("a@example.org", ["b@example.org"], raw)
    message, *others = messages(shared_inbox)
    assert (len(others), message["channel"]) == (before, "email")
    assert request(shared_inbox, "GET", "/")[0] == 200
    assert request(shared_inbox, "GET", f"/messages/{message['id']}/html")[0] == 200


def test_new_messages_since_the_page_was_loaded(inbox: Inbox) -> None:
    send_slack(inbox, {"text": "first"})
    page = request(inbox, "GET", "/")[1]
    epoch = page.split('data-epoch="')[1].split('"')[0]
    send_slack(inbox, {"text": "second"})
    status, fragment, _ = request(inbox, "GET", f"/new?after=1&epoch={epoch}")
    assert status == 200
    assert "second" in fragment
    assert "first" not in fragment
    assert request(inbox, "GET", "/new?after=1&epoch=other")[0] == 409
    assert request(inbox, "GET", f"/new?after=x&epoch={epoch}")[0] == 400


def test_runbooks(inbox: Inbox) -> None:
    assert 'href="/runbooks/LossRising"' in request(inbox, "GET", "/runbooks/")[1]
    status, page, _ = request(inbox, "GET", "/runbooks/LossRising")
    assert status == 200
    assert "<em>loss</em>" in page
    assert "<script>alert" not in page
    assert 'href="javascript' not in page


@pytest.mark.parametrize(
    "path",
    ["/runbooks/None", "/runbooks/../secret", "/runbooks/%2e%2e%2fsecret", "/messages/999/html", "/x", "/runbooksX"],
)
def test_unknown_paths_are_404(shared_inbox: Inbox, path: str) -> None:
    assert request(shared_inbox, "GET", path)[0] == 404


def test_health_and_methods(inbox: Inbox) -> None:
    assert request(inbox, "GET", "/-/healthy")[:2] == (200, "ok\n")
    assert request(inbox, "GET", "/slack")[0] == 405
    assert request(inbox, "DELETE", "/messages")[0] == 405
    assert request(inbox, "HEAD", "/")[:2] == (200, "")


def test_messages_survive_a_restart_and_a_torn_line(inbox: Inbox, tmp_path: Path) -> None:
    send_slack(inbox, {"text": "kept"})
    send_mail(inbox, mail("kept too"))
    file = tmp_path / "inbox.jsonl"
    with file.open("a") as data:
        data.write('{"id": 3, "channel": "slack", "rec')
    again = Store(path=file)
    assert [message.title for message in again.all()] == ["kept too", "kept"]
    assert again.add("slack", {"text": "next", "attachments": []}).id == 3


def test_memory_and_file_are_bounded(tmp_path: Path) -> None:
    file = tmp_path / "inbox.jsonl"
    store = Store(path=file, max_messages=10, max_bytes=100_000)
    for number in range(95):
        store.add("slack", {"text": f"m{number}", "attachments": []})
    assert [message.title for message in store.all()][:2] == ["m94", "m93"]
    assert len(store.all()) == 10
    assert len(file.read_text().splitlines()) <= 20
    assert [m.id for m in Store(path=file, max_messages=10).all()] == [m.id for m in store.all()]
    for _ in range(5):
        store.add("slack", {"text": "x" * 40_000, "attachments": []})
    assert len(store.all()) == 2


def test_taken_port_is_one_clear_message(inbox: Inbox, port: Callable[[], int]) -> None:
    with pytest.raises(StackError, match=f"port {inbox.port} .*--port"):
        Inbox(port=inbox.port, smtp_port=inbox.smtp_port).start()
    with pytest.raises(StackError, match=f"SMTP port {inbox.smtp_port} .*--smtp-port"):
        Inbox(port=port(), smtp_port=inbox.smtp_port).start()


def test_terminal_line_drops_control_characters() -> None:
    message = Message(1, "slack", 0.0, {"text": "a\x1b[31mb\nc", "attachments": []})
    assert describe(message).endswith("Slack   a[31mbc")

"""Fixtures of the stack's tests."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from training_exporter.stack.inbox_server import Inbox


@pytest.fixture
def port() -> Callable[[], int]:
    """Makes free ports, a different one at each call."""
    given: set[int] = set()

    def make() -> int:
        while True:
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                number = int(probe.getsockname()[1])
            if number not in given:
                given.add(number)
                return number

    return make


@pytest.fixture
def inbox(tmp_path: Path, port: Callable[[], int]) -> Iterator[Inbox]:
    """A running inbox with one runbook, whose messages are kept in a file."""
    runbooks = tmp_path / "runbooks"
    runbooks.mkdir()
    (runbooks / "LossRising.md").write_text(
        "# LossRising\n\nThe *loss* rises.\n\n<script>alert(1)</script>\n\n[no](javascript:alert(1))\n"
    )
    (tmp_path / "secret.md").write_text("secret")
    with Inbox(port=port(), smtp_port=port(), runbooks=runbooks, data=tmp_path / "inbox.jsonl") as running:
        yield running

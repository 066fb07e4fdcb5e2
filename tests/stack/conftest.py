"""Fixtures of the stack's tests."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from training_exporter.stack.inbox_server import Inbox


@pytest.fixture(scope="session")
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


def make_inbox(folder: Path, port: Callable[[], int]) -> Inbox:
    """An inbox with one runbook, whose messages are kept in a file."""
    runbooks = folder / "runbooks"
    runbooks.mkdir()
    (runbooks / "LossRising.md").write_text(
        "# LossRising\n\nThe *loss* rises.\n\n<script>alert(1)</script>\n\n[no](javascript:alert(1))\n"
    )
    (folder / "secret.md").write_text("secret")
    return Inbox(port=port(), smtp_port=port(), runbooks=runbooks, data=folder / "inbox.jsonl")


@pytest.fixture
def inbox(tmp_path: Path, port: Callable[[], int]) -> Iterator[Inbox]:
    """A running inbox without messages."""
    with make_inbox(tmp_path, port) as running:
        yield running


@pytest.fixture(scope="module")
def shared_inbox(tmp_path_factory: pytest.TempPathFactory, port: Callable[[], int]) -> Iterator[Inbox]:
    """A running inbox for tests that do not mind what others have sent; stopping one takes half a second."""
    with make_inbox(tmp_path_factory.mktemp("inbox"), port) as running:
        yield running

"""`training-exporter inbox`: the command line of the inbox."""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import threading
from pathlib import Path

from training_exporter import ports
from training_exporter.stack import files
from training_exporter.stack.errors import StackError


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "inbox",
        help="show Slack-format webhooks and mail on one local page",
        description="A local server that takes Slack-format webhooks (POST /slack) and mail (SMTP) and shows both on "
        "one web page, newest first. It sends nothing on.",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default %(default)s)")
    parser.add_argument("--port", type=int, default=ports.INBOX_HTTP, help="HTTP port (default %(default)s)")
    parser.add_argument("--smtp-port", type=int, default=ports.INBOX_SMTP, help="SMTP port (default %(default)s)")
    parser.add_argument("--data", type=Path, metavar="FILE", help="keep messages over a restart in this file")
    parser.add_argument("--runbooks", type=Path, metavar="DIR", help="runbooks to show (default: the shipped ones)")
    parser.add_argument("--quiet", action="store_true", help="do not print each message as it arrives")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Serve until SIGINT or SIGTERM. Returns the exit status: 0, or 2 after a message about wrong input."""
    try:
        # Imported here: the other commands must work without the packages of the extra `stack`.
        from training_exporter.stack.inbox_server import Inbox, describe
    except ImportError as error:
        print(f"training-exporter inbox: needs training-exporter[stack] ({error})", file=sys.stderr)
        return 2
    # aiosmtpd tells of each connection, the controller's own probe included.
    logging.getLogger("mail.log").setLevel(logging.WARNING)
    try:
        runbooks = arguments.runbooks or files.folder("alerts") / "runbooks"
        inbox = Inbox(
            arguments.host,
            arguments.port,
            arguments.smtp_port,
            runbooks=runbooks,
            data=arguments.data,
            on_message=None if arguments.quiet else lambda message: print(describe(message), flush=True),
        ).start()
    except StackError as error:
        print(f"training-exporter inbox: {error}", file=sys.stderr)
        return 2
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    print(f"inbox: {inbox.url} (Slack webhooks: {inbox.url}/slack, SMTP: {inbox.host}:{inbox.smtp_port})", flush=True)
    ended.wait()
    inbox.close()
    return 0

"""`training-exporter config`: renders the configuration of Prometheus and Alertmanager; the compose file's first step.

Settings come as options or as environment variables (compose, .env); secrets only as files.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from training_exporter import ports
from training_exporter.stack import files
from training_exporter.stack.errors import StackError

if TYPE_CHECKING:
    from training_exporter.stack.render import ScrapeSettings

# option, default, meaning; the environment variable is the option in capitals.
SETTINGS = (
    ("prometheus", f"localhost:{ports.PROMETHEUS}", "Prometheus' own address"),
    ("alertmanager", f"localhost:{ports.ALERTMANAGER}", "Alertmanager's address"),
    ("grafana-url", f"http://localhost:{ports.GRAFANA}", "Grafana, as a reader of a message reaches it"),
    ("inbox-url", f"http://localhost:{ports.INBOX_HTTP}", "the inbox and its runbooks, likewise"),
    ("slack-webhook-url-file", "", "file that holds the URL of a Slack incoming webhook"),
    ("smtp-smarthost", f"localhost:{ports.INBOX_SMTP}", "SMTP server, host:port"),
    ("smtp-from", "alerts@training-exporter.local", "sender of the mails"),
    ("smtp-to", "on-call@training-exporter.local", "recipients, separated by commas"),
    ("smtp-require-tls", "", "true or false (default: true, but false for the local inbox)"),
    ("smtp-username", "", "user name at the SMTP server"),
    ("smtp-password-file", "", "file that holds the password"),
    ("scrape-ca-file", "", "authority of the exporters' certificates; with any --scrape-... they are asked over https"),
    ("scrape-cert-file", "", "certificate that Prometheus shows to exporters"),
    ("scrape-key-file", "", "its key"),
    ("scrape-server-name", "", "name in the exporters' certificates, where it is not the address that they announce"),
    ("scrape-username", "", "user name at the exporters"),
    ("scrape-password-file", "", "file that holds the password"),
    ("scrape-bearer-token-file", "", "file that holds the exporters' token"),
    ("inbox-smtp", f"localhost:{ports.INBOX_SMTP}", "the inbox' SMTP address, to tell it from a real server"),
)
_DEFAULTS = {option: default for option, default, _ in SETTINGS}
_TRUE, _FALSE = {"true", "yes", "1", "on"}, {"false", "no", "0", "off"}


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "config",
        help="render the configuration of Prometheus and Alertmanager",
        description="Renders prometheus.yml and alertmanager.yml for given addresses. Each option has an environment "
        "variable of its name in capitals (--slack-webhook-url-file: SLACK_WEBHOOK_URL_FILE). Secrets are read by "
        "Alertmanager from their files; they do not enter the configuration.",
    )
    add = parser.add_argument
    add("--out", type=Path, required=True, metavar="DIR", help="folder for both files")
    add(
        "--root",
        type=Path,
        help="folder of alerts/ and prometheus/, the same for the servers (default: the shipped one)",
    )
    add("--targets-dir", type=Path, help="folder in which exporters announce themselves (default: prometheus/targets)")
    for option, default, meaning in SETTINGS:
        add(f"--{option}", metavar="TEXT", help=meaning + (f" (default: {default})" if default else ""))
    add("--reload", metavar="URL", help="Alertmanager to tell about the new file, where it already runs")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Render both files and say where alerts will go. Exit status 0, or 2 after a message about wrong input."""
    try:
        # Imported here: the other commands must work without the packages of the extra `stack`.
        from training_exporter.stack import render
    except ImportError as error:
        print(f"training-exporter config: needs training-exporter[stack] ({error})", file=sys.stderr)
        return 2
    setting = _Settings(arguments, os.environ)
    try:
        root = arguments.root.resolve() if arguments.root else files.root()
        mail_is_local = setting["smtp-smarthost"] == setting["inbox-smtp"]
        webhook_file = Path(setting["slack-webhook-url-file"])
        password_file = Path(setting["smtp-password-file"]) if setting["smtp-password-file"] else None
        # Compose mounts an empty file where no password was given.
        has_password = password_file is not None and bool(render.read_secret("SMTP_PASSWORD_FILE", password_file))
        if not setting["slack-webhook-url-file"]:
            raise StackError("--slack-webhook-url-file (SLACK_WEBHOOK_URL_FILE) is missing")
        webhook = render.read_webhook_url(webhook_file)
        prometheus = render.render_prometheus(
            root / "prometheus" / "prometheus.yml",
            render.PrometheusSettings(
                root=root,
                targets_dir=arguments.targets_dir or root / "prometheus" / "targets",
                address=setting["prometheus"],
                alertmanager=setting["alertmanager"],
                grafana_url=setting["grafana-url"],
                runbooks_url=setting["inbox-url"].rstrip("/") + "/runbooks",
                scrape=_scrape(setting, render.ScrapeSettings),
            ),
        )
        alertmanager = render.render_alertmanager(
            root / "alerts" / "alertmanager.yml",
            render.AlertmanagerSettings(
                root=root,
                slack_url_file=webhook_file,
                mail=render.MailSettings(
                    smarthost=setting["smtp-smarthost"],
                    sender=setting["smtp-from"],
                    to=setting["smtp-to"],
                    require_tls=setting.truth("smtp-require-tls", default=not mail_is_local),
                    username=setting["smtp-username"],
                    password_file=password_file if has_password else None,
                ),
            ),
        )
        _write(arguments.out / "prometheus.yml", prometheus)
        _write(arguments.out / "alertmanager.yml", alertmanager)
    except StackError as error:
        print(f"training-exporter config: {error}", file=sys.stderr)
        return 2
    slack_is_local = urlsplit(webhook).hostname == setting["inbox-smtp"].rpartition(":")[0]
    print(_explain(slack_is_local, mail_is_local, setting), flush=True)
    if arguments.reload:
        _reload(arguments.reload)
    return 0


class _Settings:
    """An option, else its environment variable, else its default."""

    def __init__(self, arguments: argparse.Namespace, environment: Mapping[str, str]) -> None:
        self.arguments, self.environment = arguments, environment

    def __getitem__(self, option: str) -> str:
        name = option.replace("-", "_")
        given = getattr(self.arguments, name)
        # Compose sets a variable that .env does not know to the empty text.
        return str(given or self.environment.get(name.upper()) or _DEFAULTS[option]).strip()

    def truth(self, option: str, *, default: bool) -> bool:
        value = self[option].lower()
        if value not in _TRUE | _FALSE | {""}:
            raise StackError(f"{option.replace('-', '_').upper()}: found {value!r}, allowed: true or false")
        return value in _TRUE if value else default


def _scrape(setting: _Settings, make: type[ScrapeSettings]) -> ScrapeSettings | None:
    given: dict[str, Any] = {}
    for option, _, _ in SETTINGS:
        if option.startswith("scrape-") and setting[option]:
            name = option.removeprefix("scrape-").replace("-", "_")
            given[name] = Path(setting[option]) if name.endswith("_file") else setting[option]
    return make(**given) if given else None


def _write(path: Path, text: str) -> None:
    """Written beside and renamed, so that no server reads half a file."""
    partial = path.with_name(path.name + ".new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, path)
    except OSError as error:
        raise StackError(f"{path}: cannot write: {error.strerror}") from None


def _explain(slack_is_local: bool, mail_is_local: bool, setting: _Settings) -> str:
    inbox = setting["inbox-url"]
    lines = [
        f"Slack messages go to the local inbox: {inbox}"
        if slack_is_local
        else "Slack messages go to the incoming webhook that SLACK_WEBHOOK_URL_FILE names.",
        f"Mails go to the local inbox: {inbox}"
        if mail_is_local
        else f"Mails go to {setting['smtp-to']} through {setting['smtp-smarthost']}.",
    ]
    if slack_is_local:
        lines.append(
            "To connect Slack: make an incoming webhook (Slack: Apps > Incoming Webhooks), put its URL into a file\n"
            "  (git ignores secrets/), write SLACK_WEBHOOK_URL_FILE=./secrets/slack_webhook_url\n"
            "  into .env, and run `docker compose up -d` again."
        )
    if mail_is_local:
        lines.append(
            "To connect e-mail: write SMTP_SMARTHOST=smtp.example.org:587, SMTP_FROM=, SMTP_TO=, SMTP_USERNAME= and\n"
            "  SMTP_PASSWORD_FILE=./secrets/smtp_password into .env, and run `docker compose up -d` again."
        )
    return "\n".join(lines)


def _reload(url: str) -> None:
    """Alertmanager reads its file again; where it does not run yet, it will read it when it starts."""
    request = urllib.request.Request(url.rstrip("/") + "/-/reload", method="POST")
    with contextlib.suppress(OSError), urllib.request.urlopen(request, timeout=5):
        print("Alertmanager was running and has read the new configuration.", flush=True)

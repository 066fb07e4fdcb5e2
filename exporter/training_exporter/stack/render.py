"""Renders the checkout's `prometheus/prometheus.yml` and `alerts/alertmanager.yml` for given addresses and settings.

Neither server expands environment variables in its configuration. So the demo, the tests and the compose file's
`config` service all change the same two committed files in these few places and leave everything else as it stands.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from email.utils import parseaddr
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from training_exporter.stack.errors import StackError

Values = dict[str, Any]

_ADDRESS = re.compile(r"(?P<host>\[[0-9a-fA-F:]+\]|[A-Za-z0-9._-]+):(?P<port>\d{1,5})")


@dataclass(frozen=True)
class ScrapeSettings:
    """How Prometheus proves who it is to the exporters and they to it; with this, all of them are asked over https.

    The paths are as Prometheus sees them, which reads the files itself at each scrape.
    """

    ca_file: Path | None = None  # default: the machine's own authorities
    cert_file: Path | None = None
    key_file: Path | None = None
    server_name: str = ""  # in the exporters' certificates, where it is not the announced address
    username: str = ""
    password_file: Path | None = None
    bearer_token_file: Path | None = None

    def __post_init__(self) -> None:
        for first, second in (("cert", "key"), ("password", "username")):
            given = (self.cert_file, self.key_file) if first == "cert" else (self.password_file, self.username)
            if bool(given[0]) != bool(given[1]):
                raise StackError(f"{_option(first)} and {_option(second)} belong together: one is missing")
        if self.username and self.bearer_token_file:
            raise StackError(f"{_option('username')} and {_option('bearer_token')}: one of them, not both")
        files = ("ca_file", "cert_file", "key_file", "password_file", "bearer_token_file")
        for name in files:
            path = getattr(self, name)
            if path is not None and not read_secret(_option(name.removesuffix("_file")), path):
                raise StackError(f"{_option(name.removesuffix('_file'))}: {path} is empty")

    def apply(self, job: Values) -> None:
        """Put it into a scrape job."""
        tls = {
            "ca_file": self.ca_file, "cert_file": self.cert_file, "key_file": self.key_file,
            "server_name": self.server_name,
        }  # fmt: skip
        job["scheme"] = "https"
        job["tls_config"] = {key: str(value) for key, value in tls.items() if value}
        if self.username:
            job["basic_auth"] = {"username": self.username, "password_file": str(self.password_file)}
        if self.bearer_token_file:
            job["authorization"] = {"type": "Bearer", "credentials_file": str(self.bearer_token_file)}


@dataclass(frozen=True)
class PrometheusSettings:
    """What differs between places. `root` holds `prometheus/` and `alerts/`."""

    root: Path
    targets_dir: Path
    address: str  # its own, host:port
    alertmanager: str  # host:port
    grafana_url: str
    runbooks_url: str
    scrape: ScrapeSettings | None = None  # None: plain http, nothing to prove

    def __post_init__(self) -> None:
        check_address("Prometheus' address", self.address)
        check_address("Alertmanager's address", self.alertmanager)
        check_url("Grafana's URL", self.grafana_url)
        check_url("the runbooks' URL", self.runbooks_url)


@dataclass(frozen=True)
class MailSettings:
    """How Alertmanager sends mail. `username` and `password_file` belong together."""

    smarthost: str  # host:port
    sender: str
    to: str  # one or more addresses, separated by commas
    require_tls: bool = True
    username: str = ""
    password_file: Path | None = None

    def __post_init__(self) -> None:
        check_address("the SMTP server (SMTP_SMARTHOST)", self.smarthost)
        _check_mail_address("the sender (SMTP_FROM)", self.sender)
        for recipient in self.to.split(","):
            _check_mail_address("the recipient (SMTP_TO)", recipient.strip())
        if bool(self.username) != (self.password_file is not None):
            raise StackError(
                "SMTP_USERNAME and SMTP_PASSWORD_FILE belong together: one is missing, or the file is empty"
            )


@dataclass(frozen=True)
class AlertmanagerSettings:
    """What differs between places. `root` holds `alerts/`."""

    root: Path
    slack_url_file: Path
    mail: MailSettings


def render_prometheus(source: Path, settings: PrometheusSettings) -> str:
    """The text of `source` (a prometheus.yml) with `settings` in it.

    Raises StackError where `source` is not readable or has not the shape that the settings are put into.
    """
    config = _load(source)
    try:
        config["global"]["external_labels"].update(
            grafana_url=settings.grafana_url.rstrip("/"), runbooks_url=settings.runbooks_url.rstrip("/")
        )
        # The committed paths are relative to the committed file.
        config["rule_files"] = [_absolute(path, settings.root / "prometheus") for path in config["rule_files"]]
        config["alerting"]["alertmanagers"] = [{"static_configs": [{"targets": [settings.alertmanager]}]}]
        jobs = {job["job_name"]: job for job in config["scrape_configs"]}
        jobs["training"]["file_sd_configs"] = [{"files": [str(settings.targets_dir / "*.json")]}]
        if settings.scrape is not None:
            settings.scrape.apply(jobs["training"])
        jobs["prometheus"]["static_configs"] = [{"targets": [settings.address]}]
        jobs["alertmanager"]["static_configs"] = [{"targets": [settings.alertmanager]}]
    except (KeyError, TypeError, AttributeError) as error:
        raise StackError(f"{source}: not a configuration of this stack: {error!r}") from None
    return _dump(source, config)


def render_alertmanager(source: Path, settings: AlertmanagerSettings) -> str:
    """The text of `source` (an alertmanager.yml) with `settings` in it. Raises StackError as `render_prometheus`."""
    config, mail = _load(source), settings.mail
    try:
        config["global"].update(
            slack_api_url_file=str(settings.slack_url_file),
            smtp_smarthost=mail.smarthost,
            smtp_from=mail.sender,
            smtp_require_tls=mail.require_tls,
        )
        if mail.password_file is not None:
            config["global"].update(smtp_auth_username=mail.username, smtp_auth_password_file=str(mail.password_file))
        config["templates"] = [_absolute(path, settings.root / "alerts") for path in config["templates"]]
        for receiver in config["receivers"]:
            for email in receiver.get("email_configs", []):
                email["to"] = mail.to
    except (KeyError, TypeError, AttributeError) as error:
        raise StackError(f"{source}: not a configuration of this stack: {error!r}") from None
    return _dump(source, config)


def check_address(what: str, value: str) -> None:
    """Raises StackError unless `value` is host:port."""
    match = _ADDRESS.fullmatch(value)
    if match is None or not 0 < int(match["port"]) < 65536:
        raise StackError(f"{what}: found {value!r}, allowed: HOST:PORT, such as smtp.example.org:587")


def check_url(what: str, value: str) -> None:
    """Raises StackError unless `value` is an http or https URL with a host."""
    try:
        parts = urlsplit(value)
        good = parts.scheme in {"http", "https"} and bool(parts.hostname) and not re.search(r"\s", value)
        _ = parts.port
    except ValueError:
        good = False
    if not good:
        raise StackError(f"{what}: found {value!r}, allowed: a URL such as http://localhost:3000")


def read_secret(what: str, path: Path) -> str:
    """The stripped text of a secret's file. Raises StackError, never with the text in it."""
    try:
        return path.read_text(encoding="utf-8").strip()
    except PermissionError:
        raise StackError(
            f"{what}: {path} cannot be read by user {os.geteuid()}, as which the server runs; "
            "let that user read the file (chmod 644, in a folder that only you can enter)"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise StackError(f"{what}: {path}: {reason}") from None


def read_webhook_url(path: Path) -> str:
    """The webhook's URL in a secret's file. Raises StackError, which does not repeat it: whoever has it may post."""
    url = read_secret("the Slack webhook's URL (SLACK_WEBHOOK_URL_FILE)", path)
    try:
        check_url("", url)
    except StackError:
        raise StackError(
            f"the Slack webhook's URL (SLACK_WEBHOOK_URL_FILE): {path} holds {len(url)} characters that are no URL; "
            "allowed: one line such as https://hooks.slack.com/services/..."
        ) from None
    return url


def _option(name: str) -> str:
    return f"--scrape-{name.replace('_', '-')}" + ("" if name in {"username", "server_name"} else "-file")


def _check_mail_address(what: str, value: str) -> None:
    name, _, domain = parseaddr(value)[1].rpartition("@")
    if not name or not domain or re.search(r"[\r\n]", value):
        raise StackError(f"{what}: found {value!r}, allowed: an address such as you@example.org")


def _load(source: Path) -> Values:
    try:
        config = yaml.safe_load(source.read_text(encoding="utf-8"))
    except OSError as error:
        raise StackError(f"{source}: {error.strerror}") from None
    except yaml.YAMLError as error:
        raise StackError(f"{source}: not YAML: {str(error).splitlines()[0]}") from None
    if not isinstance(config, dict):
        raise StackError(f"{source}: empty, or not a mapping")
    return config


def _dump(source: Path, config: Values) -> str:
    header = f"# Rendered from {source.parent.name}/{source.name}: change that one.\n"
    return header + yaml.safe_dump(config, sort_keys=False, allow_unicode=True, width=120)


def _absolute(path: str, base: Path) -> str:
    return os.path.normpath(base / path)

"""The web configuration file: TLS and passwords of a server, in the format of Prometheus' own exporters.

The format is that of exporter-toolkit (https://github.com/prometheus/exporter-toolkit), with one key more:
`bearer_token_file`. What of it this server does not do is an error here, never ignored: a setting that somebody
believes to be on would be worse than none.
"""

from __future__ import annotations

import re
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from training_exporter import yaml_file
from training_exporter.errors import shown

_TLS_KEYS = {
    "cert_file",
    "key_file",
    "client_ca_file",
    "client_auth_type",
    "client_allowed_sans",
    "min_version",
    "max_version",
}
_KEYS = {"tls_server_config", "basic_auth_users", "bearer_token_file"}
_VERSIONS = {"TLS12": ssl.TLSVersion.TLSv1_2, "TLS13": ssl.TLSVersion.TLSv1_3}
_CLIENT_AUTH = {
    "NoClientCert": ssl.CERT_NONE,
    "VerifyClientCertIfGiven": ssl.CERT_OPTIONAL,
    "RequireAndVerifyClientCert": ssl.CERT_REQUIRED,
}
# A check costs 2 to the power of the cost: 14 is about a second.
_BCRYPT = re.compile(r"\$2[abxy]\$(0[4-9]|1[0-4])\$[./A-Za-z0-9]{53}")
_MIN_TOKEN = 16


class WebConfigError(ValueError):
    """The web configuration file or one that it names cannot be used; the message says which, and what is allowed."""


@dataclass(frozen=True)
class WebConfig:
    """What the file says, ready for use. `files` are all that were read for it, to see when they change."""

    tls: ssl.SSLContext | None = None
    client_allowed_sans: frozenset[str] = frozenset()
    users: dict[str, bytes] = field(default_factory=dict)  # name: bcrypt hash
    bearer_token: bytes | None = None
    files: tuple[Path, ...] = ()

    @property
    def asks_who(self) -> bool:
        """Whether only those who can prove who they are get an answer."""
        certificate = self.tls is not None and self.tls.verify_mode is ssl.CERT_REQUIRED
        return bool(self.users) or self.bearer_token is not None or certificate


def load(path: Path) -> WebConfig:
    """Read the file. Raises WebConfigError; no secret is in its message."""
    return _Reader(path).read()


class _Reader:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.files = [path]

    def read(self) -> WebConfig:
        content = self._yaml()
        self._check_keys(content, _KEYS, "")
        given = content.get("tls_server_config")
        tls, sans = (None, frozenset[str]()) if given is None else self._tls(given)
        users = self._users(content.get("basic_auth_users") or {})
        token = None if content.get("bearer_token_file") is None else self._token(content)
        return WebConfig(tls, sans, users, token, tuple(self.files))

    def _yaml(self) -> dict[str, Any]:
        try:
            content = yaml_file.load(self.path)
        except yaml_file.YamlFileError as error:
            raise WebConfigError(str(error)) from None
        if not isinstance(content, dict):
            raise WebConfigError(f"{self.path}: found {type(content).__name__}, allowed: keys {_list(_KEYS)}")
        return content

    def _check_keys(self, content: dict[str, Any], allowed: set[str], inside: str) -> None:
        for key in content:
            if key not in allowed:
                name = key[:60] if isinstance(key, str) else shown(key)
                raise self._error(f"{inside}{name}", f"not a key of this server, allowed: {_list(allowed)}")

    def _tls(self, given: object) -> tuple[ssl.SSLContext, frozenset[str]]:
        inside = "tls_server_config"
        if not isinstance(given, dict):
            raise self._error(inside, f"found {shown(given)}, allowed: keys {_list(_TLS_KEYS)}")
        self._check_keys(given, _TLS_KEYS, f"{inside}.")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = self._one_of(given, "min_version", _VERSIONS, "TLS12")
        context.maximum_version = self._one_of(given, "max_version", _VERSIONS, "TLS13")
        if context.minimum_version > context.maximum_version:
            raise self._error(f"{inside}.min_version", "above max_version")
        certificate, key = (self._file(given, f"{inside}.", name) for name in ("cert_file", "key_file"))
        try:
            # With a password, OpenSSL would ask the terminal for it.
            context.load_cert_chain(certificate, key, password=_no_password)
        except (ssl.SSLError, ValueError, OSError) as error:
            reason = getattr(error, "reason", None) or str(error)
            raise self._error(
                f"{inside}.cert_file, key_file",
                f"{certificate} and {key} are no PEM certificate and its key without a password ({reason})",
            ) from None
        verify = self._one_of(given, "client_auth_type", _CLIENT_AUTH, "NoClientCert")
        if given.get("client_ca_file") is not None:
            if verify is ssl.CERT_NONE:
                raise self._error(f"{inside}.client_auth_type", "missing, though there is a client_ca_file")
            authority = self._file(given, f"{inside}.", "client_ca_file")
            try:
                context.load_verify_locations(cafile=authority)
            except (ssl.SSLError, OSError) as error:
                reason = getattr(error, "reason", None) or str(error)
                raise self._error(
                    f"{inside}.client_ca_file", f"{authority} has no PEM certificate ({reason})"
                ) from None
        elif verify is not ssl.CERT_NONE:
            raise self._error(f"{inside}.client_ca_file", "missing: it says whose certificates are good")
        context.verify_mode = verify
        sans = given.get("client_allowed_sans") or []
        if not isinstance(sans, list) or not all(isinstance(san, str) for san in sans):
            raise self._error(f"{inside}.client_allowed_sans", f"found {shown(sans)}, allowed: a list of names")
        if sans and verify is not ssl.CERT_REQUIRED:
            raise self._error(f"{inside}.client_allowed_sans", "needs client_auth_type: RequireAndVerifyClientCert")
        return context, frozenset(sans)

    def _users(self, given: object) -> dict[str, bytes]:
        if not isinstance(given, dict):
            raise self._error("basic_auth_users", "allowed: a mapping of user names to bcrypt hashes")
        for user, hashed in given.items():
            if not isinstance(user, str) or not user or ":" in user:
                raise self._error("basic_auth_users", f"found the user {shown(user)}, allowed: a text without a colon")
            if not isinstance(hashed, str) or not _BCRYPT.fullmatch(hashed):
                raise self._error(
                    f"basic_auth_users.{user}",
                    "no bcrypt hash of a cost from 4 to 14, such as `htpasswd -nBC 10 \"\" | tr -d ':\\n'` prints",
                )
        return {user: hashed.encode() for user, hashed in given.items()}

    def _token(self, content: dict[str, Any]) -> bytes:
        path = self._file(content, "", "bearer_token_file")
        try:
            token = path.read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise self._error("bearer_token_file", f"{path}: {_reason(error)}") from None
        if len(token) < _MIN_TOKEN or re.search(r"\s", token):
            raise self._error(
                "bearer_token_file",
                f"{path} holds {len(token)} characters, allowed: one line of at least {_MIN_TOKEN} without spaces, "
                "such as `openssl rand -hex 32` prints",
            )
        return token.encode()

    def _file(self, given: dict[str, Any], inside: str, key: str) -> Path:
        """A file that the configuration names; a relative path is meant from the configuration's folder."""
        value = given.get(key)
        if not isinstance(value, str) or not value or "\0" in value:
            found = "missing" if value is None else f"found {shown(value)}, allowed: a path"
            raise self._error(f"{inside}{key}", found)
        path = self.path.parent / value
        try:
            with path.open("rb"):
                pass
        except OSError as error:
            raise self._error(f"{inside}{key}", f"{path}: {error.strerror}") from None
        self.files.append(path)
        return path

    def _one_of(self, given: dict[str, Any], key: str, allowed: dict[str, Any], default: str) -> Any:
        value = given.get(key, default)
        if not isinstance(value, str) or value not in allowed:
            raise self._error(f"tls_server_config.{key}", f"found {shown(value)}, allowed: {', '.join(allowed)}")
        return allowed[value]

    def _error(self, key: str, text: str) -> WebConfigError:
        return WebConfigError(f"{self.path}: {key}: {text}")


def _no_password() -> str:
    raise ValueError("the key has a password")


def _reason(error: OSError | UnicodeDecodeError) -> str:
    return (error.strerror or str(error)) if isinstance(error, OSError) else "not plain text"


def _list(keys: set[str]) -> str:
    return ", ".join(sorted(keys))

"""Who may ask: the web configuration as it is on disk at present, and the check of one request against it."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import logging
import os
import secrets
import time
from concurrent.futures import ThreadPoolExecutor
from enum import Enum
from pathlib import Path
from typing import Any

import bcrypt

from training_exporter.web.config import WebConfig, WebConfigError, load

log = logging.getLogger(__name__)

#: Seconds between two looks at the files: certificates are renewed while a training runs for weeks.
LOOK_SECONDS = 1.0
#: Passwords that wait for their turn; a check takes a tenth of a second of a core that the training wants.
MAX_WAITING = 4
MAX_KNOWN = 100
# Of a random password: an unknown user costs the same time as a known one.
_NOBODY = b"$2b$10$mXS54UGtjJbXjy4k3EOcJenX6BG3u4g5x54qBdEqRk390hj3QHt5K"


class Verdict(Enum):
    """What to answer: the page, 401 (who are you?), 403 (not you), or 503 (too many passwords to check)."""

    ALLOWED = "allowed"
    UNKNOWN = "unknown"
    FORBIDDEN = "forbidden"
    BUSY = "busy"


class Access:
    """Checks requests. Used from the server's one thread; only bcrypt runs in another.

    `path` None: everybody may ask. Raises WebConfigError. A file that becomes wrong later leaves what was valid before.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._config = load(path) if path is not None else WebConfig()
        self._seen = self._signature()
        self._looked = time.monotonic()
        self._known: dict[bytes, None] = {}
        self._secret = secrets.token_bytes(32)
        self._wrong = ""
        self._waiting = 0
        self._bcrypt = ThreadPoolExecutor(1, thread_name_prefix="metrics-password") if path is not None else None

    @property
    def config(self) -> WebConfig:
        """What the files say; looks at them at most once in LOOK_SECONDS."""
        if self._path is not None and time.monotonic() - self._looked >= LOOK_SECONDS:
            self._looked = time.monotonic()
            # While they are wrong, they are read every time: a file that is named but not there yet may come.
            if self._wrong or self._signature() != self._seen:
                self._reload(self._path)
        return self._config

    def close(self) -> None:
        if self._bcrypt is not None:
            self._bcrypt.shutdown(wait=False, cancel_futures=True)

    def verdict(
        self, authorization: str | None, certificate: dict[str, Any] | None
    ) -> Verdict | asyncio.Future[Verdict]:
        """Whether a request with this header and this verified certificate (as `getpeercert` has it) may pass; later,
        where bcrypt has to be asked."""
        config = self.config
        if config.client_allowed_sans and not config.client_allowed_sans & _names(certificate):
            return Verdict.FORBIDDEN
        if not config.users and config.bearer_token is None:
            return Verdict.ALLOWED
        scheme, _, value = (authorization or "").partition(" ")
        if scheme.lower() == "bearer" and config.bearer_token is not None:
            good = hmac.compare_digest(_digest(value.strip().encode()), _digest(config.bearer_token))
            return Verdict.ALLOWED if good else Verdict.UNKNOWN
        if scheme.lower() == "basic" and config.users:
            return self._password(value.strip(), config)
        return Verdict.UNKNOWN

    def _password(self, encoded: str, config: WebConfig) -> Verdict | asyncio.Future[Verdict]:
        try:
            user, colon, password = base64.b64decode(encoded, validate=True).partition(b":")
        except (binascii.Error, ValueError):
            return Verdict.UNKNOWN
        # bcrypt reads 72 bytes and refuses more.
        if not colon or len(password) > 72 or b"\0" in password:
            return Verdict.UNKNOWN
        hashed = config.users.get(user.decode("utf-8", "replace"))
        # A password that was good stays good as long as its hash does: no second bcrypt per scrape.
        mark = hmac.digest(self._secret, b"\0".join((user, password, hashed or b"")), "sha256")
        if hashed is not None and mark in self._known:
            return Verdict.ALLOWED
        if self._waiting >= MAX_WAITING:
            return Verdict.BUSY
        self._waiting += 1
        return asyncio.ensure_future(self._ask_bcrypt(password, hashed, mark))

    async def _ask_bcrypt(self, password: bytes, hashed: bytes | None, mark: bytes) -> Verdict:
        try:
            loop = asyncio.get_running_loop()
            good = await loop.run_in_executor(self._bcrypt, bcrypt.checkpw, password, hashed or _NOBODY)
        finally:
            self._waiting -= 1
        if not good or hashed is None:
            return Verdict.UNKNOWN
        while len(self._known) >= MAX_KNOWN:
            del self._known[next(iter(self._known))]
        self._known[mark] = None
        return Verdict.ALLOWED

    def _signature(self) -> tuple[object, ...]:
        found = []
        for path in self._config.files:
            try:
                status = os.stat(path)
                found.append((status.st_mtime_ns, status.st_size, status.st_ino))
            except OSError as error:
                found.append((error.errno or 0, 0, 0))
        return tuple(found)

    def _reload(self, path: Path) -> None:
        try:
            config = load(path)
            if (config.tls is None) != (self._config.tls is None):
                raise WebConfigError(f"{path}: tls_server_config: cannot be switched on or off while it serves")
        except WebConfigError as error:
            if str(error) != self._wrong:
                self._wrong = str(error)
                log.warning("%s; what was read before stays in force", error)
            return
        self._config, self._wrong = config, ""
        self._seen = self._signature()
        log.info("%s and its files were read again", path)


def _digest(data: bytes) -> bytes:
    # Equal lengths, so that the comparison does not tell the token's.
    return hashlib.sha256(data).digest()


def _names(certificate: dict[str, Any] | None) -> set[str]:
    return {str(name) for _, name in (certificate or {}).get("subjectAltName", ())}

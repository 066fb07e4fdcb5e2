"""Keeps secrets out of what is shown: settings and error texts go to labels, journals and messages.

By the name of a setting (`hub_token`, `password`, `api_key`), and by the look of a value (a URL with a password, a
token of a known kind). It is a net, not a promise: what is given as text under a harmless name and looks like nothing
is shown.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping

from training_exporter.events import Event, OutOfMemory, RunEnded, RunStarted

HIDDEN = "[hidden]"

#: Last words of a name whose value is secret; `token` counts where the word before it says that it opens something.
_SECRET_WORDS = {
    "password", "passwd", "passphrase", "pwd", "secret", "secrets", "credential", "credentials", "apikey", "auth",
    "authorization", "cookie", "dsn", "webhook",
}  # fmt: skip
_KEYS = {"api", "access", "secret", "private", "account", "signing", "encryption", "ssh"}
_TOKENS = {"api", "access", "auth", "bearer", "hf", "hub", "huggingface", "github", "gitlab", "wandb", "slack", "bot",
           "session", "refresh", "id", "secret", "read", "write", "user", "ci", "deploy", "push"}  # fmt: skip
_ADDRESSES = {"url", "file", "path"}  # of a webhook, of a secret's file: judged by their value

_VALUES = re.compile(
    r"(?P<before>\b[a-z][a-z0-9+.-]{0,20}://)[^\s/@:]*:[^\s/@]*@"  # user:password@
    r"|(?P<query>[?&;](?:token|key|api_?key|secret|password|passwd|pwd|sig|signature|access_token|auth|credential"
    r"|x-amz-[a-z-]+)=)[^\s&#;\"']+"
    r"|(?P<header>\b(?:authorization|proxy-authorization|x-api-key)\b[\"']?\s*[:=]\s*[\"']?)(?:(?:bearer|basic|token)\s+)?"
    r"[^\s\"',;]+"
    r"|(?P<bearer>\b(?:bearer|basic)\s+)(?=[\w.~+/=-]*\d)[\w.~+/=-]{16,}"
    r"|(?P<named>\b(?:password|passwd|api_?key|secret|access_token|auth_token)\b[\"']?\s*[:=]\s*[\"']?)[^\s\"',;&]+"
    r"|(?P<hook>https://hooks\.slack\.com/)[^\s\"'>)]+"
    r"|\b(?:hf_|sk-|sk_live_|rk_live_|ghp_|gho_|ghs_|ghu_|github_pat_|glpat-|pypi-|npm_|xox[abeoprs]-)[\w-]{12,}"
    r"|\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"
    r"|\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*"  # a JSON web token
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)",
    re.IGNORECASE | re.DOTALL,
)


def hide(text: str) -> str:
    """`text` with whatever looks like a secret in it hidden."""
    return _VALUES.sub(_hidden, text)


def hide_settings(settings: Mapping[str, str]) -> dict[str, str]:
    """The settings, with the values hidden that their name or their look says are secret."""
    return {key: HIDDEN if value and is_secret(key) else hide(str(value)) for key, value in settings.items()}


def is_secret(name: str) -> bool:
    """Whether nobody should see a setting of this name: `hub_token` is one, `pad_token` and `max_tokens` are not."""
    words = [word.lower() for word in re.findall(r"[A-Z]?[a-z0-9]+|[A-Z]+(?![a-z])", name)]
    if not words or words[-1] in _ADDRESSES:
        return False
    last, before = words[-1], words[-2] if len(words) > 1 else ""
    if last == "key":
        return before in _KEYS
    if last == "token":
        return not before or before in _TOKENS
    return last in _SECRET_WORDS


def redacted(event: Event) -> Event:
    """The event with secrets hidden in its free texts."""
    if isinstance(event, RunStarted):
        return dataclasses.replace(event, settings=hide_settings(event.settings))
    if isinstance(event, RunEnded) and event.reason:
        return dataclasses.replace(event, reason=hide(event.reason))
    if isinstance(event, OutOfMemory) and event.message:
        return dataclasses.replace(event, message=hide(event.message))
    return event


def _hidden(match: re.Match[str]) -> str:
    kept = next((found for found in match.groupdict().values() if found), "")
    return f"{kept}{HIDDEN}@" if match["before"] else f"{kept}{HIDDEN}"

"""What is asked and what is answered over HTTP."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import parse_qs, urlsplit


@dataclass(frozen=True)
class Request:
    """A request. Names of headers are in small letters; the path is as it came, not decoded."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: bytes

    def arguments(self, name: str) -> list[str]:
        """The values of `name` in the query, without empty ones."""
        try:
            return parse_qs(self.query, max_num_fields=1000).get(name, [])
        except ValueError:  # more fields than anybody needs
            return []


@dataclass(frozen=True)
class Response:
    """An answer. For a HEAD the body is made all the same, and only its length is sent."""

    status: int
    body: bytes
    content_type: str = "text/plain; charset=utf-8"
    headers: tuple[tuple[str, str], ...] = ()


def text(status: int, body: str, *headers: tuple[str, str]) -> Response:
    return Response(status, body.encode(), headers=headers)


def target_of(target: str) -> tuple[str, str]:
    """(path, query) of a request's target. Raises ValueError for one that is neither a path nor a URL."""
    if target.startswith(("http://", "https://")):
        parts = urlsplit(target)
        return parts.path or "/", parts.query
    if not target.startswith("/") and target != "*":
        raise ValueError("neither a path nor a URL")
    path, _, query = target.partition("?")
    return path, query

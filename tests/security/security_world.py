"""What the security tests share: a certificate authority of their own, web configurations, a served page, raw HTTP."""

from __future__ import annotations

import contextlib
import socket
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import bcrypt
import trustme
import yaml
from prometheus_client import Metric

from training_exporter.sinks.collectors import registry_of
from training_exporter.sinks.server import MetricsApp, MetricsServer
from training_exporter.web.options import ServeOptions

USER, PASSWORD, TOKEN = "prometheus", "correct horse battery staple", "0123456789abcdef0123456789abcdef"


def hashed(password: str) -> str:
    """The cheapest hash: what is tested is not bcrypt."""
    return bcrypt.hashpw(password.encode(), bcrypt.gensalt(4)).decode()


@dataclass
class Keys:
    """An authority, a server's certificate and a client's, as files in `folder`."""

    folder: Path
    ca: trustme.CA = field(default_factory=trustme.CA)

    def __post_init__(self) -> None:
        self.folder.mkdir(exist_ok=True)
        self.ca.cert_pem.write_to_path(str(self.ca_file))
        self.issue("server", "127.0.0.1", "localhost")
        self.issue("client", "prometheus.example.org")

    @property
    def ca_file(self) -> Path:
        return self.folder / "ca.pem"

    def cert(self, name: str) -> Path:
        return self.folder / f"{name}.pem"

    def key(self, name: str) -> Path:
        return self.folder / f"{name}.key"

    def issue(self, name: str, *identities: str) -> None:
        """A new certificate and key under `name`, in the place of those before."""
        made = self.ca.issue_cert(*identities)
        made.private_key_pem.write_to_path(str(self.key(name)))
        self.cert(name).write_bytes(b"".join(blob.bytes() for blob in made.cert_chain_pems))

    def client_context(self, name: str | None = None) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self.ca_file)
        if name is not None:
            context.load_cert_chain(self.cert(name), self.key(name))
        return context

    def tls(self, **more: Any) -> dict[str, Any]:
        return {"cert_file": "server.pem", "key_file": "server.key", **more}

    def mutual(self, **more: Any) -> dict[str, Any]:
        return self.tls(client_ca_file="ca.pem", client_auth_type="RequireAndVerifyClientCert", **more)

    def config(self, content: object, name: str = "web.yml") -> Path:
        path = self.folder / name
        path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
        return path


def page() -> Iterator[Metric]:
    """A page of the size of a run's."""
    for number in range(80):
        metric = Metric(f"figure_{number}", f"Figure {number}.", "gauge")
        metric.add_sample(metric.name, {"run": 'a "run"\n\\ of nasty name'}, number / 7)
        yield metric


@contextlib.contextmanager
def serving(web_config: Path | None = None, **options: Any) -> Iterator[MetricsServer]:
    app = MetricsApp(registry_of([("page", page)]), lambda: "<title> & more")
    server = MetricsServer(app, ServeOptions(port=0, web_config=web_config, **options), 0)
    try:
        yield server
    finally:
        server.stop()


def get(url: str, context: ssl.SSLContext | None = None, **headers: str) -> tuple[int, str]:
    request = urllib.request.Request(url, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=10, context=context) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def raw(port: int, data: bytes, seconds: float = 5.0, half_close: bool = False) -> bytes:
    """All that comes back for `data` until the server closes or has been silent for `seconds`. With `half_close` the
    server hears at once that nothing more comes, and may go without a word."""
    with socket.create_connection(("127.0.0.1", port), timeout=seconds) as peer:
        with contextlib.suppress(OSError):
            peer.sendall(data)
            if half_close:
                peer.shutdown(socket.SHUT_WR)
        found = b""
        with contextlib.suppress(OSError):
            while received := peer.recv(65536):
                found += received
        return found

"""TLS, client certificates, passwords and tokens of `/metrics`, and their renewal under a running server."""

from __future__ import annotations

import base64
import os
import socket
import ssl
import threading
import time
import urllib.error
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from security_world import PASSWORD, TOKEN, USER, Keys, get, hashed, raw, serving

from training_exporter import WebConfigError
from training_exporter.web import access


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return Keys(tmp_path / "keys")


@pytest.fixture(autouse=True)
def looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access, "LOOK_SECONDS", 0.0)


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def refused(url: str, context: ssl.SSLContext | None = None) -> bool:
    try:
        get(url, context)
    except (urllib.error.URLError, ConnectionError, ssl.SSLError):
        return True
    return False


def test_tls(keys: Keys) -> None:
    with serving(keys.config({"tls_server_config": keys.tls()})) as server:
        assert server.url.startswith("https://127.0.0.1:")
        assert "figure_1" in get(server.url, keys.client_context())[1]
        with pytest.raises(urllib.error.URLError, match="certificate verify failed"):
            get(server.url, ssl.create_default_context())
        assert refused(server.url.replace("https", "http"))
        old = keys.client_context()
        with pytest.warns(DeprecationWarning, match="TLSv1_1"):
            old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
        assert refused(server.url, old)


def test_client_certificates(keys: Keys) -> None:
    stranger = Keys(keys.folder / "stranger")
    with serving(keys.config({"tls_server_config": keys.mutual()})) as server:
        assert get(server.url, keys.client_context("client"))[0] == 200
        assert refused(server.url, keys.client_context())
        assert refused(server.url.replace("/metrics", "/-/healthy"), keys.client_context()), "TLS holds for probes too"
        forged = keys.client_context()
        forged.load_cert_chain(stranger.cert("client"), stranger.key("client"))
        assert refused(server.url, forged)


def test_only_named_owners_of_certificates(keys: Keys) -> None:
    keys.issue("other", "other.example.org")
    config = {"tls_server_config": keys.mutual(client_allowed_sans=["prometheus.example.org"])}
    with serving(keys.config(config)) as server:
        assert get(server.url, keys.client_context("client"))[0] == 200
        assert get(server.url, keys.client_context("other")) == (403, "This certificate's owner may not.\n")


def test_passwords_and_token(keys: Keys) -> None:
    (keys.folder / "token").write_text(TOKEN + "\n")
    config = {"basic_auth_users": {USER: hashed(PASSWORD), "other": hashed("x")}, "bearer_token_file": "token"}
    with serving(keys.config(config)) as server:
        for path in ("/metrics", "/", "/nothing"):
            url = server.url.replace("/metrics", path)
            assert get(url)[0] == 401
        assert get(server.url.replace("/metrics", "/-/healthy")) == (200, "OK\n")
        answer = raw(server.port, b"GET /metrics HTTP/1.0\r\n\r\n")
        assert b'WWW-Authenticate: Basic realm="metrics"\r\nWWW-Authenticate: Bearer\r\n' in answer
        for good in (basic(USER, PASSWORD), basic(USER, PASSWORD), f"Bearer {TOKEN}", f"bearer  {TOKEN} "):
            assert get(server.url, Authorization=good)[0] == 200
        for wrong in (
            basic(USER, "x"),
            basic("other", PASSWORD),
            basic("nobody", PASSWORD),
            basic("", ""),
            basic(USER, "x" * 73),
            basic(USER, "\0"),
            "Basic",
            "Basic !",
            "Basic " + base64.b64encode(b"no colon").decode(),
            "Basic " + base64.b64encode(b"\xff\xfe:\xff").decode(),
            "Bearer",
            "Bearer ",
            f"Bearer {TOKEN}x",
            f"Bearer {TOKEN[:-1]}",
            "Digest x",
            TOKEN,
        ):
            assert get(server.url, Authorization=wrong)[0] == 401, wrong


def test_a_flood_of_wrong_passwords_keeps_nobody_out_who_was_in(keys: Keys) -> None:
    expensive = access.bcrypt.hashpw(PASSWORD.encode(), access.bcrypt.gensalt(10)).decode()
    with serving(keys.config({"basic_auth_users": {USER: expensive}})) as server:
        assert get(server.url, Authorization=basic(USER, PASSWORD))[0] == 200
        with ThreadPoolExecutor(16) as pool:
            wrong = [pool.submit(get, server.url, Authorization=basic(USER, str(number))) for number in range(40)]
            good = [get(server.url, Authorization=basic(USER, PASSWORD))[0] for _ in range(10)]
            codes = {each.result()[0] for each in wrong}
        assert good == [200] * 10
        assert codes <= {401, 503}
        assert 503 in codes, "no more than a few wait for bcrypt"


def test_renewed_certificates_and_passwords_need_no_restart(keys: Keys, caplog: pytest.LogCaptureFixture) -> None:
    config = {"tls_server_config": keys.tls(), "basic_auth_users": {USER: hashed("before")}}
    with serving(keys.config(config)) as server:

        def serial() -> object:
            with (
                socket.create_connection(("127.0.0.1", server.port)) as plain,
                keys.client_context().wrap_socket(plain, server_hostname="127.0.0.1") as peer,
            ):
                found = peer.getpeercert()
                assert found is not None
                return found["serialNumber"]

        before = serial()
        assert get(server.url, keys.client_context(), Authorization=basic(USER, "before"))[0] == 200
        # Half of a renewal, and then a broken file: what was valid before stays.
        key = keys.key("server").read_bytes()
        keys.issue("server", "127.0.0.1")
        new_key = keys.key("server").read_bytes()
        keys.key("server").write_bytes(key)
        assert serial() == before
        keys.config("basic_auth_users: {")
        assert get(server.url, keys.client_context(), Authorization=basic(USER, "before"))[0] == 200
        warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
        assert len(warnings) == 2, warnings
        assert all("what was read before stays in force" in warning for warning in warnings)
        # Both are whole again.
        keys.key("server").write_bytes(new_key)
        keys.config({**config, "basic_auth_users": {USER: hashed("after")}})
        assert serial() != before
        assert get(server.url, keys.client_context(), Authorization=basic(USER, "after"))[0] == 200
        assert get(server.url, keys.client_context(), Authorization=basic(USER, "before"))[0] == 401


def test_handshakes_that_never_end_keep_no_scrape_waiting(keys: Keys) -> None:
    with serving(keys.config({"tls_server_config": keys.mutual()})) as server:
        context = keys.client_context("client")
        peers = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(60)]
        try:
            # Nothing at all, half a record, half a client hello, and no TLS.
            hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + os.urandom(20)
            for number, peer in enumerate(peers):
                peer.sendall([b"", b"\x16\x03", hello, b"GET "][number % 4])
            threads = threading.active_count()
            seconds = []
            for _ in range(10):
                began = time.monotonic()
                assert get(server.url, context)[0] == 200
                seconds.append(time.monotonic() - began)
            assert max(seconds) < 5, "one stuck handshake alone would take the time-out"
            assert threading.active_count() <= threads
        finally:
            for peer in peers:
                peer.close()


def test_a_key_with_a_password_is_refused_without_asking_the_terminal(keys: Keys) -> None:
    from cryptography.hazmat.primitives import serialization

    key = serialization.load_pem_private_key(keys.key("server").read_bytes(), None)
    keys.key("server").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    with (
        pytest.raises(WebConfigError, match="the key has a password"),
        serving(keys.config({"tls_server_config": keys.tls()})),
    ):
        pass

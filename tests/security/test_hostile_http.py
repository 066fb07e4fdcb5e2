"""The real server under requests of every kind: it lives, stays small, and answers an honest scrape meanwhile."""

from __future__ import annotations

import contextlib
import random
import resource
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from security_world import get, raw, serving

from training_exporter.sinks.server import MetricsServer
from training_exporter.web.connection import MAX_HEADER_BYTES, REQUEST_SECONDS
from training_exporter.web.server import MAX_CONNECTIONS

FIGURES = 80


@pytest.fixture(scope="module")
def server() -> Iterator[MetricsServer]:
    with serving() as running:
        yield running


def scraped(server: MetricsServer) -> float:
    """Seconds of an honest scrape, whose page is whole."""
    began = time.monotonic()
    status, body = get(server.url)
    assert status == 200
    assert len([f for f in parse_text(body) if f.name.startswith("figure_")]) == FIGURES
    return time.monotonic() - began


@contextlib.contextmanager
def bounded(server: MetricsServer, megabytes: float = 20.0) -> Iterator[None]:
    """Neither threads nor memory grow, and afterwards the server answers as before."""
    scraped(server)
    threads, memory = threading.active_count(), psutil.Process().memory_info().rss
    yield
    scraped(server)
    assert threading.active_count() <= threads
    assert psutil.Process().memory_info().rss - memory < megabytes * 2**20


def peers(server: MetricsServer, count: int) -> Iterator[socket.socket]:
    for _ in range(count):
        yield socket.create_connection(("127.0.0.1", server.port), timeout=10)


def closed(peer: socket.socket) -> bool:
    peer.settimeout(0.0)
    try:
        return peer.recv(1) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


# -- one request at a time ------------------------------------------------------------------------------------------

TOKENS = st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters=":"), min_size=1, max_size=20)
LINES = st.binary(max_size=60)
REQUESTS = st.one_of(
    st.binary(max_size=400),
    st.builds(
        lambda method, path, version, headers, body: (
            f"{method} {path} {version}\r\n".encode("latin1", "replace")
            + b"".join(name.encode() + b": " + value + b"\r\n" for name, value in headers)
            + b"\r\n"
            + body
        ),
        st.sampled_from(["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "CONNECT", "get", "G E T", ""]),
        st.one_of(
            st.sampled_from(["/", "/metrics", "/metrics?name[]=figure_1", "/-/healthy", "*", "//", "/%00", "http://x/"]),
            st.text(st.characters(max_codepoint=255), max_size=60),
        ),
        st.sampled_from(["HTTP/1.1", "HTTP/1.0", "HTTP/9.9", "HTTP/1.1\x00", "", "SIP/2.0"]),
        st.lists(
            st.tuples(
                st.one_of(
                    st.sampled_from(
                        ["Content-Length", "Transfer-Encoding", "Connection", "Expect", "Host", "Accept",
                         "Accept-Encoding", "Authorization", "Content-Type", "Range", "Upgrade"]
                    ),
                    TOKENS,
                ),
                st.one_of(
                    LINES,
                    st.sampled_from(
                        [b"-1", b"99999999999999999999", b"0x10", b"1, 2", b"chunked", b"100-continue", b"close",
                         b"gzip;q=nan", b"*/*;q=9", b"application/openmetrics-text;version=99", b"Basic \xff",
                         b"application/x-www-form-urlencoded", b"multipart/form-data; boundary=" + b"a" * 80]
                    ),
                ),
            ),
            max_size=6,
        ),
        st.binary(max_size=200),
    ),
)  # fmt: skip


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(request=REQUESTS)
def test_no_request_is_answered_with_a_crash(server: MetricsServer, request: bytes) -> None:
    answer = raw(server.port, request, half_close=True)
    assert answer == b"" or answer.startswith(b"HTTP/1.1 ")
    assert b"HTTP/1.1 500" not in answer
    assert b"Traceback" not in answer
    assert server._server.thread.is_alive()


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", b"400"),
        (b"GET /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 1e3\r\n\r\n", b"400"),
        (b"GET /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", b"400"),
        (
            b"GET /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            b"400",
        ),
        (b"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\n", b"413"),
        (b"POST /metrics HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nfffffff\r\n" + 70_000 * b"a", b"413"),
        (b"PATCH /metrics HTTP/1.0\r\n\r\n", b"405"),
        (b"GET /metrics/../metrics HTTP/1.0\r\n\r\n", b"404"),
        (b"GET /%6detrics HTTP/1.0\r\n\r\n", b"404"),
    ],
)
def test_a_wrong_request_is_told_so(server: MetricsServer, request_: bytes, status: bytes) -> None:
    assert raw(server.port, request_).startswith(b"HTTP/1.1 " + status)


def test_headers_and_lines_beyond_the_limit_are_not_read(server: MetricsServer) -> None:
    with bounded(server):
        for request in (
            b"GET /" + b"a" * 4 * MAX_HEADER_BYTES,
            b"GET /metrics HTTP/1.1\r\nX: " + b"a" * 100 * MAX_HEADER_BYTES,
            b"GET /metrics HTTP/1.1\r\n" + b"X: a\r\n" * MAX_HEADER_BYTES,
        ):
            assert b"200 OK" not in raw(server.port, request)


def test_pipelined_requests_are_answered_in_order(server: MetricsServer) -> None:
    one = b"GET /-/healthy HTTP/1.1\r\nHost: x\r\n\r\nGET /nothing HTTP/1.1\r\nHost: x\r\n\r\n"
    answer = raw(server.port, one * 50 + b"GET / HTTP/1.0\r\n\r\n")
    assert answer.count(b"HTTP/1.1 200") == 51
    assert answer.count(b"HTTP/1.1 404") == 50


def test_a_head_has_the_length_and_no_page(server: MetricsServer) -> None:
    answer = raw(server.port, b"HEAD /metrics HTTP/1.1\r\nHost: x\r\n\r\n", seconds=0.5)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert body == b""
    assert b"Content-Length: " in head


# -- what is negotiated ---------------------------------------------------------------------------------------------


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    accept=st.one_of(
        st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=200),
        st.lists(
            st.sampled_from(
                ["text/plain", "application/openmetrics-text", "*/*", ";version=1.0.0", ";version=0.0.4", ";q=0.5",
                 ";q=x", ",", ";escaping=allow-utf-8", ";escaping=values", ";version=", "application/vnd"]
            ),
            max_size=8,
        ).map("".join),
    ),
    encoding=st.sampled_from(["gzip", "br;q=x", "", "identity;q=0", "*", "gzip" * 50]),
    names=st.lists(
        st.one_of(st.sampled_from(["figure_1", "figure_2", "nothing"]), st.text(max_size=20)), max_size=4
    ),
)  # fmt: skip
def test_whatever_is_asked_for_the_page_parses(
    server: MetricsServer, accept: str, encoding: str, names: list[str]
) -> None:
    from urllib.parse import urlencode
    from urllib.request import Request, urlopen

    query = urlencode([("name[]", name) for name in names], errors="replace")
    request = Request(f"{server.url}?{query}", headers={"Accept": accept, "Accept-Encoding": encoding})
    with urlopen(request, timeout=10) as answer:
        kind, body = answer.headers["Content-Type"], answer.read().decode()
        assert answer.headers.get("Content-Encoding", "identity") == "identity"
    parse = parse_openmetrics if kind.startswith("application/openmetrics-text") else parse_text
    found = {family.name for family in parse(body)}
    asked = {name for name in names if name}
    if asked:
        assert found == asked & {"figure_1", "figure_2"}
    else:
        assert len([name for name in found if name.startswith("figure_")]) == FIGURES


def test_the_page_passes_promtool(server: MetricsServer) -> None:
    for query in ("", "?name[]=figure_3"):
        page = get(server.url + query)[1]
        checked = subprocess.run(["promtool", "check", "metrics"], input=page, capture_output=True, text=True)
        assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


# -- many and slow --------------------------------------------------------------------------------------------------


def test_slow_and_silent_peers_cost_nobody_a_scrape(server: MetricsServer) -> None:
    """Slowloris: more peers than the server holds, each a byte at a time, some never a byte; honest scrapes between."""
    with bounded(server):
        held = list(peers(server, 80))
        try:
            seconds = []
            request = b"GET /metrics HTTP/1.1\r\nHost: x\r\nX-Slow: aaaaaaaaaaaaaaaa"
            for number in range(len(request)):
                for peer in held[::2]:
                    peer.sendall(request[number : number + 1])
                if number % 5 == 0:
                    seconds.append(scraped(server))
            assert max(seconds) < REQUEST_SECONDS / 5
            # A flood beyond the bound closes the oldest, not the newest.
            held += list(peers(server, 3 * MAX_CONNECTIONS))
            scraped(server)
            still = [peer for peer in held if not closed(peer)]
            assert len(still) <= MAX_CONNECTIONS
            assert not any(closed(peer) for peer in held[-10:])
        finally:
            for peer in held:
                peer.close()


def test_headers_that_never_end_are_cut_off_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training_exporter.web.connection.REQUEST_SECONDS", 0.5)
    with serving() as server:
        silent, dribbling = peers(server, 2)
        with contextlib.suppress(OSError):
            for _ in range(20):
                dribbling.sendall(b"GET")
                time.sleep(0.1)
        assert closed(silent)
        assert closed(dribbling), "each byte starts no new time"


def test_keep_alive_is_kept_and_a_flood_of_it_is_bounded(server: MetricsServer) -> None:
    with bounded(server):
        held = list(peers(server, 2 * MAX_CONNECTIONS))
        try:
            answered = 0
            for peer in held:
                with contextlib.suppress(OSError):
                    peer.sendall(b"GET /-/healthy HTTP/1.1\r\nHost: x\r\n\r\n")
                    answered += peer.recv(4096).startswith(b"HTTP/1.1 200")
            assert answered >= MAX_CONNECTIONS
            # A connection that is used stays, as that of Prometheus does.
            kept = held[-1]
            for _ in range(5):
                kept.sendall(b"GET /-/healthy HTTP/1.1\r\nHost: x\r\n\r\n")
                assert kept.recv(4096).startswith(b"HTTP/1.1 200")
        finally:
            for peer in held:
                peer.close()


def test_half_open_connections_and_resets(server: MetricsServer) -> None:
    with bounded(server):
        for number in range(300):
            with socket.create_connection(("127.0.0.1", server.port), timeout=5) as peer:
                if number % 3 == 0:
                    peer.sendall(b"GET /metrics HTTP/1.1\r\n")
                    peer.shutdown(socket.SHUT_WR)
                elif number % 3 == 1:
                    # Closed with a reset while the page is on its way.
                    peer.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
                    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    end = time.monotonic() + 5
    while time.monotonic() < end and len(open_here(server)) > 1:
        time.sleep(0.05)
    assert len(open_here(server)) <= 1


def open_here(server: MetricsServer) -> list[object]:
    return [
        connection
        for connection in psutil.Process().net_connections("tcp")
        if connection.laddr and connection.laddr.port == server.port and connection.status != psutil.CONN_LISTEN
    ]


def test_peers_that_do_not_read_their_pages(server: MetricsServer) -> None:
    with bounded(server, megabytes=60):
        held = list(peers(server, 60))
        try:
            for peer in held:
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                peer.setblocking(False)
                with contextlib.suppress(OSError):
                    peer.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n" * 500)
            assert max(scraped(server) for _ in range(5)) < REQUEST_SECONDS / 5
        finally:
            for peer in held:
                peer.close()


def test_two_hundred_scrapes_a_second(server: MetricsServer) -> None:
    """As many as the machine gives, from eight at once: each page is whole, and nothing grows."""
    with bounded(server), ThreadPoolExecutor(8) as pool:

        def figures(_: int) -> int:
            return get(server.url)[1].count("\nfigure_")

        assert set(pool.map(figures, range(1000))) == {FIGURES}
        pool.shutdown()


def test_junk_of_many_at_once_beside_honest_scrapes(server: MetricsServer) -> None:
    chance = random.Random(1)
    with bounded(server), ThreadPoolExecutor(8) as pool:
        junk = [chance.randbytes(chance.randrange(2000)) for _ in range(200)]
        junk += [b"GET /metrics HTTP/1.1\r\n" + chance.randbytes(500) + b"\r\n\r\n" for _ in range(200)]
        sent = [pool.submit(raw, server.port, each, half_close=True) for each in junk]
        assert max(scraped(server) for _ in range(20)) < REQUEST_SECONDS / 5
        assert all(each.result() == b"" or each.result().startswith(b"HTTP/1.1 400") for each in sent)
        pool.shutdown()


def test_no_more_sockets_than_the_process_may_have(monkeypatch: pytest.MonkeyPatch) -> None:
    """Out of file descriptors, a server must not spin or die: it answers again when there are some."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with serving() as server:
        scraped(server)
        fds = psutil.Process().num_fds()
        resource.setrlimit(resource.RLIMIT_NOFILE, (fds + 20, hard))
        held = []
        try:
            with contextlib.suppress(OSError):
                for _ in range(50):
                    held.append(socket.create_connection(("127.0.0.1", server.port), timeout=1))
            time.sleep(0.2)
        finally:
            for peer in held:
                peer.close()
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        scraped(server)


def test_a_body_in_countless_chunks_takes_no_time(server: MetricsServer) -> None:
    request = b"POST /metrics HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\na\r\n" * 200_000
    with bounded(server):
        assert raw(server.port, request).startswith(b"HTTP/1.1 413")

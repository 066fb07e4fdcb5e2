"""`.ci/audit` against a service that knows vulnerabilities (OSV's interface, made here), and where there is none."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

AUDIT = Path(__file__).resolve().parents[2] / ".ci" / "audit"
RANGE = {"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "1.1"}]}
FOUND = {
    "id": "GHSA-aaaa-bbbb-cccc",
    "aliases": ["CVE-2026-0001"],
    "summary": "Bad.",
    "published": "2026-01-01T00:00:00Z",
    "affected": [{"package": {"name": "badpackage", "ecosystem": "PyPI"}, "ranges": [RANGE]}],
}


class Osv(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        body = json.dumps({"vulns": [FOUND]} if asked["package"]["name"] == "badpackage" else {}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def service() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Osv)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def audit(tmp_path: Path, pins: str, excused: str, url: str, *more: str) -> tuple[int, str]:
    (tmp_path / "pins").write_text(pins)
    (tmp_path / "excused").write_text(excused)
    command = [sys.executable, str(AUDIT), *more, str(tmp_path / "pins"), str(tmp_path / "excused"), url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout + done.stderr


def test_a_known_vulnerability_fails(service: str, tmp_path: Path) -> None:
    code, said = audit(tmp_path, "# pins\nbadpackage==1.0\ngoodpackage==2.0+cpu\n", "", service)
    assert code == 1
    assert "badpackage 1.0: CVE-2026-0001 GHSA-aaaa-bbbb-cccc; fixed in: 1.1" in said
    assert "2 packages by osv: 1 known vulnerabilities that are not excused" in said
    code, said = audit(tmp_path, "goodpackage==2.0\n", "", service)
    assert code == 0
    assert "1 packages by osv: 0 known" in said


def test_it_is_excused_by_any_of_its_names_until_a_day(service: str, tmp_path: Path) -> None:
    pins = "badpackage==1.0\n"
    code, said = audit(tmp_path, pins, "# ours\nCVE-2026-0001 2999-01-01 never imported\n", service)
    assert code == 0, said
    code, said = audit(tmp_path, pins, "GHSA-aaaa-bbbb-cccc 2020-01-01 never imported\n", service)
    assert code == 1
    assert "excused only until 2020-01-01" in said
    code, said = audit(tmp_path, "goodpackage==1.0\n", "CVE-2026-0001 2999-01-01 never imported\n", service)
    assert code == 0
    assert "nothing pinned has it: remove it" in said


@pytest.mark.parametrize("line", ["CVE-1", "CVE-1 soon because", "CVE-1 2026-01-01"])
def test_an_excuse_needs_a_day_and_a_reason(line: str, service: str, tmp_path: Path) -> None:
    code, said = audit(tmp_path, "goodpackage==1.0\n", line + "\n", service)
    assert code == 1
    assert "line 1: found" in said
    assert "allowed: ID YYYY-MM-DD REASON" in said


def test_without_a_service_it_says_so_loudly(tmp_path: Path) -> None:
    code, said = audit(tmp_path, "goodpackage==1.0\n", "", "http://127.0.0.1:9/")
    assert code == 0
    assert "audit: NOT DONE" in said
    assert "the 1 pinned packages were not checked" in said
    assert audit(tmp_path, "goodpackage==1.0\n", "", "http://127.0.0.1:9/", "--strict")[0] == 1


def test_the_projects_own_excuses_can_be_read(service: str, tmp_path: Path) -> None:
    code, said = audit(tmp_path, "goodpackage==1.0\n", (AUDIT.parent / "vulnerabilities.txt").read_text(), service)
    assert code == 0, said

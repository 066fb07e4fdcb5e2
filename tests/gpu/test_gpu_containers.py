"""Container of a process: what /proc/<pid>/cgroup looks like, and Docker's real client against a socket."""

from __future__ import annotations

import json
import logging
import os
import socketserver
import threading
import time
from http.server import BaseHTTPRequestHandler

import pytest

from training_exporter.gpu.containers import ContainerNames, container_id

A = "4f797c539e6c745de61a93ca3ff892358ecbcaccd8414d5db545c38428142970"
B = "9ec39b91f3d70e1beff50a308f77067065ea6be0d91a3378375056cd4422cf3d"
POD = "kubepods-burstable-pod0f1d2c3b_4a59_6877_8695_a4b3c2d1e0f9"

CGROUPS = {
    "v1 docker, cgroupfs": (f"11:memory:/docker/{A}\n10:cpu,cpuacct:/docker/{A}\n1:name=systemd:/docker/{A}\n", A),
    "v1 docker, systemd": (f"9:memory:/system.slice/docker-{A}.scope\n1:name=systemd:/system.slice/docker", A),
    "v1, one controller only": (f"3:cpu:/\n2:memory:/docker/{A}\n0::/\n", A),
    "v1 bare id": (f"4:memory:/{A}\n", A),
    "v2 docker, systemd": (f"0::/system.slice/docker-{A}.scope\n", A),
    "v2 docker, cgroupfs": (f"0::/docker/{A}\n", A),
    "v2 docker rootless": (f"0::/user.slice/user-1000.slice/user@1000.service/user.slice/docker-{A}.scope\n", A),
    "v2 from another cgroup namespace": (f"0::/../docker-{A}.scope\n", A),
    "v2 from another cgroup namespace, cgroupfs": (f"0::/../{A}\n", A),
    "v2 child group in the container": (f"0::/system.slice/docker-{A}.scope/init\n", A),
    "Kubernetes, containerd, systemd": (f"0::/kubepods.slice/{POD}.slice/cri-containerd-{A}.scope", A),
    "Kubernetes, containerd, cgroupfs": (f"5:memory:/kubepods/pod0f1d2c3b-4a59-6877-8695-a4b3c2d1e0f9/{A}", A),
    "containerd, colons": (f"0::/system.slice/containerd.service/{POD}.slice:cri-containerd:{A}", A),
    "CRI-O": (f"0::/kubepods.slice/{POD}.slice/crio-{A}.scope", A),
    "nerdctl": (f"0::/system.slice/nerdctl-{A}.scope", A),
    "podman": (f"0::/machine.slice/libpod-{A}.scope/container\n", A),
    "podman rootless": (f"0::/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{A}.scope/container", A),
    "podman's conmon is no container": (f"0::/machine.slice/libpod-conmon-{A}.scope\n", None),
    "docker in docker: the outer one": (f"4:memory:/docker/{A}/docker/{B}\n", A),
    "no container": ("0::/user.slice/user-1000.slice/session-2.scope\n", None),
    "own container, private namespace": ("0::/\n", None),
    "systemd service": ("0::/system.slice/ssh.service\n", None),
    "digits that are no id": (f"0::/system.slice/docker-{A}0.scope\n0::/x{A}\n", None),
    "empty": ("", None),
    "torn": ("garbage\n::\n0:\n", None),
}  # fmt: skip


@pytest.mark.parametrize(("text", "identity"), CGROUPS.values(), ids=CGROUPS.keys())
def test_container_id(text, identity) -> None:
    assert container_id(text) == identity


@pytest.fixture
def docker(tmp_path, monkeypatch):
    """The part of Docker's API that is used, on a Unix socket; `.delay` makes it slow."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            time.sleep(server.delay)
            if self.path == "/version":
                status, body = 200, {"ApiVersion": "1.47", "MinAPIVersion": "1.24"}
            elif f"/containers/{A}/json" in self.path:
                status, body = 200, {"Id": A, "Name": "/trainer"}
            else:
                status, body = 404, {"message": "No such container"}
            data = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def address_string(self) -> str:
            return "unix"

        def log_message(self, *args) -> None:
            pass

    class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
        daemon_threads = True
        delay = 0.0

        def handle_error(self, *args) -> None:  # the client left
            pass

    server = Server(str(tmp_path / "docker.sock"), Handler)
    server.asked = asked
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/docker.sock")
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def proc(tmp_path):
    for pid, text in ((1, f"0::/docker/{A}"), (2, f"0::/docker/{A}"), (3, f"0::/docker/{B}"), (4, "0::/init.scope")):
        (tmp_path / str(pid)).mkdir()
        (tmp_path / str(pid) / "cgroup").write_text(text)
    return tmp_path


def test_names_come_from_docker_asked_once_per_container(docker, proc) -> None:
    names = ContainerNames(proc=proc)
    for _ in range(3):
        assert [names.name(pid) for pid in (1, 2, 3, 4, 5)] == ["trainer", "trainer", B[:12], "", ""]
    assert sum("/containers/" in path for path in docker.asked) == 2


def test_a_slow_docker_costs_one_time_out_then_is_left_alone(docker, proc, caplog) -> None:
    docker.delay = 1.0
    names = ContainerNames(proc=proc, timeout_seconds=0.1, retry_seconds=0.5)
    began = time.monotonic()
    assert [names.name(pid) for pid in (1, 2, 3)] == [A[:12], A[:12], B[:12]]
    assert time.monotonic() - began < 0.9
    assert len([r for r in caplog.records if r.levelno == logging.WARNING]) == 1
    docker.delay = 0.0
    time.sleep(0.5)
    names._timeout = 5.0
    assert names.name(1) == "trainer"


def test_without_docker_the_short_id_stands_for_the_name(proc, monkeypatch, tmp_path, caplog) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    names = ContainerNames(proc=proc)
    assert [names.name(1), names.name(3), names.name(4)] == [A[:12], B[:12], ""]
    assert len(caplog.records) == 1


def test_this_very_process_is_looked_up_without_an_error(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    with open("/proc/self/cgroup") as file:
        identity = container_id(file.read())
    assert ContainerNames().name(os.getpid()) == (identity or "")[:12]


def test_the_cache_is_bounded(tmp_path) -> None:
    class Api:
        def inspect_container(self, container: str) -> dict[str, str]:
            return {"Name": f"/c{int(container, 16)}"}

    names = ContainerNames(connect=lambda timeout: Api(), proc=tmp_path)
    for pid in range(1, 600):
        (tmp_path / str(pid)).mkdir()
        (tmp_path / str(pid) / "cgroup").write_text(f"0::/docker/{pid:064x}")
        assert names.name(pid) == f"c{pid}"
    assert len(names._names) == 512

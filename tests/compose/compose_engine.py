"""A Docker engine for the tests: the one that runs on this machine, or one of our own from Debian's `docker.io`.

Our own harms nothing here: it has its own socket and folders, adds no firewall rule, no default bridge and no
forwarding, and ends with the tests. Containers of one network reach each other all the same, published ports are
served by the engine's proxy, and builds use this machine's network. What it has built stays in CACHE, so that the next
time takes a third of it; `make clean` deletes it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import docker
from docker.errors import DockerException

from training_exporter.stack.servers import Stack

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "training-exporter" / "docker"
READY_SECONDS = 60.0
# What BuildKit keeps: a few builds of the trainer's image.
BUILD_CACHE = "10GB"


class NoEngine(Exception):
    """Why there is no engine."""


@dataclass(frozen=True)
class Engine:
    """A running engine. `host` is what DOCKER_HOST has to say; `own`: nobody but these tests uses it."""

    client: docker.DockerClient
    host: str
    own: bool


@contextlib.contextmanager
def running_engine() -> Iterator[Engine]:
    """Raises NoEngine where none runs and none can be started."""
    host = os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock"
    try:
        client = _connect(host)
    except DockerException as error:
        absent = error
    else:
        with contextlib.closing(client):
            yield Engine(client, host, own=False)
        return
    missing = [program for program in ("dockerd", "containerd", "runc", "iptables") if shutil.which(program) is None]
    if missing or os.geteuid() != 0:
        why = f"no {', '.join(missing)} on PATH" if missing else "that needs root"
        raise NoEngine(f"no Docker engine answers at {host} ({absent}), and none can be started: {why}")
    with _own_engine() as engine:
        yield engine


@contextlib.contextmanager
def _own_engine() -> Iterator[Engine]:
    CACHE.mkdir(parents=True, exist_ok=True)
    # A socket's path must be short, whatever the tests' folder is called.
    with (CACHE / "lock").open("w") as lock, tempfile.TemporaryDirectory(prefix="engine-") as folder:
        work, data = Path(folder), CACHE / "data"
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            data = work / "data"  # The tests of another checkout are at work.
        # Not this machine's /etc/docker/daemon.json.
        settings = work / "daemon.json"
        settings.write_text(json.dumps({"builder": {"gc": {"enabled": True, "defaultKeepStorage": BUILD_CACHE}}}))
        host = f"unix://{work / 'docker.sock'}"
        command = ["dockerd", "--config-file", settings, "--data-root", data, "--exec-root", work / "run"]
        command += ["--pidfile", work / "pid", "--host", host]
        command += ["--bridge=none", "--iptables=false", "--ip6tables=false", "--ip-forward=false"]
        with Stack(work / "logs", grace_seconds=30) as stack:
            child = stack.start("dockerd", command)
            end = time.monotonic() + READY_SECONDS
            while True:
                try:
                    client = _connect(host)
                    break
                except DockerException as error:
                    if not child.running or time.monotonic() > end:
                        raise NoEngine(f"dockerd does not start here ({error}):\n{child.log_tail(30)}") from None
                    time.sleep(0.2)
            with contextlib.closing(client):
                # What tests that were killed have left; the engine has started it again.
                for container in client.containers.list(all=True):
                    container.remove(force=True, v=True)
                client.networks.prune()
                for volume in client.volumes.list():
                    volume.remove(force=True)
                yield Engine(client, host, own=True)
                client.images.prune()
        # The engine leaves this machine's network namespace mounted.
        for mount in re.findall(rf"^\S+ ({re.escape(folder)}\S*)", Path("/proc/mounts").read_text(), re.M):
            subprocess.run(["umount", mount], check=True)


def _connect(host: str) -> docker.DockerClient:
    """Raises DockerException where no engine answers."""
    # It reads the engine's version at once. Uploading an image takes longer than the default minute on a slow disk.
    return docker.DockerClient(base_url=host, timeout=600)

"""Which container a process runs in: its id from /proc/<pid>/cgroup, its name from Docker."""

from __future__ import annotations

import logging
import re
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

log = logging.getLogger(__name__)

# A container id is 64 hex digits: alone in a path (cgroupfs driver, Kubernetes), or as <runtime>-<id>.scope (systemd),
# where the runtime is docker, cri-containerd, crio, libpod (podman) or nerdctl; some containerd paths have a colon.
_ID = re.compile(r"[/:-]([0-9a-f]{64})(?:\.scope)?(?=/|$)")
_MONITOR = re.compile(r"/(?:libpod|crio)-conmon-[0-9a-f]{64}")  # podman's watcher beside the container

_CACHE_SIZE = 512  # containers


def container_id(cgroup: str) -> str | None:
    """The container's id (64 hex digits) from the text of a /proc/<pid>/cgroup, None for a process outside of any.

    Knows cgroup v1 and v2, and the paths that Docker, containerd, CRI-O, nerdctl and podman make. In a container
    within a container it is the outer one: the one that this machine's Docker knows.
    """
    for line in cgroup.splitlines():
        path = line.split(":", 2)[-1]
        match = None if _MONITOR.search(path) else _ID.search(path)
        if match is not None:
            return match.group(1)
    return None


class DockerApi(Protocol):
    """The part of docker.APIClient that is used."""

    def inspect_container(self, container: str) -> dict[str, Any]: ...


def connect(timeout_seconds: float) -> DockerApi:
    """Docker, where DOCKER_HOST or the default socket has it. Raises docker's errors, or ImportError."""
    import docker

    api: DockerApi = docker.from_env(timeout=timeout_seconds).api
    return api


class ContainerNames:
    """pid -> name of its container. Not thread-safe; belongs to one reader.

    Docker is asked once per container; when it does not answer within `timeout_seconds`, it is left alone for
    `retry_seconds`. A container that Docker does not know (podman's, Kubernetes') has the first 12 digits of its id.
    """

    def __init__(
        self,
        *,
        connect: Callable[[float], DockerApi] = connect,
        proc: Path = Path("/proc"),
        timeout_seconds: float = 0.5,  # within a reading's own time-out, see bounded.py
        retry_seconds: float = 60.0,
    ) -> None:
        self._connect = connect
        self._proc = proc
        self._timeout = timeout_seconds
        self._retry = retry_seconds
        self._retry_at = float("-inf")
        self._api: DockerApi | None = None
        self._names: OrderedDict[str, str] = OrderedDict()

    def name(self, pid: int) -> str:
        """The container's name or short id; "" for a process outside of containers or one that is gone."""
        try:
            identity = container_id((self._proc / str(pid) / "cgroup").read_text(errors="replace"))
        except OSError:
            return ""
        if identity is None:
            return ""
        known = self._names.get(identity)
        if known is None:
            known = self._ask(identity)
            if known is None:
                return identity[:12]
            self._names[identity] = known
            if len(self._names) > _CACHE_SIZE:
                self._names.popitem(last=False)
        else:
            self._names.move_to_end(identity)
        return known

    def _ask(self, identity: str) -> str | None:
        """Docker's name for it (the short id if it has none), None when Docker cannot be asked now."""
        if time.monotonic() < self._retry_at:
            return None
        try:
            if self._api is None:
                self._api = self._connect(self._timeout)
            name = self._api.inspect_container(identity).get("Name")
        except Exception as error:  # docker, requests, urllib3 and paramiko each raise their own
            if type(error).__name__ == "NotFound":  # docker.errors, without importing it
                return identity[:12]
            self._api = None
            self._retry_at = time.monotonic() + self._retry
            problem = str(error) or type(error).__name__
            log.warning("Docker does not answer, containers go by their ids for %g s: %s", self._retry, problem)
            return None
        return str(name).strip("/")[:128] if name else identity[:12]

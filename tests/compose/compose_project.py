"""docker-compose.yml on an engine, as a project that collides with no other: own name, own images, free ports."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from compose_engine import Engine

from training_exporter.stack.messages import Message
from training_exporter.stack.query import Prometheus
from training_exporter.stack.servers import free_port

ROOT = Path(__file__).resolve().parents[2]
#: All that `docker compose up` starts, but Grafana: its image can neither be pulled everywhere nor be made of Debian's.
SERVICES = ("trainer", "prometheus", "alertmanager", "inbox")
PORTS = ("PROMETHEUS_PORT", "ALERTMANAGER_PORT", "INBOX_PORT", "TRAINER_PORT", "GRAFANA_PORT")
# A build that fetches PyTorch with CUDA is the longest.
TIMEOUT_SECONDS = 1200
PATIENCE_SECONDS = 240.0


@dataclass
class Project:
    """One Compose project. `command` starts Compose; `settings` are what a user writes into .env."""

    engine: Engine
    command: list[str]
    work: Path
    name: str = field(default_factory=lambda: f"training-exporter-test-{uuid.uuid4().hex[:8]}")
    settings: dict[str, str] = field(default_factory=dict)
    files: list[Path] = field(default_factory=lambda: [ROOT / "docker-compose.yml"])
    #: What holds for the build only: where its packages come from.
    build_settings: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        taken: list[int] = []
        for port in PORTS:
            taken.append(free_port(0, taken=taken))
            self.settings[port] = str(taken[-1])
        # Images of our own name, so that those of the engine's owner stay; and this machine's network for the builds,
        # as the engine may have no other.
        services = {
            name: {"image": f"{self.name}/{service['image']}", "build": {"network": "host"}}
            for name, service in self.config()["services"].items()
            if "build" in service
        }
        override = self.work / "override.json"
        override.write_text(json.dumps({"services": services}))
        self.files.append(override)

    # -- Compose -------------------------------------------------------------------------------------------------------

    def run(self, *arguments: str, check: bool = True, **settings: str) -> subprocess.CompletedProcess[str]:
        """`docker compose ARGUMENTS`, from the checkout. `settings` hold for this call only."""
        files = [option for file in self.files for option in ("--file", str(file))]
        done = subprocess.run(
            [*self.command, "--project-name", self.name, "--env-file", os.devnull, *files, *arguments],
            cwd=ROOT,
            env={
                "PATH": os.environ["PATH"],
                "HOME": os.environ.get("HOME", "/"),
                "DOCKER_HOST": self.engine.host,
                **self.settings,
                **settings,
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_SECONDS,
        )
        if check and done.returncode != 0:
            raise AssertionError(f"docker compose {' '.join(arguments)}: {done.stderr}{done.stdout}\n{self.logs()}")
        return done

    def config(self) -> dict[str, Any]:
        read: dict[str, Any] = json.loads(self.run("--profile", "*", "config", "--format", "json").stdout)
        return read

    def build(self) -> None:
        self.run("build", "config", "inbox", "trainer", **self.build_settings)

    def up(self, **settings: str) -> None:
        """`docker compose up --detach`: returns when all containers have been started, in their order."""
        self.run("up", "--detach", *SERVICES, **settings)

    def logs(self, *services: str) -> str:
        """The end of what the containers have said."""
        done = self.run("logs", "--no-color", "--tail", "25", *services, check=False)
        return done.stdout + done.stderr

    # -- what there is -------------------------------------------------------------------------------------------------

    def container(self, service: str) -> Any:
        found = [each for each in self.containers() if each.labels["com.docker.compose.service"] == service]
        assert len(found) == 1, (service, found, self.logs())
        return found[0]

    def containers(self) -> list[Any]:
        return list(self.engine.client.containers.list(all=True, filters=self._ours))

    def networks(self) -> list[Any]:
        return list(self.engine.client.networks.list(filters=self._ours))

    def volumes(self) -> set[str]:
        """Their names in docker-compose.yml."""
        found = self.engine.client.volumes.list(filters=self._ours)
        return {volume.name.removeprefix(f"{self.name}_") for volume in found}

    @property
    def _ours(self) -> dict[str, str]:
        return {"label": f"com.docker.compose.project={self.name}"}

    def inside(self, service: str, *command: str) -> str:
        """Output of a command in the service's container."""
        status, output = self.container(service).exec_run(list(command))
        assert status == 0, output.decode()
        text: str = output.decode()
        return text

    def health(self) -> dict[str, str]:
        """Service -> `healthy`, `starting`, `unhealthy`; of one without a check, the container's state."""
        states = {each.labels["com.docker.compose.service"]: each.attrs["State"] for each in self.containers()}
        return {name: state.get("Health", {}).get("Status", state["Status"]) for name, state in states.items()}

    # -- what a user sees ----------------------------------------------------------------------------------------------

    def url(self, service: str) -> str:
        return f"http://127.0.0.1:{self.settings[service.upper() + '_PORT']}"

    @property
    def prometheus(self) -> Prometheus:
        return Prometheus(self.url("prometheus"))

    def value(self, expression: str) -> float | None:
        """The one series' value, None where there is none."""
        found = self.prometheus.query(expression)
        assert len(found) <= 1, found
        return found[0][1] if found else None

    def messages(self) -> list[Message]:
        """What the inbox has kept, oldest first."""
        status, output = self.container("inbox").exec_run(["cat", "/data/messages.jsonl"])
        # No file before the first message.
        return [Message(**json.loads(line)) for line in output.splitlines()] if status == 0 else []

    def told(self, alert: str, run: str) -> set[str]:
        """The channels on which a message spoke of that alert of that run."""
        return {m.channel for m in self.messages() if f"/runbooks/{alert}" in m.text and run in m.text}

    def wait(self, what: str, done: Callable[[], object], seconds: float = PATIENCE_SECONDS) -> None:
        """Until `done`. Fails with what was waited for and what the containers have said."""
        end = time.monotonic() + seconds
        while not done():
            if time.monotonic() > end:
                raise AssertionError(f"after {seconds:g} s not yet: {what}\n{self.health()}\n{self.logs()}")
            time.sleep(1)


def cpu_torch() -> Path | None:
    """PyTorch's CPU build, of the version that the tests pass with, from a folder of wheels that pip is told of."""
    listed = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True).stdout
    version = re.search(r"^torch==(.+)$", (ROOT / ".ci" / "constraints.txt").read_text(), re.M)
    assert version is not None
    # The images' Python is 3.11.
    name = f"torch-{version[1]}+cpu-cp311-cp311-*_{os.uname().machine}.whl"
    folders = sorted(set(re.findall(r"find-links='(.*)'", listed)))
    return next((wheel for folder in folders for wheel in sorted(Path(folder).glob(name))), None)

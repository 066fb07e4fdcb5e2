"""The engine, the base images, and one Compose project for all tests here. Where they cannot be had the tests skip, and
fail where CI is set: CI must not come to skip them unseen."""

from __future__ import annotations

import contextlib
import functools
import http.server
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from compose_engine import Engine, NoEngine, running_engine
from compose_images import NoBaseImage, base_images
from compose_project import Project, cpu_torch

BUILD_SETTINGS = ("TORCH_REQUIREMENT", "PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL")


def skip(reason: str) -> None:
    (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    with contextlib.ExitStack() as stack:
        try:
            running = stack.enter_context(running_engine())
        except NoEngine as error:
            skip(str(error))
        yield running


@pytest.fixture(scope="session")
def project(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """With all images built, and nothing started. Whatever is left of it in the end is removed."""
    commands = (["docker", "compose"], ["docker-compose"])
    found = [
        each
        for each in commands
        if shutil.which(each[0]) and subprocess.run([*each, "version"], capture_output=True).returncode == 0
    ]
    if not found:
        skip("no Docker Compose: neither `docker compose` nor `docker-compose`")
    made = Project(engine, found[0], tmp_path_factory.mktemp("compose"))
    services = made.config()["services"]
    with contextlib.ExitStack() as stack:
        try:
            upstream = [services[server]["image"] for server in ("prometheus", "alertmanager")]
            stand_ins = stack.enter_context(base_images(engine, upstream))
        except NoBaseImage as error:
            skip(str(error))
        if stand_ins:
            print(f"Stand-ins for: {', '.join(stand_ins)}")
        made.build_settings |= {each: os.environ[each] for each in BUILD_SETTINGS if each in os.environ}
        if "TORCH_REQUIREMENT" not in os.environ and (wheel := cpu_torch()):
            index = stack.enter_context(index_of(wheel, made.work / "index" / "torch"))
            made.build_settings |= {
                "TORCH_REQUIREMENT": "==".join(wheel.name.split("-")[:2]),
                "PIP_EXTRA_INDEX_URL": f"{index} {os.environ.get('PIP_EXTRA_INDEX_URL', '')}".strip(),
            }
        stack.callback(remove, made)
        made.build()
        yield made


def remove(project: Project) -> None:
    project.run("down", "--volumes", "--timeout", "1", check=False)
    for image in project.engine.client.images.list(filters={"reference": f"{project.name}/*"}):
        project.engine.client.images.remove(image.id, force=True)


@contextlib.contextmanager
def index_of(wheel: Path, folder: Path) -> Iterator[str]:
    """A package index on this machine with that wheel only. Yields its address."""
    folder.mkdir(parents=True)
    (folder / wheel.name).symlink_to(wheel)
    handler = functools.partial(QuietHandler, directory=str(folder.parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass

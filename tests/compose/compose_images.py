"""The images that ours and docker-compose.yml build on, also where no registry can be reached.

There each gets a stand-in under its own name: Debian with its own Python, and on it Debian's builds of Prometheus and
Alertmanager. They have the programs, paths and users that our files count on, and nothing else of the real ones.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

from compose_engine import Engine
from docker.errors import DockerException, ImageNotFound

ROOT = Path(__file__).resolve().parents[2]
PROMETHEUS_3 = Path(sys.prefix) / "prometheus-3"
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# Repository of a server's image -> its programs there, each with the names that it may have here.
SERVERS = {
    "prom/prometheus": {"prometheus": ["prometheus"], "promtool": ["promtool"]},
    "prom/alertmanager": {"alertmanager": ["prometheus-alertmanager", "alertmanager"], "amtool": ["amtool"]},
}
# Debian's Alertmanager does not start without its templates; the real one has them inside.
TEMPLATES = "/usr/share/prometheus/alertmanager"


# Of this file: a stand-in that an earlier version of it made is made anew.
VERSION = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:12]


class NoBaseImage(Exception):
    """Why a base image can neither be pulled nor made."""


@contextlib.contextmanager
def base_images(engine: Engine, servers: list[str]) -> Iterator[list[str]]:
    """Sees to it that the Dockerfiles' base image and those of `servers` are there. Yields the stand-ins among them.

    An engine that others use is left without them. Raises NoBaseImage.
    """
    files = (ROOT / "exporter" / "Dockerfile", ROOT / "trainer" / "Dockerfile")
    (python,) = {each for file in files for each in re.findall(r"^FROM (\S+:\S+)", file.read_text(), re.M)}
    made: list[str] = []
    try:
        for image in (python, *servers):
            if not _is_there(engine, image):
                made.append(image)
                _make_python(engine, image) if image == python else _make_server(engine, image, python)
        yield [image for image in (python, *servers) if _is_stand_in(engine, image)]
    finally:
        for image in made if not engine.own else ():
            with contextlib.suppress(DockerException):
                engine.client.images.remove(image, force=True)


def _is_there(engine: Engine, image: str) -> bool:
    """Pulls it where that is possible."""
    with contextlib.suppress(ImageNotFound):
        return engine.client.images.get(image).labels.get("stand-in", VERSION) == VERSION
    try:
        engine.client.images.pull(*image.split(":"))
    except DockerException:
        return False
    return True


def _is_stand_in(engine: Engine, image: str) -> bool:
    return "stand-in" in engine.client.images.get(image).labels


def _make_python(engine: Engine, image: str) -> None:
    """Debian of the suite in the tag, with `python`, `pip` and this machine's certificates, for the package index."""
    if shutil.which("mmdebstrap") is None:
        raise NoBaseImage(f"{image} can be neither pulled nor made: no mmdebstrap on PATH")
    suite = image.rpartition("-")[2]
    # The mirror that this machine's own packages come from.
    lists = [Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("debian.*"))]
    sources = "\n".join(path.read_text() for path in lists if path.exists())
    mirrors = re.findall(r"^(?:URIs:|deb(?: \[.*\])?) +(\S+)", sources, re.M)
    if not mirrors:
        raise NoBaseImage(f"{image} can be neither pulled nor made: no Debian mirror in apt's sources")
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "python.tar"
        settings = Path(folder) / "pip.conf"
        settings.write_text("[global]\n" + (f"cert = {CERTIFICATES}\n" if CERTIFICATES.exists() else ""))
        command = ["mmdebstrap", "--variant=minbase", "--include=python3,python3-pip,python-is-python3"]
        command += ["--dpkgopt=force-unsafe-io", '--aptopt=Acquire::Languages "none"']
        command += [f"--dpkgopt=path-exclude=/usr/share/{each}/*" for each in ("doc", "locale", "man")]
        command += [f"--customize-hook=copy-in {settings} /etc"]
        if CERTIFICATES.exists():
            command += [f'--customize-hook=mkdir -p "$1{CERTIFICATES.parent}"']
            command += [f"--customize-hook=copy-in {CERTIFICATES} {CERTIFICATES.parent}"]
        done = subprocess.run([*command, suite, tree, mirrors[0]], capture_output=True, text=True)
        if done.returncode != 0:
            raise NoBaseImage(f"{image} can be neither pulled nor made: mmdebstrap:\n{done.stderr[-2000:]}")
        repository, tag = image.split(":")
        changes = [f"ENV PATH={PATH}", f"LABEL stand-in={VERSION}"]
        engine.client.api.import_image_from_file(str(tree), repository=repository, tag=tag, changes=changes)


def _make_server(engine: Engine, image: str, base: str) -> None:
    repository = image.split(":")[0]
    programs = SERVERS[repository]
    main = repository.split("/")[1]
    lines = [f"FROM {base}", f"RUN install -d -o 65534 -g 65534 /{main}", f"COPY {' '.join(programs)} /bin/"]
    context = io.BytesIO()
    with tarfile.open(fileobj=context, mode="w") as tar:
        for program, names in programs.items():
            found = [shutil.which(name, path=f"{PROMETHEUS_3}:{PATH}") for name in names]
            path = next((path for path in found if path), None)
            if path is None:
                raise NoBaseImage(f"{image} can be neither pulled nor made: no {' or '.join(names)} on this machine")
            tar.add(path, arcname=program)
        if main == "alertmanager":
            templates = sorted(PROMETHEUS_3.glob("*.tmpl")) or sorted(Path(TEMPLATES).glob("*.tmpl"))
            for template in templates:
                tar.add(template, arcname=template.name)
            lines.append(f"COPY {' '.join(template.name for template in templates)} {TEMPLATES}/")
        lines += ["USER 65534:65534", f"WORKDIR /{main}", f'ENTRYPOINT ["/bin/{main}"]']
        dockerfile = "\n".join(lines).encode()
        entry = tarfile.TarInfo("Dockerfile")
        entry.size = len(dockerfile)
        tar.addfile(entry, io.BytesIO(dockerfile))
    context.seek(0)
    engine.client.images.build(fileobj=context, custom_context=True, tag=image, network_mode="host", forcerm=True)

"""Find the servers' programs on PATH, and install the missing ones from Debian's packages where that is possible."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from training_exporter.stack.errors import StackError

POLICY_RC_D = Path("/usr/sbin/policy-rc.d")


@dataclass(frozen=True)
class Program:
    """One program of the stack: the names it goes by, and Debian's package that holds it (None: not in Debian)."""

    name: str
    candidates: tuple[str, ...]
    debian_package: str | None

    def find(self) -> Path | None:
        """The program's path, or None where PATH does not have it."""
        for candidate in self.candidates:
            found = shutil.which(candidate)
            if found:
                return Path(found)
        return None


# Debian renames alertmanager, which would clash with another package's name.
PROMETHEUS = Program("prometheus", ("prometheus",), "prometheus")
PROMTOOL = Program("promtool", ("promtool",), "prometheus")
ALERTMANAGER = Program("alertmanager", ("alertmanager", "prometheus-alertmanager"), "prometheus-alertmanager")
AMTOOL = Program("amtool", ("amtool",), "prometheus-alertmanager")
# Grafana 13 dropped `grafana-server` for `grafana server`; `launch.start_grafana` knows both.
GRAFANA = Program("grafana", ("grafana-server", "grafana"), None)


def require(programs: Sequence[Program], log: Callable[[str], None] | None = None) -> dict[str, Path]:
    """The paths of `programs` by name; missing ones are installed where possible.

    Installing needs root and Debian's `apt-get`; `log` gets one line before it starts (None: never install).
    Raises StackError, which says how to get the programs, where one stays missing.
    """
    missing = [program for program in programs if program.find() is None]
    if missing and log is not None and can_install(missing):
        packages = sorted({program.debian_package for program in missing if program.debian_package})
        log(f"Installing Debian's packages: {' '.join(packages)} (their services are not started)")
        install(packages)
    return {program.name: _found(program) for program in programs}


def can_install(programs: Sequence[Program]) -> bool:
    """Whether all of `programs` are packages of this machine's Debian and this user may install them."""
    return (
        os.geteuid() == 0
        and shutil.which("apt-get") is not None
        and all(program.debian_package is not None for program in programs)
    )


def install(packages: Sequence[str]) -> None:
    """Install Debian `packages`; their services do not run. Raises StackError with apt's last lines."""
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    with _no_services():
        for command in (
            ["apt-get", "update", "-qq"],
            ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *packages],
        ):
            done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True)
            # `update` may fail for one unreachable third-party source while Debian's own lists are fine.
            if done.returncode != 0 and command[1] == "install":
                tail = "\n".join((done.stdout + done.stderr).strip().splitlines()[-10:])
                raise StackError(f"apt-get could not install {' '.join(packages)}:\n{tail}")
    _disable_services(packages)


def _found(program: Program) -> Path:
    path = program.find()
    if path is None:
        package = program.debian_package
        how = f"on Debian or Ubuntu `sudo apt-get install --no-install-recommends {package}`, or " if package else ""
        raise StackError(
            f"{program.name} is not on PATH (looked for: {', '.join(program.candidates)}): {how}"
            "unpack the project's own release and put its folder on PATH"
        )
    return path


@contextlib.contextmanager
def _no_services() -> Iterator[None]:
    """Tell Debian's package scripts to start no service: the demo starts its own servers with its own files."""
    if POLICY_RC_D.exists():  # The machine's owner has a policy already: leave it.
        yield
        return
    POLICY_RC_D.write_text("#!/bin/sh\nexit 101\n")
    POLICY_RC_D.chmod(0o755)
    try:
        yield
    finally:
        POLICY_RC_D.unlink(missing_ok=True)


def _disable_services(packages: Sequence[str]) -> None:
    """The packages enable their services for the next boot; nobody asked for that."""
    if shutil.which("systemctl") is None:
        return
    listed = subprocess.run(["dpkg", "-L", *packages], capture_output=True, text=True, check=False).stdout
    units = re.findall(r"/systemd/system/([^/\n]+\.(?:service|socket))$", listed, re.M)
    subprocess.run(["systemctl", "disable", "--now", *units], capture_output=True, check=False)

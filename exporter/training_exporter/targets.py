"""Tells Prometheus where an exporter listens, through a file for its file-based service discovery (`file_sd`).

Runs come and go, and a port that was taken becomes the next free one: so the exporter itself states its address when
it starts to serve, and takes it back when it ends in good order. After a kill -9 the file stays, and `up` turns 0.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from pathlib import Path

from training_exporter.labels import digest

#: Directory that Prometheus watches, and the host name under which Prometheus reaches this process.
TARGETS_DIR_VARIABLE = "TRAINING_EXPORTER_TARGETS_DIR"
ADVERTISE_VARIABLE = "TRAINING_EXPORTER_ADVERTISE"


def target_file(directory: Path, name: str) -> Path:
    """The file for `name`: its safe characters, and a digest where it has others or is long."""
    safe = re.sub(r"[^A-Za-z0-9._-]", "_", name)[:80].lstrip(".") or "unnamed"
    if safe != name:
        safe = f"{safe}-{digest(name)}"
    return directory / f"{safe}.json"


class TargetRegistration:
    """Announces `host:port` while it is open. Errors are the caller's: OSError from `open`."""

    def __init__(self, directory: Path, name: str, host: str, port: int, scheme: str = "http") -> None:
        self.path = target_file(directory, name)
        host = os.environ.get(ADVERTISE_VARIABLE) or ("127.0.0.1" if host in {"0.0.0.0", "::", ""} else host)
        self.address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        # Prometheus takes the scheme from the job where the target does not say it.
        self._labels = {"labels": {"__scheme__": scheme}} if scheme != "http" else {}

    def open(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # Written beside and renamed, so that Prometheus never reads half a file; it reads *.json only.
        partial = self.path.with_suffix(f".{os.getpid()}.tmp")
        partial.write_text(json.dumps([{"targets": [self.address], **self._labels}]) + "\n", encoding="utf-8")
        partial.replace(self.path)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.path.unlink(missing_ok=True)


def targets_dir(given: str | os.PathLike[str] | None) -> Path | None:
    """The directory that was given, else the environment's, else None."""
    value = given or os.environ.get(TARGETS_DIR_VARIABLE)
    return Path(value) if value else None

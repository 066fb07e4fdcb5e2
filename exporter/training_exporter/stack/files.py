"""Where the stack's own files are: in the checkout this package runs from, or in the installed wheel."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from training_exporter.stack.errors import StackError

Folder = Literal["alerts", "prometheus", "grafana"]

_PACKAGE = Path(__file__).resolve().parent.parent


def root() -> Path:
    """The folder that holds `alerts/`, `prometheus/` and `grafana/`.

    An editable installation runs from the checkout; a wheel carries copies as package data. Raises StackError where
    neither is there, which means a broken installation.
    """
    checkout = _PACKAGE.parent.parent
    for candidate in (_PACKAGE / "_stack", checkout):
        if (candidate / "prometheus" / "prometheus.yml").is_file():
            return candidate
    raise StackError(
        f"no prometheus/prometheus.yml in {_PACKAGE / '_stack'} or {checkout}: install training-exporter again, "
        "or run it from a checkout"
    )


def folder(name: Folder) -> Path:
    """One of the stack's folders. Raises StackError as `root` does."""
    return root() / name

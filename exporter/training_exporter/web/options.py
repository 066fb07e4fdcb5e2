"""How something is served: the options of every command that has `/metrics`, and of `Monitor`."""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training_exporter.targets import TARGETS_DIR_VARIABLE

#: The web configuration file, where no option names one.
WEB_CONFIG_VARIABLE = "TRAINING_EXPORTER_WEB_CONFIG"


@dataclass(frozen=True)
class ServeOptions:
    """Where a server listens and whom it answers.

    `port` None: the usual one or the next that is free; 0: any. `web_config` is a file with TLS and passwords, in the
    format of Prometheus' exporters (default: what TRAINING_EXPORTER_WEB_CONFIG names, else none). `targets_dir` is the
    directory in which it announces itself to Prometheus (default: TRAINING_EXPORTER_TARGETS_DIR, else nowhere).
    """

    host: str = "127.0.0.1"
    port: int | None = None
    web_config: str | os.PathLike[str] | None = None
    targets_dir: str | os.PathLike[str] | None = None

    @property
    def web_config_path(self) -> Path | None:
        value = self.web_config or os.environ.get(WEB_CONFIG_VARIABLE)
        return Path(value) if value else None


def add_arguments(parser: argparse.ArgumentParser, preferred_port: int) -> None:
    """The options of a command that serves; `from_arguments` reads them."""
    add: Any = parser.add_argument
    add("--host", default=ServeOptions.host, help="address to listen on (default: %(default)s)")
    add("--port", type=_port, help=f"port to listen on; without it {preferred_port} or the next free one")
    add(
        "--web.config.file", dest="web_config", type=Path, metavar="FILE",
        help=f"TLS and passwords, in the format of Prometheus' exporters (default: ${WEB_CONFIG_VARIABLE})",
    )  # fmt: skip
    add(
        "--targets-dir", type=Path, metavar="DIR",
        help=f"announce the address to Prometheus in this directory (default: ${TARGETS_DIR_VARIABLE})",
    )  # fmt: skip


def _port(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and int(text) <= 65535):
        raise argparse.ArgumentTypeError(f"found {text!r}, allowed: a port from 0 (any) to 65535")
    return int(text)


def from_arguments(arguments: argparse.Namespace) -> ServeOptions:
    return ServeOptions(arguments.host, arguments.port, arguments.web_config, arguments.targets_dir)

"""The command `training-exporter`."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from importlib import import_module

from training_exporter._version import __version__

#: Modules with `add_parser(subparsers)`; each sets the function `run(args) -> int` on its parser.
COMMANDS = (
    "training_exporter.supervise.cli",
    "training_exporter.gpu.cli",
    "training_exporter.stack.inbox",
    "training_exporter.stack.config",
    "training_exporter.backtest.cli",
    "training_exporter.backtest.backfill",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code (2 for bad input)."""
    parser = argparse.ArgumentParser(prog="training-exporter", description="Watches LLM fine-tunings.")
    parser.add_argument("--version", action="version", version=__version__)
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name in COMMANDS:
        import_module(name).add_parser(subparsers)
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    try:
        code: int = args.run(args)
    except KeyboardInterrupt:
        code = 130
    return code


if __name__ == "__main__":
    sys.exit(main())

"""What the subcommands have in common: arguments, and how they say that something is wrong."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable

#: Exit status for input that a person can correct.
BAD_INPUT = 2
_MOST_SECONDS = 86_400


def fail(command: str, message: str, status: int = BAD_INPUT) -> int:
    """Say in one line what is wrong; the exit status."""
    print(f"training-exporter {command}: {message}", file=sys.stderr)
    return status


def seconds(least: float, *, above: bool = False) -> Callable[[str], float]:
    """An argparse type: a number of seconds from `least` (`above`: more than it) to a day."""
    allowed = f"above {least:g}, at most" if above else f"from {least:g} to"

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not least <= value <= _MOST_SECONDS or (above and value == least):
            raise argparse.ArgumentTypeError(f"found {text!r}, allowed: a number of seconds {allowed} {_MOST_SECONDS}")
        return value

    return parse

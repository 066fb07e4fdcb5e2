"""Errors that more than one part has to know, and how they show what was found."""

from __future__ import annotations

import reprlib


class SourceUnavailable(Exception):
    """A source has nothing to give at present and has itself said why; no traceback is of use to anybody."""


class _Short(reprlib.Repr):
    """`repr`, but of bounded length and cost: a few lines of YAML or JSON can stand for gigabytes."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel = self.maxdict = self.maxlist = self.maxtuple = 3
        self.maxstring = self.maxother = 60

    def repr_int(self, x: int, level: int) -> str:
        return repr(x) if abs(x) < 10**18 else "an integer of many digits"

    def repr_instance(self, x: object, level: int) -> str:
        # What is foreign may be large to print, or lie on a device.
        return super().repr_instance(x, level) if type(x).__module__ == "builtins" else f"<{type(x).__name__}>"


_short = _Short()


def shown(value: object) -> str:
    """A short form of a value that was found in a file or in a call, on one line."""
    return "nothing" if value is None else _short.repr(value)

"""Reading a YAML file that somebody wrote by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

#: Bytes of a file: what is longer was not written by hand.
MAX_BYTES = 1 << 20


class YamlFileError(ValueError):
    """A file that is no YAML: one line with the file, the line where it is known, and what is wrong."""


def load(path: Path) -> Any:
    """What the file at `path` says. Raises YamlFileError."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise YamlFileError(f"{path}: cannot be read: {error.strerror}") from None
    if len(data) > MAX_BYTES:
        raise YamlFileError(f"{path}: found more than {MAX_BYTES} bytes, allowed: a file of fewer")
    try:
        return parse(data.decode("utf-8"))
    except UnicodeDecodeError:
        raise YamlFileError(f"{path}: not UTF-8 text") from None
    except YamlFileError as error:
        raise YamlFileError(f"{path}: {error}") from None


def parse(text: str) -> Any:
    """What the text of a file says. Raises YamlFileError, without the file's name."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark is not None else ""
        problem = " ".join(str(getattr(error, "problem", None) or "cannot be parsed").split())[:200]
        raise YamlFileError(f"{where}not YAML: {problem}") from None
    except RecursionError:
        raise YamlFileError("not YAML: nested too deep") from None
    except Exception:
        # PyYAML's own of a date with month 13, `!!bool maybe` and the like: all sorts of errors. What they say is left
        # out, because it may repeat what is secret in the file.
        raise YamlFileError("not YAML: a value that cannot be what its form says") from None

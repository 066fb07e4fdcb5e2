"""Settings from a YAML file: the names of the options, checked as on the command line."""

import argparse
import reprlib
from pathlib import Path
from typing import Any

import yaml

from trading_llm.errors import UsageError

#: Bytes of a file: what is longer was not written by hand.
MAX_BYTES = 1 << 20

NOT_IN_A_FILE = {"config", "dry_run", "help", "command"}


def use_config(parser: argparse.ArgumentParser, path: Path) -> None:
    """Make what the file says the defaults of `parser`. Raises UsageError naming file and key."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise UsageError(f"{path}: found more than {MAX_BYTES} bytes; allowed: a file of fewer")
        content = yaml.safe_load(data.decode("utf-8"))
    except OSError as error:
        raise UsageError(f"--config: {path} cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f"line {mark.line + 1}: " if mark else ""
        raise UsageError(f"{path}: {place}not YAML: {getattr(error, 'problem', error)}") from None
    except UsageError:
        raise
    except Exception as error:
        # PyYAML's own of a date with month 13, of what is nested too deep, and the like: all sorts of errors.
        raise UsageError(f"{path}: not YAML: {error}"[:300]) from None
    if not isinstance(content, dict):
        raise UsageError(f"{path}: found {type(content).__name__}; allowed: a mapping of settings, as `batch_size: 8`")
    actions = {action.dest: action for action in parser._actions if action.dest not in NOT_IN_A_FILE}
    values = {}
    for key, value in content.items():
        action = actions.get(key.replace("-", "_")) if isinstance(key, str) else None
        if action is None:
            raise UsageError(f"{path}: found the key {_shown(key)}; allowed: {', '.join(sorted(actions))}")
        values[action.dest] = _checked(f"{path}: {key}", action, value)
    parser.set_defaults(**values)


def _checked(place: str, action: argparse.Action, value: Any) -> Any:
    if value is None:
        return None if action.default is None else action.default
    if isinstance(action, argparse.BooleanOptionalAction):
        if not isinstance(value, bool):
            raise UsageError(f"{place}: found {_shown(value)}; allowed: true, false")
        return value
    if isinstance(value, bool) and action.dest == "resume":
        return action.const if value else None
    if isinstance(value, bool | dict | list) or not callable(action.type):
        raise UsageError(f"{place}: found {_shown(value)}; allowed: one value")
    try:
        return action.type(str(value))
    except (argparse.ArgumentTypeError, ValueError) as error:
        raise UsageError(f"{place}: {error}") from None


def _shown(value: Any) -> str:
    """A short form: a few lines of YAML can stand for gigabytes."""
    try:
        return reprlib.repr(value)
    except ValueError:
        return "a number of many digits"

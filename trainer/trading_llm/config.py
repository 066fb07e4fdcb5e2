"""Settings from a YAML file: the names of the options, checked as on the command line."""

import argparse
from pathlib import Path
from typing import Any

import yaml

from trading_llm.errors import UsageError

NOT_IN_A_FILE = {"config", "dry_run", "help", "command"}


def use_config(parser: argparse.ArgumentParser, path: Path) -> None:
    """Make what the file says the defaults of `parser`. Raises UsageError naming file and key."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"--config: {path} cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f"line {mark.line + 1}: " if mark else ""
        raise UsageError(f"{path}: {place}not YAML: {getattr(error, 'problem', error)}") from None
    if not isinstance(content, dict):
        raise UsageError(f"{path}: found {type(content).__name__}; allowed: a mapping of settings, as `batch_size: 8`")
    actions = {action.dest: action for action in parser._actions if action.dest not in NOT_IN_A_FILE}
    values = {}
    for key, value in content.items():
        action = actions.get(str(key).replace("-", "_"))
        if action is None:
            raise UsageError(f"{path}: found the key {key!r}; allowed: {', '.join(sorted(actions))}")
        values[action.dest] = _checked(f"{path}: {key}", action, value)
    parser.set_defaults(**values)


def _checked(place: str, action: argparse.Action, value: Any) -> Any:
    if value is None:
        return None if action.default is None else action.default
    if isinstance(action, argparse.BooleanOptionalAction):
        if not isinstance(value, bool):
            raise UsageError(f"{place}: found {value!r}; allowed: true, false")
        return value
    if isinstance(value, bool) and action.dest == "resume":
        return action.const if value else None
    if isinstance(value, bool | dict | list) or not callable(action.type):
        raise UsageError(f"{place}: found {value!r}; allowed: one value")
    try:
        return action.type(str(value))
    except argparse.ArgumentTypeError as error:
        raise UsageError(f"{place}: {error}") from None

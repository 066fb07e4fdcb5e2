"""`training-exporter backtest`: which alerts would have fired in finished runs."""

from __future__ import annotations

import argparse
import functools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from training_exporter.arguments import fail, seconds

if TYPE_CHECKING:
    from training_exporter.state import RunState


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command `backtest`; the parsed arguments carry the function to run as `run`."""
    parser = subparsers.add_parser(
        "backtest",
        help="say which alerts would have fired in finished runs",
        description="Replays finished runs through the run state and the alert rules on a real Prometheus, and says "
        "which alerts would have fired, at which step, and when they would have cleared. Reads journals, Hugging Face "
        "trainer_state.json and TensorBoard event files. Exit status: 0, or 2 for wrong input.",
    )
    add_paths(parser)
    parser.add_argument("--rules", type=Path, metavar="DIR", help="rule files to use (default: the shipped ones)")
    parser.add_argument(
        "--format", choices=("table", "json"), default="table", help="form of the output (default %(default)s)"
    )
    parser.set_defaults(run=run)


def add_paths(parser: argparse.ArgumentParser) -> None:
    """The arguments that say which runs are read."""
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="a record of a run, or a folder of them")
    parser.add_argument(
        "--seconds-per-step", type=seconds(0.001), default=1.0, metavar="S",
        help="for records without times: how long a step took (default %(default)g)",
    )  # fmt: skip
    parser.add_argument(
        "--profile", type=Path, metavar="FILE", help="what to expect of the runs (default: the guide's numbers)"
    )


def new_state(path: Path | None) -> Callable[[], RunState]:
    """What makes the state of each run, with the expectations of the profile at `path`. Raises ProfileError."""
    from training_exporter import profile
    from training_exporter.state import RunState

    return functools.partial(RunState, profile.load(path))


def run(arguments: argparse.Namespace) -> int:
    """Runs the command; returns the exit status."""
    try:
        # Imported here: the other commands must work without the packages of the extra `backtest`.
        from training_exporter.backtest import output, replay, rules
        from training_exporter.profile import ProfileError
        from training_exporter.sources import files
        from training_exporter.sources.log_history import RecordError
        from training_exporter.stack.errors import StackError
    except ImportError as error:
        return fail("backtest", f"needs training-exporter[backtest] ({error})")
    try:
        rule_set = rules.load(arguments.rules)
        records, errors = files.find(arguments.paths, arguments.seconds_per_step)
        with output.progress_bar() as progress:
            report = replay.backtest(records, rule_set, new_state=new_state(arguments.profile), progress=progress)
    except (StackError, RecordError, ProfileError) as error:
        return fail("backtest", str(error))
    report.errors[:0] = errors
    for name, reason in rule_set.left_out.items():
        print(f"training-exporter backtest: alert {name} is left out: {reason}", file=sys.stderr)
    if arguments.format == "json":
        print(json.dumps(report.to_json(), indent=1))
    else:
        output.print_table(report)
    if not report.runs:
        where = ", ".join(map(str, arguments.paths))
        return fail("backtest", f"no run that can be read in {where}")
    return 0

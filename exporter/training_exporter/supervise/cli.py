"""`training-exporter run -- COMMAND`."""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

from training_exporter import ports
from training_exporter.arguments import fail, seconds
from training_exporter.monitor import run_name
from training_exporter.sinks.server import PortTaken
from training_exporter.supervise.child import CommandError
from training_exporter.supervise.supervisor import supervise
from training_exporter.web import options
from training_exporter.web.config import WebConfigError


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command `run`; the parsed arguments carry the function to run as `run`."""
    parser = subparsers.add_parser(
        "run",
        usage="training-exporter run [OPTIONS] -- COMMAND [ARGUMENT ...]",
        help="run a training command, and watch it from outside",
        description="Starts a training and serves its metrics from outside of it, so that a hang, a crash and a kill "
        "-9 are seen and named. Works with any command; what has a Monitor in it (attach) shows all of its run. "
        "Exit status: the command's own (128 + n for signal n); 2 wrong input, 126 not executable, 127 not found.",
    )
    parser.add_argument("--run", metavar="NAME", dest="run_name", type=_name,
                        help="name of the run; it goes before the one that the command gives itself "
                        "(default: the command's own, else the program and the time)")  # fmt: skip
    options.add_arguments(parser, ports.RUN_METRICS)
    parser.add_argument("--linger-seconds", type=seconds(0), default=30.0, metavar="SECONDS",
                        help="wait so long at most, at the end, until the final state was scraped "
                        "(default: %(default)g)")  # fmt: skip
    parser.add_argument("--no-gpu", action="store_true", help="no figures of this machine's GPUs")
    parser.add_argument("argv", nargs=argparse.REMAINDER, metavar="COMMAND", help="what to run, after --")
    parser.set_defaults(run=run)


def _name(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError(f"found {text!r}, allowed: a name")
    return text


def run(arguments: argparse.Namespace) -> int:
    """Runs the command; returns the exit status."""
    command = arguments.argv[1:] if arguments.argv[:1] == ["--"] else arguments.argv
    if not command or not command[0]:
        return fail("run", "no command, allowed: training-exporter run [OPTIONS] -- COMMAND [ARGUMENT ...]")
    try:
        return supervise(
            command,
            run=arguments.run_name or run_name(_program(command), time.time()),
            named=arguments.run_name is not None,
            options=options.from_arguments(arguments),
            gpu=not arguments.no_gpu,
            linger_seconds=arguments.linger_seconds,
        )
    except CommandError as error:
        return fail("run", str(error), error.status)
    except PortTaken as error:
        return fail("run", error.strerror or str(error))  # without Python's "[Errno 98]"
    except WebConfigError as error:
        return fail("run", str(error))


def _program(command: list[str]) -> str:
    """What the command is about: its script where the program is an interpreter or a launcher, else the program."""
    program = os.path.basename(command[0])
    scripts = (part for part in command[1:] if part.endswith((".py", ".sh")))
    return Path(next(scripts, program)).stem

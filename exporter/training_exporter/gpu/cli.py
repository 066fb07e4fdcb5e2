"""`training-exporter gpu`: the GPUs of this machine alone, for where no training runs in the same process."""

from __future__ import annotations

import argparse
import signal
import socket
import sys
import threading
from pathlib import Path

from training_exporter import ports
from training_exporter._version import __version__
from training_exporter.arguments import fail, seconds
from training_exporter.gpu import replay
from training_exporter.gpu.collector import open_gpu_collector
from training_exporter.gpu.containers import ContainerNames
from training_exporter.gpu.raw import NvmlError, Pynvml
from training_exporter.gpu.record import record
from training_exporter.sinks.endpoint import Endpoint
from training_exporter.sinks.server import PortTaken
from training_exporter.web import options
from training_exporter.web.config import WebConfigError

NO_GPU = 1


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command `gpu`; the parsed arguments carry the function to run as `run`."""
    parser = subparsers.add_parser(
        "gpu",
        help="serve the figures of this machine's NVIDIA GPUs",
        description="Serves the figures of this machine's NVIDIA GPUs. Exit status: 0 ended by a signal, 1 no driver "
        "or no GPU, 2 wrong input.",
    )
    options.add_arguments(parser, ports.GPU_METRICS)
    parser.add_argument("--no-processes", action="store_true", help="do not show which processes hold GPU memory")
    parser.add_argument("--docker", action="store_true", help="name the containers of these processes, through Docker")
    source = parser.add_mutually_exclusive_group()
    captures = ", ".join(replay.shipped())
    source.add_argument("--replay", metavar="FILE", help=f"serve a capture, not a driver: a file, or one of {captures}")
    source.add_argument("--record", metavar="FILE", type=Path, help="record a capture of the driver, then end")
    parser.add_argument(
        "--seconds", type=seconds(0, above=True), default=60.0, help="length of the capture (default: %(default)g)"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Runs the command; returns the exit status."""
    if arguments.record is not None:
        return _record(arguments.record, arguments.seconds)
    nvml = None
    if arguments.replay is not None:
        try:
            capture = replay.load(replay.find(arguments.replay))
        except replay.CaptureError as error:
            return fail("gpu", str(error))
        print(f"replaying {arguments.replay}: {capture.source}", file=sys.stderr, flush=True)
        nvml = replay.ReplayNvml(capture)
    elif arguments.docker and not _has_docker():
        return fail("gpu", "--docker needs the Python package docker: install training-exporter[containers]")
    collector = open_gpu_collector(
        nvml=nvml,
        processes=not arguments.no_processes,
        # The process ids of a capture are not this machine's.
        containers=ContainerNames() if arguments.docker and nvml is None else None,
    )
    if collector is None:
        return fail("gpu", "no NVIDIA driver or no GPU on this machine (the reason is above); nothing to serve", NO_GPU)

    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    title = f"training-exporter {__version__}: GPUs of {socket.gethostname()}" + (replay.REPLAYED if nvml else "")
    try:
        endpoint = Endpoint([("gpu", collector)], lambda: title, options.from_arguments(arguments), ports.GPU_METRICS)
    except PortTaken as error:
        return fail("gpu", error.strerror or str(error))  # without Python's "[Errno 98]"
    except WebConfigError as error:
        return fail("gpu", str(error))
    try:
        endpoint.announce(f"gpu-{socket.gethostname()}")
        print(f"GPU metrics at {endpoint.url}", flush=True)
        stop.wait()
    except OSError as error:
        return fail("gpu", f"{error.filename}: cannot announce the address: {error.strerror}")
    finally:
        endpoint.close()
        collector.close()
    return 0


def _record(path: Path, seconds: float) -> int:
    try:
        frames = record(Pynvml(), path, seconds=seconds)
    except NvmlError as error:
        return fail("gpu", f"nothing to record: {error}", NO_GPU)
    except OSError as error:
        return fail("gpu", f"{path}: cannot write: {error.strerror}")
    print(f"wrote {frames} frames to {path}")
    return 0


def _has_docker() -> bool:
    from importlib.util import find_spec

    return find_spec("docker") is not None

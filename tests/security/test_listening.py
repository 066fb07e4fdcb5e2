"""Nothing that this project starts listens to the network unless somebody asked: every socket is looked at."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from trading_llm.dataset import simulated_dataset, write_dataset
from training_exporter import Monitor
from training_exporter.stack import launch
from training_exporter.stack.servers import Stack

UNCONNECTED = {psutil.CONN_LISTEN, psutil.CONN_NONE}  # TCP that listens, UDP that takes from everybody


def open_to_others(process: psutil.Process) -> set[str]:
    """The addresses, not of this machine alone, at which the process and those below it can be reached."""
    found = set()
    for each in [process, *process.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            for connection in each.net_connections("inet"):
                address = connection.laddr
                if connection.status in UNCONNECTED and address and not ipaddress.ip_address(address.ip).is_loopback:
                    found.add(f"{each.name()} {address.ip}:{address.port}")
    return found


def listening(process: psutil.Process) -> int:
    return len(
        [
            connection
            for each in [process, *process.children(recursive=True)]
            for connection in each.net_connections("tcp")
            if connection.status == psutil.CONN_LISTEN
        ]
    )


@contextlib.contextmanager
def command(*arguments: str) -> Iterator[psutil.Process]:
    started = subprocess.Popen([sys.executable, "-m", *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield psutil.Process(started.pid)
    finally:
        started.terminate()
        started.wait(timeout=60)


def wait_until_it_listens(process: psutil.Process, count: int) -> None:
    end = time.monotonic() + 60
    while time.monotonic() < end and listening(process) < count:
        time.sleep(0.2)
    assert listening(process) >= count


def test_the_probe_sees_what_is_open() -> None:
    me = psutil.Process()
    before = open_to_others(me)
    with socket.create_server(("0.0.0.0", 0)) as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
        udp.bind(("0.0.0.0", 0))
        assert {entry.rpartition(":")[2] for entry in open_to_others(me) - before} == {
            str(tcp.getsockname()[1]),
            str(udp.getsockname()[1]),
        }


def test_a_monitor_listens_on_this_machine_unless_asked() -> None:
    me = psutil.Process()
    before = open_to_others(me)
    for host, opened in (("127.0.0.1", 0), ("localhost", 0), ("0.0.0.0", 1)):
        monitor = Monitor("r", port=0, gpu=False, host=host)
        assert len(open_to_others(me) - before) == opened
        monitor.close()
    monitor = Monitor("r", port=0, gpu=False)
    assert open_to_others(me) == before
    monitor.close()


def test_the_servers_of_the_demo(tmp_path: Path) -> None:
    me = psutil.Process()
    before, listened = open_to_others(me), listening(me)
    with Stack(tmp_path / "log", grace_seconds=3) as stack:
        servers = launch.start_servers(stack, tmp_path)
        try:
            assert listening(me) >= listened + 4  # Prometheus, Alertmanager, the inbox twice
            assert open_to_others(me) == before
        finally:
            servers.inbox.close()


@pytest.mark.parametrize(
    ("arguments", "sockets"),
    [
        (["training_exporter.cli", "gpu", "--replay", "healthy", "--port", "0"], 1),
        (["training_exporter.cli", "inbox", "--port", "PORT", "--smtp-port", "PORT"], 2),
        (["training_exporter.cli", "run", "--port", "0", "--no-gpu", "--linger-seconds", "0", "--", "sleep", "60"], 1),
    ],
)
def test_commands(arguments: list[str], sockets: int) -> None:
    def free() -> str:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            return str(probe.getsockname()[1])

    with command(*(free() if part == "PORT" else part for part in arguments)) as process:
        wait_until_it_listens(process, sockets)
        assert open_to_others(process) == set()


def test_a_training_with_all_its_trackers(tmp_path: Path) -> None:
    """The whole of it, looked at ten times a second; what of it listens at all is `/metrics`."""
    data = write_dataset(tmp_path / "data", *simulated_dataset(64, 16))[0]
    arguments = [
        "train", "--output-dir", str(tmp_path / "out"), "--train-data", str(data), "--metrics-port", "0",
        "--threads", "1", "--batch-size", "4", "--num-epochs", "1", "--quality-prompts", "0",
    ]  # fmt: skip
    seen: set[str] = set()
    most = 0
    with command("trading_llm.train_llm", *arguments) as process:
        end = time.monotonic() + 200
        while time.monotonic() < end and process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                seen |= open_to_others(process)
                most = max(most, listening(process))
            time.sleep(0.1)
    assert seen == set()
    assert most >= 1, "/metrics was seen"

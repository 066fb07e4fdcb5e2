"""`training-exporter gpu` in a process of its own: scraped over HTTP, ended by signals, and refusing wrong input."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from gpu_helpers import promtool, values
from test_gpu_nvml import has_driver
from test_gpu_pynvml import fake_driver  # noqa: F401  (a fixture)

COMMAND = [sys.executable, "-m", "training_exporter.cli", "gpu"]


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=15) as answer:
        return answer.read().decode()


@contextmanager
def serving(*arguments: str, env: dict[str, str] | None = None) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The running command and its URL."""
    process = subprocess.Popen(
        [*COMMAND, "--port", "0", *arguments], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.fullmatch(r"GPU metrics at (http://127\.0\.0\.1:\d+)/metrics\n", line)
        if found is None:
            process.kill()
            pytest.fail(f"{line!r} {process.communicate()[1]}")
        yield process, found.group(1)
    finally:
        process.kill()
        process.communicate()


def ends(process: subprocess.Popen[str], number: signal.Signals) -> str:
    """Sends the signal, expects a clean end, returns standard error."""
    process.send_signal(number)
    _, errors = process.communicate(timeout=15)
    assert process.returncode == 0, errors
    return errors


def test_replay_is_served_announced_and_visible_and_sigterm_ends_it(tmp_path) -> None:
    with serving("--replay", "healthy", "--targets-dir", str(tmp_path)) as (process, url):
        page = get(url + "/metrics")
        assert promtool(page) == ""
        found = values(page)
        ((labels, _),) = found["llm_gpu_info"]
        assert labels["name"].endswith("(replayed capture)")
        assert found["llm_gpu_memory_total_bytes"][0][1] == 16 * 2**30
        assert found["training_exporter_collector_success"] == [({"collector": "gpu"}, 1.0)]
        assert "(replayed capture)" in get(url + "/")
        with pytest.raises(urllib.error.HTTPError) as error:
            get(url + "/other")
        assert error.value.code == 404
        (file,) = tmp_path.glob("*.json")
        assert file.name == f"gpu-{socket.gethostname()}.json"
        assert json.loads(file.read_text()) == [{"targets": [url.removeprefix("http://")]}]
        errors = ends(process, signal.SIGTERM)
        assert "not recorded from a card" in errors
        assert "Traceback" not in errors
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_ends_it_and_processes_can_be_left_out() -> None:
    with serving("--replay", "memory_high", "--no-processes") as (process, url):
        page = get(url + "/metrics")
        assert "llm_gpu_memory_used_bytes{" in page
        assert "llm_gpu_process_memory_bytes" not in page
        ends(process, signal.SIGINT)


def test_a_driver_that_hangs_costs_a_scrape_seconds_and_the_command_still_ends(fake_driver) -> None:  # noqa: F811
    state = Path(fake_driver["FAKE_NVML_STATE"])
    state.write_text("ok")
    with serving(env=fake_driver) as (process, url):
        assert values(get(url + "/metrics"))["llm_gpu_temperature_celsius"][0][1] == 61.0
        state.write_text("hang")
        time.sleep(1.1)  # the last reading serves for a second
        began = time.monotonic()
        page = get(url + "/metrics")
        assert time.monotonic() - began < 6
        assert "llm_gpu_" not in page
        assert values(page)["training_exporter_collector_success"] == [({"collector": "gpu"}, 0.0)]
        began = time.monotonic()
        get(url + "/metrics")
        assert time.monotonic() - began < 1
        ends(process, signal.SIGTERM)


@pytest.mark.skipif(has_driver(), reason="this machine has an NVIDIA driver")
@pytest.mark.parametrize("arguments", [[], ["--record", "capture.json", "--seconds", "1"]], ids=["serve", "record"])
def test_without_a_driver_it_says_so_and_ends_with_1(arguments, tmp_path) -> None:
    command = [*COMMAND, *arguments]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 1
    assert result.stderr.count("libnvidia-ml.so.1 is not on this machine: no NVIDIA driver") == 1
    assert "Traceback" not in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--replay", "no_such_file"], "no_such_file: No such file or directory; allowed: a capture file, or faulty"),
        (["--replay", os.devnull], "not JSON"),
        (["--seconds", "-1"], "found '-1', allowed: a number of seconds above 0"),
        (["--seconds", "nan"], "found 'nan'"),
        (["--replay", "healthy", "--record", "x"], "not allowed with argument"),
        (["--replay", "healthy", "--host", "203.0.113.1"], "cannot serve metrics on 203.0.113.1:9402: "),
        (["--replay", "healthy", "--targets-dir", "/dev/null/x"], "/dev/null/x: cannot announce the address"),
    ],
)
def test_wrong_input_is_one_message_and_exit_status_2(arguments, message) -> None:
    result = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_a_port_that_is_taken_is_one_message() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        result = subprocess.run(
            [*COMMAND, "--replay", "healthy", "--port", port], capture_output=True, text=True, timeout=60, check=False
        )
    assert result.returncode == 2
    assert f"cannot serve metrics on 127.0.0.1:{port}: " in result.stderr
    assert "Errno None" not in result.stderr
    assert "Traceback" not in result.stderr

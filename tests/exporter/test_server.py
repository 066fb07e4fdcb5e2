"""`/metrics` over real HTTP."""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import Metric

from training_exporter import Monitor, PortTaken, events
from training_exporter.sinks.collectors import registry_of
from training_exporter.sinks.server import MetricsApp, MetricsServer
from training_exporter.targets import ADVERTISE_VARIABLE, TARGETS_DIR_VARIABLE
from training_exporter.web.options import ServeOptions


@pytest.fixture
def monitor(tmp_path: Path) -> Iterator[Monitor]:
    monitor = Monitor("test run", output_dir=tmp_path, port=0, gpu=False, linger_seconds=10)
    yield monitor
    monitor.linger_seconds = 0
    monitor.close()


def get(url: str, **headers: str) -> tuple[int, str, dict[str, str]]:
    request = urllib.request.Request(url, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.read().decode(), dict(answer.headers)
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode(), dict(error.headers)


def run_through(monitor: Monitor, steps: int = 20) -> None:
    now = time.time()
    monitor.emit(
        events.RunStarted(
            time=now,
            run=monitor.run,
            max_steps=steps,
            num_epochs=3.0,
            peak_learning_rate=2e-4,
            lr_scheduler="cosine",
            vocabulary_size=32_000,
            settings={"gpu": "NVIDIA A100-SXM4-80GB"},
        )
    )
    for n in range(1, steps + 1):
        monitor.emit(
            events.StepEnded(
                time=now + n,
                step=n,
                epoch=3 * n / steps,
                tokens=100,
                duration_seconds=0.2,
                data_wait_seconds=0.01,
                forward_backward_seconds=0.12,
                optimizer_seconds=0.05,
                learning_rate=1e-4,
            )
        )
        monitor.emit(events.LossLogged(time=now + n, step=n, loss=2.0 / n, gradient_norm=1.0))
        if n % 4 == 0:
            monitor.emit(events.PhaseChanged(time=now + n, state="evaluating"))
            monitor.emit(events.Evaluated(time=now + n, step=n, loss=2.2 / n))
            monitor.emit(events.PhaseChanged(time=now + n, state="training"))
            monitor.emit(events.CheckpointSaved(time=now + n, step=n))
    monitor.emit(events.RanksTimed(time=now + steps, step=steps, seconds=(0.1, 0.12)))
    samples = (events.TextSample("rsi_14: 71.3", "RSI at 71.3 is overbought."),)
    monitor.emit(
        events.TextScored(
            time=now + steps, step=steps, stage="final", scores={"readings": 0.9}, texts=8, samples=samples
        )
    )


def test_routes(monitor: Monitor) -> None:
    base = monitor.url.removesuffix("/metrics")
    assert base.startswith("http://127.0.0.1:")
    status, page, headers = get(base + "/")
    assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert "test run" in page
    assert '<a href="/metrics">' in page
    assert get(base + "/-/healthy")[:2] == (200, "OK\n")
    assert get(base + "/-/ready")[:2] == (200, "OK\n")
    assert get(base + "/metrics/x")[0] == 404
    assert get(base + "/favicon.ico")[0] == 404
    connection = http.client.HTTPConnection("127.0.0.1", monitor.server.port)
    connection.request("POST", "/metrics", body="x")
    answer = connection.getresponse()
    assert (answer.status, answer.headers["Allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize("accept", ["text/plain", "application/openmetrics-text; version=1.0.0"])
def test_every_family_is_exposed_and_none_of_created(monitor: Monitor, accept: str) -> None:
    from training_exporter.families import RUN_FAMILIES

    run_through(monitor, steps=40)
    status, page, _ = get(monitor.url, Accept=accept)
    assert status == 200
    assert "_created" not in page
    ended_only = {"llm_training_end_timestamp_seconds", "llm_training_end_info"}
    missing = [
        name
        for family in RUN_FAMILIES
        for name in family.sample_names
        if f"\n{name}{{" not in page and name not in ended_only
    ]
    assert missing == []


def test_the_page_passes_promtool(monitor: Monitor) -> None:
    run_through(monitor)
    page = get(monitor.url)[1]
    checked = subprocess.run(["promtool", "check", "metrics"], input=page, capture_output=True, text=True)
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


def test_an_error_in_one_collector_costs_that_one_only(caplog: pytest.LogCaptureFixture) -> None:
    broken = True

    def failing() -> Iterator[Metric]:
        yield Metric("half_done", "Half done.", "gauge")
        if broken:
            raise RuntimeError("boom")

    def working() -> Iterator[Metric]:
        metric = Metric("works", "Works.", "gauge")
        metric.add_sample("works", {}, 1)
        yield metric

    server = MetricsServer(
        MetricsApp(registry_of([("failing", failing), ("working", working)]), lambda: "t"), ServeOptions(port=0), 0
    )
    try:
        for _ in range(3):
            status, page, _ = get(server.url)
            assert status == 200
            assert 'training_exporter_collector_success{collector="failing"} 0.0' in page
            assert 'training_exporter_collector_success{collector="working"} 1.0' in page
            assert "half_done" not in page
            assert "works 1.0" in page
        assert len([record for record in caplog.records if "failing" in record.getMessage()]) == 1
        broken = False
        assert 'training_exporter_collector_success{collector="failing"} 1.0' in get(server.url)[1]
    finally:
        server.stop()


def test_a_taken_port_is_the_next_free_one_and_said_once(caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        taken = holder.getsockname()[1]
        app = MetricsApp(registry_of([]), lambda: "t")
        server = MetricsServer(app, ServeOptions(), taken)
        try:
            assert server.port > taken
            assert get(server.url)[0] == 200
            said = [record.getMessage() for record in caplog.records]
            assert said == [f"port {taken} is taken; metrics are at {server.url} instead"]
        finally:
            server.stop()
        with pytest.raises(PortTaken, match=f"127.0.0.1:{taken}: the port is taken by another process"):
            MetricsServer(app, ServeOptions(port=taken), taken)
    with pytest.raises(PortTaken, match="this machine has no such address"):
        MetricsServer(app, ServeOptions(host="192.0.2.1", port=0), 0)


def test_the_end_waits_until_it_was_scraped_twice(monitor: Monitor) -> None:
    run_through(monitor)
    get(monitor.url)
    monitor.end("completed")
    closing = threading.Thread(target=monitor.close)
    closing.start()
    states = []
    for _ in range(2):
        closing.join(0.3)
        assert closing.is_alive()
        states.append('llm_training_state{run="test run",state="completed"} 1.0' in get(monitor.url)[1])
    closing.join(3)
    assert not closing.is_alive()
    assert states == [True, True]
    with pytest.raises(urllib.error.URLError):
        get(monitor.url)


def test_the_end_waits_for_nobody_when_nobody_listens(monitor: Monitor) -> None:
    run_through(monitor)
    monitor.end("completed")
    began = time.monotonic()
    monitor.close()
    assert time.monotonic() - began < 3


@pytest.mark.parametrize(("scrapes", "linger", "least", "most"), [(1, 0.5, 0.4, 4), (3, 30.0, 2.0, 6)])
def test_the_end_gives_up_after_a_while(tmp_path: Path, scrapes: int, linger: float, least: float, most: float) -> None:
    """At the limit; and well before it when the scrapes came often and have stopped."""
    monitor = Monitor("r", output_dir=tmp_path, port=0, gpu=False, linger_seconds=linger)
    run_through(monitor)
    for _ in range(scrapes):
        get(monitor.url)
    monitor.end("completed")
    began = time.monotonic()
    monitor.close()
    assert least < time.monotonic() - began < most


def test_the_address_is_announced_and_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = tmp_path / "targets"
    monkeypatch.setenv(TARGETS_DIR_VARIABLE, str(directory))
    names = ["r", "../../etc/passwd", "a b", "a_b", "x" * 500, ".hidden"]
    monitors = [Monitor(name, port=0, gpu=False) for name in names]
    files = list(directory.iterdir())
    assert len(files) == len(names)
    assert all(file.suffix == ".json" and not file.name.startswith(".") for file in files)
    announced = sorted(json.loads(file.read_text())[0]["targets"][0] for file in files)
    assert announced == sorted(f"127.0.0.1:{monitor.server.port}" for monitor in monitors)
    for monitor in monitors:
        monitor.close()
    assert list(directory.iterdir()) == []

    monkeypatch.setenv(ADVERTISE_VARIABLE, "trainer")
    monitor = Monitor("r", port=0, gpu=False)
    assert json.loads((directory / "r.json").read_text()) == [{"targets": [f"trainer:{monitor.server.port}"]}]
    monitor.close()


def test_a_broken_sink_or_disk_never_reaches_the_loop(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    not_a_directory = tmp_path / "file"
    not_a_directory.write_text("")
    monitor = Monitor("r", output_dir=not_a_directory, port=0, gpu=False, linger_seconds=0.1)

    def broken(event: events.Event, state: object) -> None:
        raise RuntimeError("boom")

    monitor.add_sink(broken)
    run_through(monitor)
    page = get(monitor.url)[1]
    monitor.close()
    assert 'training_exporter_callback_errors_total{hook="broken"} 63.0' in page
    assert len([record for record in caplog.records if "broken failed" in record.getMessage()]) == 1
    assert "training_exporter_journal_dropped_events_total" in page
    assert monitor.dropped_events == 64  # with the end that `close` adds

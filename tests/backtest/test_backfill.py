"""The command `backfill`: past runs in a Prometheus beside a live one."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from finished_runs import falling, trainer_state

from training_exporter.cli import main
from training_exporter.stack import binaries
from training_exporter.stack.query import Prometheus
from training_exporter.stack.servers import Stack, free_port

HOUR = 3600.0


def serve(stack: Stack, data: Path) -> Prometheus:
    (data.parent / "prometheus.yml").write_text("global: {scrape_interval: 1s}\n")
    port = free_port(0)
    child = stack.start(
        "prometheus",
        [binaries.require([binaries.PROMETHEUS])["prometheus"], f"--config.file={data.parent}/prometheus.yml",
         f"--storage.tsdb.path={data}", f"--web.listen-address=127.0.0.1:{port}",
         "--storage.tsdb.retention.time=100y"],
        url=f"http://127.0.0.1:{port}",
    )  # fmt: skip
    child.wait_ready("/-/ready")
    return Prometheus(child.url)


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    with Stack(tmp_path / "log") as servers:
        yield servers


def value(prometheus: Prometheus, query: str) -> float:
    (found,) = prometheus.query(query)
    return found[1]


def test_past_runs_are_served(tmp_path: Path, stack: Stack) -> None:
    recent, old = time.time() - HOUR, 1_500_000_000.0
    trainer_state(tmp_path / "runs" / "recent", start=recent, steps=300)
    trainer_state(tmp_path / "runs" / "old", start=old, steps=2000, seconds=30.0)
    data = tmp_path / "data"
    assert main(["backfill", str(tmp_path / "runs"), "--data-dir", str(data), "--create", "--rules"]) == 0
    # A second time, onto the first.
    assert main(["backfill", str(tmp_path / "runs" / "recent"), "--data-dir", str(data)]) == 0
    assert all(path.is_dir() and len(path.name) == 26 for path in data.iterdir()), "blocks, and nothing else"
    prometheus = serve(stack, data)
    for run, start, seconds, steps in (("recent", recent, 1.0, 300), ("old", old, 30.0, 2000)):
        for step in (steps // 10, steps // 2, steps * 9 // 10):
            # Scrapes come at whole intervals: at this time the step is the last one that was scraped.
            at = math.ceil((start + step * seconds) / 5) * 5
            seen = math.floor((at - start) / seconds + 1e-6)
            selector = f'{{run="{run}"}} @ {at}'
            assert value(prometheus, f"llm_training_steps_total{selector}") == seen
            assert value(prometheus, f"llm_training_loss{selector}") == falling(seen, steps)
            assert value(prometheus, f"run:llm_training_state:active{selector}") == 1
        end = start + steps * seconds
        assert value(prometheus, f'llm_training_state{{run="{run}",state="completed"}} @ {end + 8}') == 1
        assert value(prometheus, f'run:llm_training_state:active{{run="{run}"}} @ {end + 8}') == 0
        assert not prometheus.query(f'llm_training_loss{{run="{run}"}} @ {start - 1}')


def test_beside_the_data_of_a_prometheus(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "data"
    with Stack(tmp_path / "log-1") as servers:
        serve(servers, data)
    before = {path.name for path in data.iterdir()}
    path = trainer_state(tmp_path / "run", start=time.time() - HOUR)
    assert main(["backfill", str(path), "--data-dir", str(data)]) == 0
    assert capsys.readouterr().out.startswith("run: ")
    assert len({each.name for each in data.iterdir()} - before) in {1, 2}
    assert all(each.stat().st_uid == data.stat().st_uid for each in data.rglob("*"))
    with Stack(tmp_path / "log-2") as servers:
        assert value(serve(servers, data), f'llm_training_max_steps{{run="run"}} @ {time.time() - HOUR + 60}') == 200


def test_an_old_run_comes_with_a_word_about_retention(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = trainer_state(tmp_path / "run", start=time.time() - 20 * 24 * HOUR)
    assert main(["backfill", str(path), "--data-dir", str(tmp_path / "data"), "--create"]) == 0
    assert "--storage.tsdb.retention.time" in capsys.readouterr().err


def test_two_runs_of_one_name_stay_two(tmp_path: Path, stack: Stack, capsys: pytest.CaptureFixture[str]) -> None:
    start = time.time() - HOUR
    for folder, level in (("a", 1.0), ("b", 3.0)):
        trainer_state(tmp_path / folder / "run", start=start, loss=lambda n, _, level=level: level)
    data = tmp_path / "data"
    assert main(["backfill", str(tmp_path / "a"), str(tmp_path / "b"), "--data-dir", str(data), "--create"]) == 0
    assert [line.split(":")[0] for line in capsys.readouterr().out.splitlines()] == ["run", "run (2)"]
    found = serve(stack, data).query(f"llm_training_loss @ {start + 60}")
    assert {labels["run"]: loss for labels, loss in found} == {"run": 1.0, "run (2)": 3.0}


def test_a_run_of_the_future_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Prometheus counts its retention from its newest block: one of next year would cost it all others."""
    path = trainer_state(tmp_path / "run", start=time.time() + 24 * HOUR)
    assert main(["backfill", str(path), "--data-dir", str(tmp_path / "data"), "--create"]) == 2
    assert "allowed: no future time" in capsys.readouterr().err
    assert list((tmp_path / "data").iterdir()) == []


@pytest.mark.parametrize(
    ("make", "create", "message"),
    [
        (None, False, "no such directory; --create makes it"),
        ("folder", False, "found an empty directory, allowed: a Prometheus' data directory"),
        ("other", True, "found notes.txt, allowed: a Prometheus' data directory"),
        ("file", True, "not a directory"),
    ],
)
def test_what_is_no_data_directory_is_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], make: str | None, create: bool, message: str
) -> None:
    data = tmp_path / "data"
    if make == "file":
        data.write_text("")
    elif make:
        data.mkdir()
        if make == "other":
            (data / "notes.txt").write_text("mine")
    path = trainer_state(tmp_path / "run")
    arguments = ["backfill", str(path), "--data-dir", str(data), *(["--create"] if create else [])]
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert sorted(each.name for each in tmp_path.iterdir()) == (["data", "run"] if make else ["run"])


def test_no_run_at_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "runs").mkdir()
    assert main(["backfill", str(tmp_path / "runs"), "--data-dir", str(tmp_path / "data"), "--create"]) == 2
    assert "no run that can be read in" in capsys.readouterr().err

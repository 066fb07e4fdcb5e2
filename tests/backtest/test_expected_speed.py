"""ThroughputLow: the speed of a run beside what the profile expects of its GPU, whose name NVML gives."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from finished_runs import START, falling

from training_exporter import events
from training_exporter.cli import main
from training_exporter.gpu import open_gpu_reader
from training_exporter.gpu.replay import CAPTURES, ReplayNvml, load

STEPS = 600


def gpu_name() -> str:
    """The card of a capture, as NVML names it."""
    reader = open_gpu_reader(nvml=ReplayNvml(load(CAPTURES / "healthy.json")))
    assert reader is not None
    (sample,) = reader.read()
    reader.close()
    assert sample.name is not None
    return sample.name


def write_run(folder: Path, tokens: int, **settings: str) -> None:
    """Ten minutes of steps of a second with `tokens` tokens."""
    started = events.RunStarted(time=START, run=folder.name, max_steps=STEPS, num_epochs=2.0, settings=settings)
    found: list[events.Event] = [started]
    for n in range(1, STEPS + 1):
        found.append(events.StepEnded(time=START + n, step=n, epoch=n / 300, tokens=tokens, duration_seconds=1.0))
        found.append(events.LossLogged(time=START + n, step=n, loss=falling(n, STEPS)))
    found.append(events.RunEnded(time=START + STEPS, state="completed"))
    folder.mkdir()
    (folder / "journal.jsonl").write_text("".join(json.dumps(events.to_record(event)) + "\n" for event in found))


def test_a_run_far_slower_than_its_gpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Half of what the profile's lower bound says, for five minutes; two cards are expected to give twice as much."""
    runs = tmp_path / "runs"
    runs.mkdir()
    write_run(runs / "slow", 240, gpu=gpu_name())
    write_run(runs / "just-fast-enough", 260, gpu=gpu_name())
    write_run(runs / "on-two", 260, gpu=gpu_name(), world_size="2")
    write_run(runs / "on-another", 240, gpu="Some other card")
    write_run(runs / "on-the-processor", 240)
    profile = tmp_path / "profile.yaml"
    profile.write_text("tokens_per_second:\n  Synthetic 16 GiB GPU: [500, 900]\n")
    assert main(["backtest", str(runs), "--profile", str(profile), "--format", "json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["errors"] == []
    told = {run["run"]: [(alert["alert"], alert["step"]) for alert in run["alerts"]] for run in report["runs"]}
    assert {run for run, alerts in told.items() if alerts} == {"slow", "on-two"}
    for run in ("slow", "on-two"):
        [(alert, step)] = told[run]
        assert alert == "ThroughputLow"
        assert 300 <= step <= 315

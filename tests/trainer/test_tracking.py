"""TensorBoard and Weights & Biases show the figures of the journal."""

import json
import sys
from pathlib import Path

import pytest
from trainer_runs import Run, journal

from training_exporter.sources import tensorboard


def test_tensorboard_has_every_step_as_the_journal_has_it(run: Run) -> None:
    code, output, text = run("--num-epochs", "0.5", "--eval-steps", "4")
    assert code == 0, text
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(output / "runs"))
    board.Reload()
    for tag, kind, key in (
        ("train/loss", "loss_logged", "loss"),
        ("train/grad_norm", "loss_logged", "gradient_norm"),
        ("train/learning_rate", "step_ended", "learning_rate"),
        ("eval/loss", "evaluated", "loss"),
    ):
        shown = {point.step: point.value for point in board.Scalars(tag)}
        told = {line["step"]: line[key] for line in journal(output, kind)}
        assert shown == pytest.approx(told, rel=1e-5), tag
    header, entries = tensorboard.read(output / "runs", "probe")
    assert len(entries) >= 8
    assert header.max_steps in (None, 8)


def test_wandb_offline_has_every_step(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    code, output, text = run("--num-epochs", "0.3", "--run-name", "probe")
    assert code == 0, text
    [record] = (output / "wandb").glob("offline-run-*/run-*.wandb")
    content = record.read_bytes()
    for words in (b"train/loss", b"train/global_step", b"probe", b"trading-llm"):
        assert words in content
    last = journal(output, "loss_logged")[-1]["loss"]
    assert json.dumps(last)[:8].encode() in content


def test_wandb_is_left_alone_without_a_login_or_when_told_so(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    code, output, text = run("--no-wandb", "--num-epochs", "0.1")
    assert code == 0, text
    assert not (output / "wandb").exists()
    assert "wandb" not in sys.modules or not Path("wandb").exists()

"""The runs that the dashboards' tests look at: events of a healthy one, played or written down, and real trainings."""

from __future__ import annotations

import heapq
import math
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from training_exporter.cli import main
from training_exporter.events import (
    TEXT_STAGES,
    CheckpointSaved,
    Evaluated,
    Event,
    LossLogged,
    PhaseChanged,
    RanksTimed,
    RunEnded,
    RunStarted,
    StepEnded,
    TextSample,
    TextScored,
)
from training_exporter.journal import JOURNAL_NAME, JournalWriter
from training_exporter.monitor import Monitor
from training_exporter.stack.servers import Child, Stack

STEPS, EPOCHS, PEAK = 60, 4.0, 2e-4
STEP_SECONDS = 0.15
#: Of one optimizer step of a real training, in epochs.
STEP_EPOCHS = 1 / 125


def events(run: str, start: float, step_seconds: float = STEP_SECONDS) -> Iterator[Event]:
    """A healthy run that tells all that a run can tell, but for its end: the loss falls from 2 towards 0.7."""
    yield RunStarted(
        time=start,
        run=run,
        max_steps=STEPS,
        num_epochs=EPOCHS,
        peak_learning_rate=PEAK,
        lr_scheduler="linear",
        vocabulary_size=32_000,
        settings={
            "base_model": "tiny",
            "batch_size": "8",
            "learning_rate": f"{PEAK:g}",
            "gpu": "NVIDIA A100-SXM4-80GB",  # the profile knows what it should give
        },
    )
    for step in range(1, STEPS + 1):
        now, done = start + step * step_seconds, step / STEPS
        loss = 0.7 + 1.3 * math.exp(-4 * done) + 0.02 * math.sin(step)
        yield StepEnded(
            time=now,
            step=step,
            epoch=EPOCHS * done,
            tokens=180,
            duration_seconds=step_seconds,
            data_wait_seconds=0.1 * step_seconds,
            forward_backward_seconds=0.6 * step_seconds,
            optimizer_seconds=0.2 * step_seconds,
            learning_rate=PEAK * (1 - (step - 1) / STEPS),
        )
        yield RanksTimed(time=now, step=step, seconds=(0.5 * step_seconds, 0.6 * step_seconds))
        yield LossLogged(time=now, step=step, loss=loss, gradient_norm=1 + math.cos(step) / 4)
        if step % 10 == 0:
            yield PhaseChanged(time=now, state="evaluating")
            yield Evaluated(time=now, step=step, loss=1.1 * loss, runtime_seconds=0.1)
            yield PhaseChanged(time=now, state="training")
            yield CheckpointSaved(time=now, step=step)
        if step in (0.2 * STEPS, 0.5 * STEPS, STEPS - 1):
            stage = TEXT_STAGES[round(2 * done)]
            scores = dict.fromkeys(("coherence", "specificity"), 0.4 + done / 2)
            texts = (TextSample("RSI 71, MACD falling. Decision?", "Sell: the RSI of 71 is overbought."),)
            yield TextScored(time=now, step=step, stage=stage, scores=scores, texts=1, samples=texts)


def play(monitors: dict[str, Monitor]) -> None:
    """Healthy runs as they happen, side by side, each started a moment after the one before."""
    start = time.time()
    runs = [[(run, event) for event in events(run, start + 0.01 * place)] for place, run in enumerate(monitors)]
    for run, event in heapq.merge(*runs, key=lambda entry: entry[1].time):
        time.sleep(max(0.0, event.time - time.time()))
        monitors[run].emit(event)


def backfill(run: str, start: float, folder: Path, data: Path) -> None:
    """A run that ended before Prometheus began, from its journal in `folder`/<run>, by the command `backfill`."""
    journal = folder / run / JOURNAL_NAME
    journal.parent.mkdir(parents=True)
    writer = JournalWriter(journal)
    last = start
    for event in events(run, start, step_seconds=5.0):
        writer.put(event)
        last = event.time
    writer.put(RunEnded(time=last + 1, state="completed"))
    writer.close()
    assert main(["backfill", str(journal), "--data-dir", str(data), "--create", "--rules"]) == 0


def train(
    stack: Stack, folder: Path, targets: Path, run: str, steps: int, *options: str, supervised: bool = False
) -> Child:
    """A real training of the embedded model in a process of its own, its files below `folder`."""
    supervisor = [sys.executable, "-m", "training_exporter.cli", "run", "--port", "0", "--"] if supervised else []
    command = [
        *supervisor,
        sys.executable,
        "-m",
        "trading_llm.train_llm",
        "train",
        "--run-name",
        run,
        "--metrics-port",
        "0",
    ]
    command += ["--num-epochs", f"{steps * STEP_EPOCHS:g}", "--eval-steps", "4", "--save-steps", "4", "--threads", "1"]
    # After a few steps a model writes what TextQuality is there for; the played run has texts.
    command += ["--output-dir", str(folder / "models" / run), "--quality-prompts", "0", *options]
    work = folder / f"work-{run}"
    work.mkdir()
    environment = {**os.environ, "TRAINING_EXPORTER_TARGETS_DIR": str(targets), "OMP_NUM_THREADS": "1"}
    return stack.start(run, command, environment=environment, cwd=work)

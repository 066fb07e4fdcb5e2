"""The set *altered*: logs of healthy runs of the other sets, each with one oddity or one fault drawn into it.

It shows what the other sets are too small for: how the alerts take kinds of faults, and of harmless oddities, that no
run among them has. It is made anew for each report, always the same from the same runs.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from random import Random
from typing import Any

from alterations import ABSENT, ALTERATIONS, Log
from run_labels import LABELS_FILE, Label, read_labels, write_labels

from training_exporter import journal
from training_exporter.events import Evaluated, LossLogged, RunStarted, StepEnded
from training_exporter.sources.trainer_state import STATE_NAME

SEED = 1
#: Runs that each alteration is drawn into.
RUNS_EACH = 5
#: A run of fewer logged losses shows nothing of what is drawn into it.
LEAST_POINTS = 50


def state_of(folder: Path) -> dict[str, Any] | None:
    """The `trainer_state.json` of a run, or one made from its journal; None without either."""
    if (path := folder / STATE_NAME).exists():
        return json.loads(path.read_text(encoding="utf-8"))
    if not (path := folder / journal.JOURNAL_NAME).exists():
        return None
    state: dict[str, Any] = {}
    history: list[dict[str, Any]] = []
    speed: float | None = None
    for event in journal.read(path):
        match event:
            case RunStarted():
                state = {
                    "max_steps": event.max_steps,
                    "num_train_epochs": event.num_epochs,
                    "logging_steps": event.logging_steps,
                    "learning_rate": event.peak_learning_rate,
                    "lr_scheduler_type": event.lr_scheduler,
                    "warmup_steps": event.warmup_steps,
                }
            case StepEnded() if event.tokens and event.duration_seconds:
                speed = event.tokens / event.duration_seconds
            case LossLogged():
                entry = {"loss": event.loss, "grad_norm": event.gradient_norm, "learning_rate": event.learning_rate}
                entry |= {"tokens_per_second": speed, "step": event.step, "epoch": event.epoch, "wall_time": event.time}
                history.append({key: value for key, value in entry.items() if value is not None})
            case Evaluated():
                history.append({"eval_loss": event.loss, "step": event.step, "wall_time": event.time})
    return {**state, "log_history": history}


def healthy(sets: Iterable[Path]) -> dict[str, dict[str, Any]]:
    """The logs of all healthy runs of these sets that are long enough, by run."""
    found = {}
    for folder in sets:
        for run, label in read_labels(folder / LABELS_FILE).items():
            # A run near the border of a plateau, or one that other work slowed, is not healthy enough for this.
            state = state_of(folder / run) if label.signs == frozenset() and not label.forgiven else None
            if state and len(Log(state).training) >= LEAST_POINTS:
                found[run] = state
    return found


def make(logs: Mapping[str, dict[str, Any]], output: Path) -> None:
    """Write each alteration of RUNS_EACH of the logs, and the labels, below `output`."""
    labels = {}
    for alteration in ALTERATIONS:
        r = Random(f"{SEED} {alteration.name}")
        runs, made = sorted(logs), 0
        r.shuffle(runs)
        for run in runs:
            log = Log(logs[run])
            onset = alteration.change(log, r)
            if onset == ABSENT or made == RUNS_EACH:
                continue
            made += 1
            name = f"{alteration.name}-{run}"
            (output / name).mkdir(parents=True)
            (output / name / STATE_NAME).write_text(json.dumps(log.state), encoding="utf-8")
            kind = alteration.name if alteration.signs else f"harmless: {alteration.name}"
            why = f"{alteration.name.replace('_', ' ')}, drawn into the log of {run}"
            labels[name] = Label(kind, frozenset(alteration.signs), onset, log.state["max_steps"], why)
    write_labels(output / LABELS_FILE, labels)

"""Finished runs on disk, made for the tests of readers, backtest and backfill."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

START = 1_700_000_000.0


def falling(step: int, steps: int) -> float:
    """A loss that falls from 2.2 to 0.8 with a little ripple."""
    return 0.8 + 1.4 * math.exp(-4 * step / steps) + 0.02 * math.sin(step)


def trainer_state(
    folder: Path,
    *,
    steps: int = 200,
    seconds: float | None = 1.0,
    start: float = START,
    loss: Callable[[int, int], float] = falling,
    every: int = 1,
    **header: Any,
) -> Path:
    """A `trainer_state.json` in `folder`; `seconds` per step, None writes no times."""
    history: list[dict[str, Any]] = []
    for step in range(every, steps + 1, every):
        entry: dict[str, Any] = {
            "step": step, "epoch": round(2 * step / steps, 4), "loss": loss(step, steps), "grad_norm": 1.0,
            "learning_rate": 1e-4,
        }  # fmt: skip
        if seconds is not None:
            entry["wall_time"] = start + step * seconds
        history.append(entry)
    state = {
        "max_steps": steps, "global_step": steps, "num_train_epochs": 2, "logging_steps": every, "train_batch_size": 4,
        "log_history": history, **header,
    }  # fmt: skip
    return write(folder, state)


def write(folder: Path, state: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "trainer_state.json"
    path.write_text(json.dumps(state))
    return path


def nan_from(onset: int) -> Callable[[int, int], float]:
    """A falling loss that is NaN from step `onset` on."""
    return lambda step, steps: math.nan if step >= onset else falling(step, steps)

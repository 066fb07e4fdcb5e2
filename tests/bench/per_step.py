"""What does a logged step cost, with each logger, in its hooks and altogether?"""

from __future__ import annotations

import gc
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.bench.loggers import LOGGERS
from tests.bench.measuring import estimate, microseconds, milliseconds, table
from tests.bench.training import Switch, make_trainer, steps_for

#: Pairs of blocks, off and on. Ours gets more: its effect is the smallest that matters here.
PAIRS, OUR_PAIRS = 30, 100


def measure(name: str, pairs: int) -> dict[str, list[Any]]:
    """Train with a logger that is turned off and on; what its Switch has found."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(Path(folder), steps_for(pairs))
        logger = LOGGERS[name][1](trainer, Path(folder))
        switch = Switch(logger.turn, logger.spent)
        trainer.add_callback(switch)
        gc.collect()
        gc.freeze()
        trainer.train()
        logger.close()
        gc.unfreeze()
    return {"inside": switch.inside, "walls": switch.walls, "cpus": switch.cpus}


def measure_supervised(pairs: int) -> dict[str, list[Any]]:
    """Ours, below `training-exporter run`, which has the state and the page in its place."""
    command = [sys.executable, "-m", "training_exporter.cli", "run", "--port", "0", "--no-gpu", "--linger", "0", "--"]
    command += [sys.executable, "-m", "tests.bench.per_step", str(pairs)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, list[Any]] = json.loads(
        next(line for line in done.stdout.splitlines() if line.startswith('{"inside"'))
    )
    return found


def main(quick: bool = False) -> None:
    pairs, our_pairs = (6, 6) if quick else (PAIRS, OUR_PAIRS)
    found = {label: measure(name, our_pairs if name == "ours" else pairs) for name, (label, _) in LOGGERS.items()}
    found["training-exporter below `training-exporter run`"] = measure_supervised(our_pairs)
    reference = statistics.median(found[LOGGERS["tensorboard"][0]]["inside"])
    rows = []
    for label, each in found.items():
        inside, walls = each["inside"], each["walls"]
        rows.append((
            label, microseconds(statistics.median(inside)), f"{statistics.median(inside) / reference:.2f}",
            microseconds(statistics.mean(inside)), estimate([on / off - 1 for off, on in walls]).percent(),
            microseconds(statistics.median(on - off for off, on in each["cpus"])),
            milliseconds(statistics.median(off for off, _ in walls)),
        ))  # fmt: skip
    table(
        "A logged step",
        (
            "logger", "in its hooks, median", "of TensorBoard's", "mean", "step longer by (95 %)",
            "CPU time of the process", "step without",
        ),
        rows,
    )  # fmt: skip


if __name__ == "__main__":
    print("\n" + json.dumps(measure("ours", int(sys.argv[1]))), flush=True)

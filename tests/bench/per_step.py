"""What does a logged step cost, with each logger, in its hooks and altogether?

Of a step that is shorter than any that a person waits for, so that what comes on top can be seen.
"""

from __future__ import annotations

import gc
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tests.bench.loggers import LOGGERS
from tests.bench.measuring import estimate, microseconds, milliseconds, table
from tests.bench.training import SHORT, Switch, make_trainer, steps_for

#: Pairs of blocks, off and on. Ours gets more: its effect is the smallest that matters here.
PAIRS, OUR_PAIRS = 30, 200


def measure(name: str, pairs: int, width: int) -> dict[str, list[Any]]:
    """Train with a logger that is turned off and on; what its Switch has found."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(Path(folder), steps_for(pairs), width)
        logger = LOGGERS[name][1](trainer, Path(folder))
        switch = Switch(logger.turn, logger.spent)
        trainer.add_callback(switch)
        gc.collect()
        gc.freeze()
        trainer.train()
        logger.close()
        gc.unfreeze()
    return {"inside": switch.inside, "walls": switch.walls, "cpus": switch.cpus}


def measure_supervised(pairs: int, width: int) -> dict[str, list[Any]]:
    """Ours, below `training-exporter run`, which has the state and the page in its place."""
    command = [sys.executable, "-m", "training_exporter.cli", "run", "--port", "0", "--no-gpu", "--linger", "0", "--"]
    command += [sys.executable, "-m", "tests.bench.per_step", str(pairs), str(width)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, list[Any]] = json.loads(
        next(line for line in done.stdout.splitlines() if line.startswith('{"inside"'))
    )
    return found


def compare(title: str, names: Iterable[str], pairs: int, our_pairs: int, width: int) -> None:
    """Print a table of the loggers `names`, and of ours below its supervisor."""
    found = {LOGGERS[name][0]: measure(name, our_pairs if name == "ours" else pairs, width) for name in names}
    found["training-exporter below `training-exporter run`"] = measure_supervised(our_pairs, width)
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
        title,
        (
            "logger", "in its hooks, median", "of TensorBoard's", "mean", "step longer by (95 %)",
            "CPU time of the process", "step without",
        ),
        rows,
    )  # fmt: skip


def main(quick: bool = False) -> None:
    pairs, our_pairs = (6, 6) if quick else (PAIRS, OUR_PAIRS)
    compare("A logged step", LOGGERS, pairs, our_pairs, SHORT)


if __name__ == "__main__":
    print("\n" + json.dumps(measure("ours", int(sys.argv[1]), int(sys.argv[2]))), flush=True)

"""What does a logged step cost, with each logger, in its hooks and altogether?"""

from __future__ import annotations

import gc
import statistics
import tempfile
from pathlib import Path

from tests.bench.loggers import LOGGERS
from tests.bench.measuring import Estimate, estimate, microseconds, milliseconds, table
from tests.bench.training import Switch, make_trainer, steps_for

#: Pairs of blocks, off and on. Ours gets more: its effect is the smallest that matters here.
PAIRS, OUR_PAIRS = 40, 160


def measure(name: str, pairs: int) -> Switch:
    """Train with a logger that is turned off and on."""
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
    return switch


def main(quick: bool = False) -> None:
    found = {name: measure(name, 6 if quick else OUR_PAIRS if name == "ours" else PAIRS) for name in LOGGERS}
    reference = statistics.median(found["tensorboard"].inside)
    rows = []
    for name, switch in found.items():
        inside = statistics.median(switch.inside)
        longer = estimate([on / off - 1 for off, on in switch.walls])
        added = statistics.median(on - off for off, on in switch.cpus)
        rows.append((
            LOGGERS[name][0], microseconds(inside), f"{inside / reference:.3f}", longer.percent(),
            microseconds(added), milliseconds(statistics.median(off for off, _ in switch.walls)),
        ))  # fmt: skip
    table(
        "A logged step",
        (
            "logger", "in its hooks", "of TensorBoard's", "step longer by (95 %)", "CPU time of the process",
            "step without",
        ),
        rows,
    )  # fmt: skip


__all__ = ["Estimate", "main", "measure"]

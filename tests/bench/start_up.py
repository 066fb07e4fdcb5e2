"""What does a logger add to the start of a training, and to its memory? Each in a process of its own."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.bench.measuring import table

STEPS = 100


def measure(name: str) -> dict[str, float]:
    """In this process: seconds until the first step, and bytes (of its children too) after STEPS steps."""
    import psutil
    from tests.bench.loggers import LOGGERS
    from tests.bench.training import make_trainer
    from transformers import TrainerCallback

    class First(TrainerCallback):  # type: ignore[misc]
        at = 0.0

        def on_step_begin(self, *args: object, **kwargs: object) -> None:
            self.at = self.at or time.perf_counter()

    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(Path(folder), STEPS)
        first, began = First(), time.perf_counter()
        logger = LOGGERS[name][1](trainer, Path(folder))
        trainer.add_callback(first)
        trainer.train()
        process = psutil.Process()
        resident = sum(each.memory_info().rss for each in (process, *process.children(recursive=True)))
        logger.close()
    return {"seconds": first.at - began, "bytes": resident}


def main(quick: bool = False) -> None:
    from tests.bench.loggers import LOGGERS

    found: dict[str, list[dict[str, float]]] = {name: [] for name in LOGGERS}
    for _ in range(1 if quick else 3):
        # In turns, so that what else the machine does meets all.
        for name in LOGGERS:
            command = [sys.executable, "-m", "tests.bench.start_up", name]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            found[name].append(json.loads(done.stdout.strip().splitlines()[-1]))
    plain = {key: statistics.median(each[key] for each in found["empty"]) for key in ("seconds", "bytes")}
    rows = []
    for name, results in found.items():
        seconds = statistics.median(each["seconds"] for each in results) - plain["seconds"]
        size = statistics.median(each["bytes"] for each in results) - plain["bytes"]
        if name != "empty":
            rows.append((LOGGERS[name][0], f"{seconds:.2f} s", f"{size / 2**20:.0f} MiB"))
    table(
        "Start-up and memory, beyond those with an empty callback", ("logger", "until the first step", "memory"), rows
    )


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    parser = argparse.ArgumentParser()
    parser.add_argument("name")
    print(json.dumps(measure(parser.parse_args().name)))

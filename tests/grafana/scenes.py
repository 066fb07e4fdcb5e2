"""Real trainings of the embedded model, one after the other, watched by a real Prometheus: what the pictures show.

Left in a folder: Prometheus' data, and `scenes.json` with the moments that are worth a picture. The whole takes about
ten minutes on two cores, because nothing is made up: a run must go wrong, and its alert must fire.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from grafana_live import Recording, inbox, start_alertmanager, start_prometheus

from training_exporter.stack.servers import Child, Stack

SCENES_FILE = "scenes.json"
#: Longest time for anything to happen: a training of some minutes, on a machine with other work.
PATIENCE_SECONDS = 1500.0
#: After an alert has begun to fire, so that the picture shows what follows.
SETTLED_SECONDS = 25.0


@dataclass(frozen=True)
class Scene:
    """A moment: the time range (Unix seconds) that a dashboard shows then, and the run that it is about."""

    name: str
    run: str
    since: float
    at: float


def record(folder: Path, say: Callable[[str], None]) -> list[Scene]:
    """Makes all runs in an empty `folder`. Raises StackError and AssertionError."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    targets = folder / "targets"
    targets.mkdir()
    scenes: list[Scene] = []
    with inbox(folder) as receiver, Stack(folder / "logs") as stack:
        alertmanager = start_alertmanager(stack, folder, receiver)
        prometheus = start_prometheus(stack, folder, targets, alertmanager=alertmanager)
        environment = {**os.environ, "TRAINING_EXPORTER_TARGETS_DIR": str(targets), "OMP_NUM_THREADS": "1"}
        gpu = [sys.executable, "-m", "training_exporter.cli", "gpu", "--replay", "healthy", "--port", "0"]
        stack.start("gpu", gpu, environment=environment)
        recording = Recording(prometheus.url, began=time.time())

        def wait(condition: str) -> None:
            recording.wait(condition, PATIENCE_SECONDS)

        def take(name: str, run: str, since: float) -> None:
            scenes.append(Scene(name, run, since, time.time()))
            say(f"{time.strftime('%H:%M:%S')}  {name}")

        def train(run: str, *options: str) -> Child:
            # As compose runs it.
            command = [sys.executable, "-m", "training_exporter.cli", "run", "--run", run, "--port", "0", "--"]
            command += [sys.executable, "-m", "trading_llm.train_llm", "train", "--run-name", run]
            command += ["--output-dir", str(folder / "models" / run), "--threads", "1", *options]
            say(f"{time.strftime('%H:%M:%S')}  training {run} {' '.join(options)}")
            return stack.start(run, command, environment=environment)

        wait('ALERTS{alertname="Watchdog"} and on () gpu:llm_gpu_memory_used:ratio')
        time.sleep(60)  # charts of some length
        take("absent", "", recording.began)

        began = time.time()
        run = train("demo-1")
        wait('llm_training_progress_ratio{run="demo-1"} > 0.65')
        take("healthy", "demo-1", began)
        wait('run:llm_training_state:number{run="demo-1"} == 5')
        run.process.wait()
        time.sleep(60)
        take("finished", "demo-1", began)

        for name, number, sign, alert in (
            ("diverging", 2, "loss_rising", 'alertname="LossRising",severity="critical"'),
            ("overfitting", 3, "val_diverging", 'alertname="ValidationDiverging"'),
        ):
            began = time.time()
            run = train(f"demo-{number}", "--inject", sign)
            wait(f'ALERTS{{{alert},alertstate="firing"}}')
            time.sleep(SETTLED_SECONDS)
            take(name, f"demo-{number}", began)
            run.process.send_signal(signal.SIGINT)
            run.process.wait()
        (folder / SCENES_FILE).write_text(json.dumps([asdict(scene) for scene in scenes], indent=2), encoding="utf-8")
    return scenes


def read(folder: Path) -> list[Scene]:
    """What `record` has left there; empty where there is nothing."""
    file = folder / SCENES_FILE
    return [Scene(**scene) for scene in json.loads(file.read_text(encoding="utf-8"))] if file.is_file() else []

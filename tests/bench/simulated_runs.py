"""Many runs in one process: real events through real run states, served as real pages, each under a path of its own.

    python -m tests.bench.simulated_runs --runs 1000 --targets DIR

Only the trainings are made up. Each run stands somewhere else in its life, goes on at its own pace while it is served,
and sits on a GPU of its own (a replayed capture). Some are ill: see FAULTS.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
import time
from collections.abc import Iterable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, Metric, generate_latest

from training_exporter import RunState, events
from training_exporter.families import RUN_FAMILIES, collect
from training_exporter.gpu.families import GPU_FAMILIES
from training_exporter.gpu.model import GpuSample
from training_exporter.gpu.nvml import NvmlReader
from training_exporter.gpu.replay import CAPTURES, ReplayNvml, load
from training_exporter.schedule import schedule_multiplier
from training_exporter.sinks.collectors import registry_of

STEPS = 1000
EVALUATED_EVERY = SAVED_EVERY = 100
PEAK, SCHEDULE, WARMUP = 2e-4, "cosine", 100

#: What is wrong with a run, by the last two digits of its number; the others are healthy.
FAULTS = {7: "rising", 27: "nan", 47: "plateau", 67: "overfitting", 87: "off_schedule"}
#: Runs that are not in the middle of a step, likewise.
PHASES = {3: "starting", 23: "evaluating", 43: "evaluating", 63: "saving"}


def identity(number: int) -> dict[str, str]:
    """How run number `number` is called: `run`, `instance`, and its `gpu` and `uuid`."""
    return {
        "run": f"run-{number:04}",
        "instance": f"host-{number:04}:9401",
        "gpu": str(number % 8),
        "uuid": f"GPU-{number:08x}-0000-4000-8000-000000000000",
    }


class SimulatedRun:
    """Run number `number`, as it stands `now` (Unix seconds); `advance` makes the steps that are due since."""

    def __init__(self, number: int, now: float) -> None:
        self.number, self.name = number, identity(number)["run"]
        self._random = random.Random(number)
        self.fault, self.phase = FAULTS.get(number % 100), PHASES.get(number % 100)
        self.seconds_per_step = self._random.uniform(2.0, 8.0)
        self.state = RunState()
        self._step = 0
        done = 0 if self.phase == "starting" else self._random.randint(30, 800)
        self._due = now - done * self.seconds_per_step
        self._take(self._started(self._due))
        self.advance(now)
        if self.phase in {"evaluating", "saving"}:
            self._take(events.PhaseChanged(time=now, state=self.phase))

    def advance(self, now: float) -> None:
        """Make the steps that are due; a run that is in another phase only says that it goes on."""
        if self.phase == "starting" or (self.phase and self.state.state == self.phase):
            self._take(events.Progressed(time=now))
            return
        while self._due + self.seconds_per_step <= now and self._step < STEPS:
            self._due += self.seconds_per_step
            self._step += 1
            for event in self.step_events(self._step, self._due):
                self._take(event)

    def step_events(self, step: int, at: float) -> Iterator[events.Event]:
        """What a live Trainer tells of a step."""
        draw, share = self._random, step / STEPS
        loss = 0.7 + 1.4 * 0.02 ** min(1.0, 2.5 * share) + draw.gauss(0.0, 0.03)
        if self.fault == "rising" and step > 20:
            loss = 2.0 + (step - 20) / 150 + draw.gauss(0.0, 0.03)
        elif self.fault == "plateau":
            loss = 2.4 + draw.gauss(0.0, 0.03)
        elif self.fault == "nan" and step > 25:
            loss = float("nan")
        multiplier = schedule_multiplier(SCHEDULE, step - 1, STEPS, WARMUP)
        assert multiplier is not None
        rate = PEAK * (0.5 if self.fault == "off_schedule" else multiplier)
        seconds = self.seconds_per_step * draw.uniform(0.95, 1.05)
        yield events.StepEnded(
            time=at, step=step, epoch=3 * share, tokens=int(1700 * seconds), duration_seconds=seconds,
            data_wait_seconds=0.01 * seconds, forward_backward_seconds=0.8 * seconds, optimizer_seconds=0.1 * seconds,
            learning_rate=rate,
        )  # fmt: skip
        yield events.LossLogged(time=at, step=step, epoch=3 * share, loss=loss, gradient_norm=draw.uniform(0.5, 1.5))
        if step % EVALUATED_EVERY == 0:
            gap = 0.8 * share if self.fault == "overfitting" else 0.0
            yield events.PhaseChanged(time=at, state="evaluating")
            yield events.Evaluated(time=at, step=step, loss=1.1 + gap + 1.2 * 0.02 ** min(1.0, 2.5 * share))
        if step % SAVED_EVERY == 0:
            yield events.PhaseChanged(time=at, state="saving")
            yield events.CheckpointSaved(time=at, step=step)
            yield events.PhaseChanged(time=at, state="training")
        stage = {STEPS // 5: "early", STEPS // 2: "middle"}.get(step)
        if stage:
            scores = dict.fromkeys(self.state.profile.text_quality[stage], 0.95)
            samples = (events.TextSample("What do the indicators say?", "The RSI of 71 says overbought. " * 8),) * 3
            yield events.TextScored(time=at, step=step, stage=stage, scores=scores, texts=8, samples=samples)

    def _take(self, event: events.Event) -> None:
        self.state.apply(event)

    def _started(self, at: float) -> events.RunStarted:
        return events.RunStarted(
            time=at, run=self.name, max_steps=STEPS, num_epochs=3.0, peak_learning_rate=PEAK, lr_scheduler=SCHEDULE,
            warmup_steps=WARMUP, vocabulary_size=128_256,
            settings={
                "base_model": "meta-llama/Meta-Llama-3-8B-Instruct", "dataset": f"trades-{self.number % 7}",
                "batch_size": "8", "gradient_accumulation_steps": "4", "learning_rate": f"{PEAK:g}",
                "lr_scheduler": SCHEDULE, "lora_r": "16", "quantization": "4bit", "num_epochs": "3",
                "git_commit": f"{self.number:07x}", "gpu": "NVIDIA A100-SXM4-80GB",
            },
        )  # fmt: skip


class Served:
    """A simulated run's page, from the families that a training serves."""

    def __init__(self, run: SimulatedRun, gpus: Sequence[GpuSample]) -> None:
        self.run = run
        known = identity(run.number)
        self._gpus = [dataclasses.replace(gpu, index=int(known["gpu"]), uuid=known["uuid"]) for gpu in gpus[:1]]
        self._registry = registry_of([("run", self._collect_run), ("gpu", self._collect_gpu)])

    def page(self) -> bytes:
        return generate_latest(self._registry)

    def _collect_run(self) -> Iterable[Metric]:
        self.run.advance(time.time())
        return collect(RUN_FAMILIES, self.run.state, {"run": self.run.name})

    def _collect_gpu(self) -> Iterable[Metric]:
        return collect(GPU_FAMILIES, self._gpus, {})


def make_server(served: Sequence[Served]) -> ThreadingHTTPServer:
    """A server on which /<place>/metrics is the page of `served[place]`."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = served[int(self.path.split("/")[1])].page()
            self.send_response(200)
            self.send_header("Content-Type", CONTENT_TYPE_LATEST)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: Any) -> None:
            """A line per scrape is no news."""

    ThreadingHTTPServer.request_queue_size = 1024
    return ThreadingHTTPServer(("127.0.0.1", 0), Handler)


def targets(runs: Sequence[SimulatedRun], port: int) -> list[dict[str, Any]]:
    """The runs for `file_sd`, each as an instance of its own."""
    return [
        {
            "targets": [f"127.0.0.1:{port}"],
            "labels": {"__metrics_path__": f"/{place}/metrics", "instance": identity(run.number)["instance"]},
        }
        for place, run in enumerate(runs)
    ]


def gpus() -> Sequence[GpuSample]:
    reader = NvmlReader(ReplayNvml(load(CAPTURES / "healthy.json")))
    reader.open()
    return reader.read()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, required=True)
    parser.add_argument("--targets", type=Path, required=True, help="folder that Prometheus watches")
    options = parser.parse_args()
    now, sample = time.time(), gpus()
    runs = [SimulatedRun(number, now) for number in range(options.runs)]
    server = make_server([Served(run, sample) for run in runs])
    found = options.targets / "simulated.json"
    found.with_suffix(".new").write_text(json.dumps(targets(runs, server.server_port)))
    found.with_suffix(".new").rename(found)
    server.serve_forever()


if __name__ == "__main__":
    main()

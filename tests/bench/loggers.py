"""Who watches a Trainer: training-exporter, transformers' own callbacks, and the least that one could write.

Each is made for a Trainer and gives how to turn it on and off, the seconds spent in it, and how to end it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.bench.training import Timed
from transformers import Trainer, TrainerCallback


@dataclass
class Logger:
    """A logger on a Trainer. `turn` on or off; `spent`: seconds in it since last asked; `close` after the training."""

    turn: Callable[[bool], None]
    spent: Callable[[], float]
    close: Callable[[], None] = field(default=lambda: None)


def _with_callback(trainer: Trainer, callback: TrainerCallback, close: Callable[[], None] = lambda: None) -> Logger:
    timed = Timed(callback)
    trainer.add_callback(timed)

    def turn(on: bool) -> None:
        timed.on = on

    def spent() -> float:
        seconds, timed.spent = timed.spent, 0.0
        return seconds

    return Logger(turn, spent, close)


def empty(trainer: Trainer, folder: Path) -> Logger:
    return _with_callback(trainer, TrainerCallback())


def naive(trainer: Trainer, folder: Path) -> Logger:
    """Twelve gauges and counters of prometheus_client, set from what the Trainer logs."""
    from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

    registry = CollectorRegistry()
    names = ("loss", "perplexity", "learning_rate", "gradient_norm", "epoch", "step", "max_steps", "progress", "last")
    gauges = {name: Gauge(f"naive_{name}", name, ["run"], registry=registry).labels("bench") for name in names}
    steps, tokens = (Counter(f"naive_{name}", name, ["run"], registry=registry).labels("bench") for name in "st")
    duration = Histogram("naive_step_seconds", "step", ["run"], registry=registry).labels("bench")

    class Naive(TrainerCallback):  # type: ignore[misc]
        began = 0.0

        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.began = time.perf_counter()

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            if "loss" not in logs:
                return
            gauges["loss"].set(logs["loss"])
            gauges["perplexity"].set(2.718281828 ** logs["loss"])
            gauges["learning_rate"].set(logs["learning_rate"])
            gauges["gradient_norm"].set(logs["grad_norm"])
            gauges["epoch"].set(state.epoch)
            gauges["step"].set(state.global_step)
            gauges["max_steps"].set(state.max_steps)
            gauges["progress"].set(state.global_step / state.max_steps)
            gauges["last"].set(time.time())
            steps.inc()
            tokens.inc(128)
            duration.observe(time.perf_counter() - self.began)

    return _with_callback(trainer, Naive())


def ours(trainer: Trainer, folder: Path) -> Logger:
    """`attach`, with journal and server: all figures of every step. The time in it is that of its hooks and of what it
    puts around the Trainer's methods."""
    from training_exporter import attach

    methods = ("training_step", "get_batch_samples", "_get_grad_norm")
    clock = _Around()
    plain = {name: getattr(trainer, name) for name in methods}
    for name in methods:
        setattr(trainer, name, clock.inner(plain[name]))
    callback = attach(trainer, "bench", output_dir=folder / "journal", port=0, gpu=False, linger_seconds=0)
    watched = {name: clock.outer(getattr(trainer, name)) for name in methods}
    callbacks = trainer.callback_handler.callbacks
    timed = callbacks[callbacks.index(callback)] = Timed(callback)
    probe = callback._steps
    count_ahead = probe._count_ahead
    probe._count_ahead = lambda batch: clock.timed(count_ahead, batch) if timed.on else None

    def turn(on: bool) -> None:
        timed.on = on
        for name, method in (watched if on else plain).items():
            setattr(trainer, name, method)
        probe._ahead.clear()

    def spent() -> float:
        seconds, timed.spent, clock.spent = timed.spent + clock.spent, 0.0, 0.0
        return seconds

    return Logger(turn, spent, callback.monitor.close)


class _Around:
    """Seconds spent between a method's outer and its inner end: in what was put around it."""

    def __init__(self) -> None:
        self.spent = 0.0

    def timed(self, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        began = time.perf_counter()
        try:
            return call(*args, **kwargs)
        finally:
            self.spent += time.perf_counter() - began

    def outer(self, method: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *args, **kwargs: self.timed(method, *args, **kwargs)

    def inner(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def untimed(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            try:
                return method(*args, **kwargs)
            finally:
                self.spent -= time.perf_counter() - began

        return untimed


def tensorboard(trainer: Trainer, folder: Path) -> Logger:
    from torch.utils.tensorboard import SummaryWriter
    from transformers.integrations import TensorBoardCallback

    return _with_callback(trainer, TensorBoardCallback(SummaryWriter(str(folder / "tensorboard"))))


def wandb(trainer: Trainer, folder: Path) -> Logger:
    os.environ.update(WANDB_MODE="offline", WANDB_DIR=str(folder), WANDB_SILENT="true", WANDB_CONSOLE="off")
    import wandb as library
    from transformers.integrations import WandbCallback

    return _with_callback(trainer, WandbCallback(), lambda: library.finish())


def mlflow(trainer: Trainer, folder: Path) -> Logger:
    os.environ.update(MLFLOW_TRACKING_URI=f"sqlite:///{folder}/mlflow.db", DISABLE_MLFLOW_INTEGRATION="FALSE")
    import mlflow as library
    from transformers.integrations import MLflowCallback

    return _with_callback(trainer, MLflowCallback(), library.end_run)


LOGGERS: dict[str, tuple[str, Callable[[Trainer, Path], Logger]]] = {
    "empty": ("an empty callback", empty),
    "naive": ("a naive Prometheus callback, 12 metrics", naive),
    "ours": ("**training-exporter**: every sign, journal, server", ours),
    "tensorboard": ("TensorBoardCallback", tensorboard),
    "wandb": ("WandbCallback, offline", wandb),
    "mlflow": ("MLflowCallback, SQLite", mlflow),
}

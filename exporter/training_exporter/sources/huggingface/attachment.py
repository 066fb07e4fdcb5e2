"""`attach`: every step of a Trainer, not only what it logs, and what the callback hooks do not tell."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from transformers import Trainer

from training_exporter.monitor import Monitor
from training_exporter.sources.huggingface.callback import PrometheusCallback
from training_exporter.sources.huggingface.probe import StepProbe


def attach(
    trainer: Trainer,
    run: str | None = None,
    *,
    settings: Mapping[str, object] | None = None,
    **options: Any,
) -> PrometheusCallback:
    """Watch `trainer`: every step's loss, gradient norm, tokens and times, and how the training ended.

    `run` names it (default: `TrainingArguments.run_name`, else the output directory and the time); `settings` are
    shown with it; options (`host`, `port`, `web_config`, `output_dir`, `linger_seconds`, ...) go to `Monitor`. In a
    distributed job call it on every process: the first one speaks for the run. Raises PortTaken for a demanded port
    that is taken, and WebConfigError for a file of TLS and passwords that cannot be used.
    """
    args = trainer.args
    monitor = None
    if trainer.is_world_process_zero():
        options.setdefault("output_dir", args.output_dir)
        monitor = Monitor(run or args.run_name, **options)
    callback = PrometheusCallback(settings=settings, monitor=monitor)
    trainer.add_callback(callback)
    if monitor is not None:
        with monitor.guard("attach"):
            callback._steps = StepProbe(monitor)
            callback._steps.install(trainer)
        with monitor.guard("attach"):
            watch_phases(trainer, callback)
    return callback


def watch_phases(trainer: Trainer, callback: PrometheusCallback) -> None:
    """What the callback hooks do not tell: when an evaluation or a checkpoint begins, and what ended the training."""

    def entering(phase: str, method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            callback.enter(phase)
            return method(*args, **kwargs)

        return wrapped

    train = trainer.train

    @functools.wraps(train)
    def watched_train(*args: Any, **kwargs: Any) -> Any:
        try:
            return train(*args, **kwargs)
        except BaseException as error:
            callback.left_by(error)
            raise

    trainer.train = watched_train
    trainer.evaluate = entering("evaluating", trainer.evaluate)
    trainer._save_checkpoint = entering("saving", trainer._save_checkpoint)

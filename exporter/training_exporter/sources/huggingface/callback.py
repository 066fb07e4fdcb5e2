"""The Trainer callback: turns the hooks that a Trainer calls into events."""

from __future__ import annotations

import dataclasses
import logging
import os
import time
from collections.abc import Mapping
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from training_exporter import events
from training_exporter.monitor import Monitor
from training_exporter.sources.huggingface.facts import is_out_of_memory, number, run_started
from training_exporter.sources.huggingface.probe import StepProbe
from training_exporter.sources.log_history import validation_loss

log = logging.getLogger(__name__)

#: Seconds between two signs of an evaluation that goes on.
PROGRESS_SECONDS = 10.0


class PrometheusCallback(TrainerCallback):  # type: ignore[misc]
    """Feeds a `Monitor` from any `Trainer`. Only the world's first process speaks.

    Used alone it reports what `Trainer` logs. `attach(trainer)` adds it and reports every step.
    `settings` are shown with the run and in the alerts' messages; options go to `Monitor`.
    """

    def __init__(
        self,
        run: str | None = None,
        *,
        settings: Mapping[str, object] | None = None,
        monitor: Monitor | None = None,
        **options: Any,
    ) -> None:
        self.monitor = monitor
        self._run = run
        self._options = options
        self._settings = {key: str(value) for key, value in (settings or {}).items()}
        self._ending = ("completed", "")
        self._steps: StepProbe | None = None
        self._step_began: float | None = None
        #: As the optimizer has it: a number, or a tensor that only its device can read.
        self._learning_rate: object = None
        #: Processes of the job.
        self._processes = 1
        self._phase = ""
        self._progress_told = 0.0

    def end_as(self, state: str, reason: str = "") -> None:
        """What to say when the training loop ends next (for a loop that somebody stops: `interrupted`)."""
        self._ending = (state, reason)

    @property
    def ending(self) -> str:
        """How the run ends when the loop is left without an error: `completed`, or what `end_as` said."""
        return self._ending[0]

    # -- hooks of TrainerCallback -----------------------------------------------------------------------------------

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if not state.is_world_process_zero:
            return
        if self.monitor is None:
            try:
                self.monitor = Monitor(self._run or args.run_name, output_dir=args.output_dir, **self._options)
            except Exception:
                log.warning("monitoring could not start; the training goes on without it", exc_info=True)
                return
        with self.monitor.guard("on_train_begin"):
            self._ending, self._phase = ("completed", ""), "starting"
            self._processes = args.world_size
            started = run_started(self.monitor.run, self._settings, args, state, kwargs)
            if self._steps is None:
                started = dataclasses.replace(started, logging_steps=max(1, state.logging_steps or 1))
            self.monitor.emit(started)

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self._steps is None:
            self._step_began = time.perf_counter()

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        # The rate with which this step was made: on_step_end already sees the next one.
        optimizer = kwargs.get("optimizer")
        if self.monitor is not None and optimizer is not None:
            try:
                self._learning_rate = optimizer.param_groups[0]["lr"]
            except Exception as error:
                self.monitor.failed("on_optimizer_step", error)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self.monitor is None:
            return
        try:
            self._phase = "training"
            if self._steps is not None:
                self.monitor.emit_steps(
                    self._steps.step_ended(state.global_step, state.epoch, self._processes, self._learning_rate)
                )
            else:
                began = self._step_began
                self.monitor.emit(
                    events.StepEnded(
                        time=time.time(),
                        step=state.global_step,
                        epoch=state.epoch,
                        duration_seconds=None if began is None else time.perf_counter() - began,
                        learning_rate=number(self._learning_rate),
                    )
                )
        except Exception as error:
            self.monitor.failed("on_step_end", error)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if self.monitor is None or not logs:
            return
        if self._steps is not None:
            if self._steps.in_flight:
                self._emit_arrived()
            return
        with self.monitor.guard("on_log"):
            if "loss" in logs:
                self.monitor.emit(
                    events.LossLogged(
                        time=time.time(),
                        step=state.global_step,
                        steps=max(1, int(args.logging_steps)),
                        epoch=state.epoch,
                        loss=float(logs["loss"]),
                        gradient_norm=number(logs.get("grad_norm")),
                        learning_rate=number(logs.get("learning_rate")),
                    )
                )

    def on_prediction_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.enter("evaluating")
        self.progressed()

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if self.monitor is None or not self._phase:
            return
        with self.monitor.guard("on_evaluate"):
            if self._steps is not None:
                self._emit_arrived()
            loss = number(validation_loss(metrics or {}))
            if loss is not None:
                self.monitor.emit(
                    events.Evaluated(
                        time=time.time(),
                        step=state.global_step,
                        epoch=state.epoch,
                        loss=loss,
                        runtime_seconds=number((metrics or {}).get("eval_runtime")),
                    )
                )
            self.enter("training")

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self.monitor is None:
            return
        with self.monitor.guard("on_save"):
            if self._steps is not None:
                # Saving has waited for the device: what a resumed run counts on is in the journal with the checkpoint.
                self._emit_arrived()
            path = os.path.join(args.output_dir, f"checkpoint-{state.global_step}")
            self.monitor.emit(events.CheckpointSaved(time=time.time(), step=state.global_step, path=path))
            self.enter("training")

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.monitor is None:
            return
        with self.monitor.guard("on_train_end"):
            self.flush()
            self.monitor.end(*self._ending)

    # -- for `attach` -----------------------------------------------------------------------------------------------

    def enter(self, phase: str) -> None:
        """Say that the run is now evaluating, saving or training; once per change, and only inside a training."""
        if self.monitor is None or self._phase == phase or not self._phase or self.monitor.ended:
            return
        self._phase, self._progress_told = phase, time.monotonic()
        with self.monitor.guard("phase"):
            self.monitor.emit(events.PhaseChanged(time=time.time(), state=phase))

    def progressed(self) -> None:
        """Say, every few seconds at most, that a phase without steps goes on."""
        if self.monitor is None or not self._phase or self.monitor.ended:
            return
        if time.monotonic() - self._progress_told >= PROGRESS_SECONDS:
            self._progress_told = time.monotonic()
            with self.monitor.guard("phase"):
                self.monitor.emit(events.Progressed(time=time.time()))

    def flush(self) -> None:
        """Take the figures that are still on their way. Waits for the device: only when the loop is over."""
        if self._steps is not None:
            self._steps.wait()
            self._emit_arrived()

    def left_by(self, error: BaseException) -> None:
        """The training loop was left by an exception."""
        if self.monitor is None:
            return
        with self.monitor.guard("exception"):
            step = self.monitor.state.step or 0
            if isinstance(error, KeyboardInterrupt | SystemExit):
                self.monitor.end("interrupted", type(error).__name__)
                return
            first_line = (str(error).strip().splitlines() or [""])[0][:500]
            if is_out_of_memory(error):
                self.monitor.emit(events.OutOfMemory(time=time.time(), step=step, message=first_line))
            self.monitor.end("failed", f"{type(error).__name__}: {first_line}" if first_line else type(error).__name__)

    def _emit_arrived(self) -> None:
        assert self.monitor is not None
        assert self._steps is not None
        try:
            if makers := self._steps.arrived():
                self.monitor.emit_steps(makers)
        except Exception as error:
            self.monitor.failed("arrived", error)

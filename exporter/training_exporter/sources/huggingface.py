"""Events from a live Hugging Face `Trainer`.

An exception in a Trainer callback ends the run, and a Python `if` on a CUDA tensor stalls the GPU. So every hook here
runs inside a guard that lets no error through, and no tensor is looked at before its copy has reached the host.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import math
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

import torch
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from training_exporter import events
from training_exporter.monitor import Monitor
from training_exporter.sources.log_history import validation_loss

log = logging.getLogger(__name__)

#: Seconds between two signs of an evaluation that goes on.
PROGRESS_SECONDS = 10.0

#: Seconds between two events about the processes of a job.
RANKS_EVERY_SECONDS = 2.0

#: Steps whose figures may be on their way from the device; beyond that a step is left out rather than waited for.
MAX_IN_FLIGHT = 32


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
        self._steps: _StepProbe | None = None
        self._step_began: float | None = None
        self._learning_rate: float | None = None
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
            started = _run_started(self.monitor.run, self._settings, args, state, kwargs)
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
            with self.monitor.guard("on_optimizer_step"):
                rate = optimizer.param_groups[0]["lr"]
                self._learning_rate = float(rate) if isinstance(rate, int | float) else None

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self.monitor is None:
            return
        with self.monitor.guard("on_step_end"):
            now, began = time.perf_counter(), self._step_began
            tokens = wait = compute = optimizer = None
            if self._steps is not None:
                began, wait, tokens = self._steps.began, self._steps.data_wait, self._steps.tokens
                compute, optimizer = self._steps.timer.on_host(now)
            self._phase = "training"
            self.monitor.emit(
                events.StepEnded(
                    time=time.time(),
                    step=state.global_step,
                    epoch=state.epoch,
                    tokens=None if tokens is None else tokens * args.world_size,
                    duration_seconds=None if began is None else now - began,
                    data_wait_seconds=wait,
                    forward_backward_seconds=compute,
                    optimizer_seconds=optimizer,
                    learning_rate=self._learning_rate,
                )
            )
            if self._steps is not None:
                self._steps.step_ended(state.global_step, state.epoch, args.world_size)
                self._emit_arrived()

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
        with self.monitor.guard("on_log"):
            if self._steps is not None:
                self._emit_arrived()
            elif "loss" in logs:
                self.monitor.emit(
                    events.LossLogged(
                        time=time.time(),
                        step=state.global_step,
                        steps=max(1, int(args.logging_steps)),
                        epoch=state.epoch,
                        loss=float(logs["loss"]),
                        gradient_norm=_number(logs.get("grad_norm")),
                        learning_rate=_number(logs.get("learning_rate")),
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
            loss = _number(validation_loss(metrics or {}))
            if loss is not None:
                self.monitor.emit(
                    events.Evaluated(
                        time=time.time(),
                        step=state.global_step,
                        epoch=state.epoch,
                        loss=loss,
                        runtime_seconds=_number((metrics or {}).get("eval_runtime")),
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
        for event in self._steps.arrived():
            self.monitor.emit(event)


def attach(
    trainer: Trainer,
    run: str | None = None,
    *,
    settings: Mapping[str, object] | None = None,
    **options: Any,
) -> PrometheusCallback:
    """Watch `trainer`: every step's loss, gradient norm, tokens and times, and how the training ended.

    `run` names it (default: `TrainingArguments.run_name`, else the output directory and the time); `settings` are
    shown with it; options (`host`, `port`, `output_dir`, `linger_seconds`, ...) go to `Monitor`. In a distributed job
    call it on every process: the first one speaks for the run. Raises PortTaken for a demanded port that is taken.
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
            callback._steps = _StepProbe(monitor)
            callback._steps.install(trainer)
        with monitor.guard("attach"):
            _watch_phases(trainer, callback)
    return callback


def _watch_phases(trainer: Trainer, callback: PrometheusCallback) -> None:
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


class _StepProbe:
    """Takes each optimizer step's loss, gradient norm, tokens and times out of a running Trainer.

    On a CUDA device the figures are summed there, copied asynchronously into pinned memory, and read once an event
    says that the copy is done: one step later, without a synchronization. On the CPU they are there at once.
    """

    def __init__(self, monitor: Monitor) -> None:
        self._monitor = monitor
        self.timer = _StepTimer("cpu")
        self.began: float | None = None
        self.data_wait: float | None = None
        self._loss: torch.Tensor | None = None
        self._gradient_norm: torch.Tensor | float | None = None
        self._tokens: int | None = None
        self._device_tokens: torch.Tensor | None = None
        #: Tokens of the batches that the data loader has handed out and the training has not yet taken.
        self._ahead: deque[int] = deque()
        self._in_flight: deque[_InFlight] = deque()
        self._trainer: Trainer | None = None
        self._ranks_told = -math.inf

    def install(self, trainer: Trainer) -> None:
        """Put the probe between the Trainer's loop and four of its methods."""
        self._trainer = trainer
        training_step, get_batch_samples = trainer.training_step, trainer.get_batch_samples
        get_train_dataloader, gradient_norm = trainer.get_train_dataloader, trainer._get_grad_norm
        guard = self._monitor.guard
        self.timer = timer = _StepTimer(trainer.args.device.type)

        @functools.wraps(get_train_dataloader)
        def watched_dataloader(*args: Any, **kwargs: Any) -> Any:
            loader = get_train_dataloader(*args, **kwargs)
            with guard("data_loader"):
                self._watch_batches(loader)
            return loader

        @functools.wraps(get_batch_samples)
        def watched_batches(*args: Any, **kwargs: Any) -> Any:
            # A step that an error cut short (`auto_find_batch_size` tries again) is no part of this one.
            self._loss = self._tokens = self._device_tokens = None
            timer.reset()
            self.began = time.perf_counter()
            result = get_batch_samples(*args, **kwargs)
            self.data_wait = time.perf_counter() - self.began
            return result

        @functools.wraps(training_step)
        def watched_step(model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            with guard("tokens"):
                self._take_tokens(inputs)
            with guard("step_time"):
                timer.passes_begin()
            loss = training_step(model, inputs, *args, **kwargs)
            with guard("step_time"):
                timer.passes_ended()
            with guard("loss"):
                part = loss.detach()
                self._loss = part if self._loss is None else self._loss + part
            return loss

        @functools.wraps(gradient_norm)
        def watched_norm(*args: Any, **kwargs: Any) -> Any:
            norm = gradient_norm(*args, **kwargs)
            self._gradient_norm = norm
            return norm

        trainer.get_train_dataloader = watched_dataloader
        trainer.get_batch_samples = watched_batches
        trainer.training_step = watched_step
        trainer._get_grad_norm = watched_norm

    @property
    def tokens(self) -> int | None:
        """Tokens of the step in hand, as far as they could be counted on the host; of the whole job see `_ranks`."""
        return self._tokens if self._ranks is None else None

    @property
    def _ranks(self) -> torch.Tensor | None:
        """(processes, 2): tokens and seconds of the step in hand, from a trainer that knows them."""
        return getattr(self._trainer, "job_figures", None)

    def step_ended(self, step: int, epoch: float | None, world_size: int) -> None:
        """Send the step's figures on their way and start afresh."""
        loss, norm, device_tokens, ranks = self._loss, self._gradient_norm, self._device_tokens, self._ranks
        self._loss = self._gradient_norm = self._tokens = self._device_tokens = None
        times = self.timer.step_ended()
        if loss is None or len(self._in_flight) >= MAX_IN_FLIGHT:
            return
        self._in_flight.append(_InFlight(step, epoch, world_size, loss, norm, device_tokens, times, ranks))

    def arrived(self) -> Iterator[events.Event]:
        """The figures that have reached the host, oldest first."""
        while self._in_flight and self._in_flight[0].ready():
            flight = self._in_flight.popleft()
            yield flight.event()
            now = time.monotonic()
            if flight.processes and now >= self._ranks_told + RANKS_EVERY_SECONDS:
                self._ranks_told = now
                yield flight.ranks_timed()

    def wait(self) -> None:
        """Block until all figures have reached the host."""
        for flight in self._in_flight:
            flight.wait()

    def _watch_batches(self, loader: Any) -> None:
        """Count the tokens of each batch on the host, before the data loader sends it to the device."""
        self._ahead.clear()
        base = getattr(loader, "base_dataloader", loader)
        if not isinstance(base, torch.utils.data.DataLoader):
            return
        original = base._get_iterator

        def counted() -> Any:
            # What an earlier epoch fetched and never used is not ahead of this one.
            self._ahead.clear()
            return _CountingIterator(original(), self._count_ahead, self._monitor)

        base._get_iterator = counted

    def _count_ahead(self, batch: Any) -> None:
        tokens = _token_tensor(batch)
        self._ahead.append(int(tokens.sum()) if tokens is not None else 0)

    def _take_tokens(self, inputs: Any) -> None:
        if self._ahead:
            self._tokens = (self._tokens or 0) + self._ahead.popleft()
            return
        # A batch that no watched loader handed out, as in the epoch that resumes from a checkpoint.
        mask = _token_tensor(inputs)
        if mask is None:
            return
        if mask.device.type == "cpu":
            self._tokens = (self._tokens or 0) + int(mask.sum())
        else:
            count = mask.sum()
            self._device_tokens = count if self._device_tokens is None else self._device_tokens + count


class _CountingIterator:
    """A data loader's iterator that shows each batch to `see`; everything else is the iterator's own."""

    def __init__(self, iterator: Any, see: Callable[[Any], None], monitor: Monitor) -> None:
        self._iterator, self._see, self._monitor = iterator, see, monitor

    def __iter__(self) -> _CountingIterator:
        return self

    def __next__(self) -> Any:
        batch = next(self._iterator)
        with self._monitor.guard("tokens"):
            self._see(batch)
        return batch

    def __getattr__(self, name: str) -> Any:
        return getattr(self._iterator, name)


#: Ends of a step's parts on the device: its passes begin, its passes are done, the step is done.
_Marks = tuple["torch.cuda.Event", "torch.cuda.Event", "torch.cuda.Event"]


class _StepTimer:
    """Takes apart the time of an optimizer step: forward and backward passes of all its batches, and what follows.

    The CPU computes while the host waits for it, so the host's clock tells. A CUDA device is only told what to do:
    there, events are put between its pieces of work and read when it has passed them, without a synchronization. Of
    other devices nothing is known here. DeepSpeed's optimizer runs within the last backward pass, and counts there.
    """

    __slots__ = ("_begun", "_cuda", "_ended", "_host", "_host_begun", "_host_ended")

    def __init__(self, device: str) -> None:
        self._host, self._cuda = device == "cpu", device == "cuda"
        self._host_begun: float | None = None
        self._host_ended: float | None = None
        self._begun: torch.cuda.Event | None = None
        self._ended: torch.cuda.Event | None = None

    def passes_begin(self) -> None:
        """The passes of a batch come next; those of the step's first batch begin its time."""
        if self._host and self._host_begun is None:
            self._host_begun = time.perf_counter()
        elif self._cuda and self._begun is None:
            self._begun, self._ended = _timed_event(), _timed_event()
            self._begun.record()

    def passes_ended(self) -> None:
        """The passes of a batch were computed (or asked for); those of the step's last batch end its time."""
        if self._host:
            self._host_ended = time.perf_counter()
        elif self._ended is not None:
            self._ended.record()

    def on_host(self, now: float) -> tuple[float | None, float | None]:
        """Seconds of both parts of the step that ended `now` (perf_counter); None where the host cannot tell."""
        if self._host_begun is None or self._host_ended is None:
            return None, None
        return self._host_ended - self._host_begun, now - self._host_ended

    def step_ended(self) -> _Marks | None:
        """Start afresh; what a CUDA device must pass before both parts are known."""
        begun, ended = self._begun, self._ended
        self.reset()
        if begun is None or ended is None:
            return None
        done = _timed_event()
        done.record()
        return begun, ended, done

    def reset(self) -> None:
        """Forget the step in hand."""
        self._host_begun = self._host_ended = self._begun = self._ended = None


def _timed_event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)


class _InFlight:
    """A step's figures on their way from the device to the host: loss, gradient norm, tokens, times."""

    __slots__ = (
        "_arrival", "_epoch", "_has_norm", "_has_tokens", "_step", "_time", "_times", "_values", "_world_size",
        "processes",
    )  # fmt: skip

    def __init__(
        self,
        step: int,
        epoch: float | None,
        world_size: int,
        loss: torch.Tensor,
        norm: torch.Tensor | float | None,
        tokens: torch.Tensor | None,
        times: _Marks | None,
        ranks: torch.Tensor | None = None,
    ) -> None:
        #: Processes of which tokens and seconds are known, each its own.
        self.processes = 0 if ranks is None else len(ranks)
        if ranks is not None:
            tokens, world_size = ranks[:, 0].sum(), 1
        self._step, self._epoch, self._world_size, self._time = step, epoch, world_size, time.time()
        self._times = times
        # A sharded norm (DTensor) would need a collective to be read: left out.
        self._has_norm = isinstance(norm, int | float) or (
            type(norm) is torch.Tensor and cast(torch.Tensor, norm).numel() == 1
        )
        self._has_tokens = tokens is not None
        parts = [loss.reshape(()).double()]
        if self._has_norm:
            parts.append(torch.as_tensor(norm, dtype=torch.float64).to(loss.device, non_blocking=True).reshape(()))
        if tokens is not None:
            parts.append(tokens.double().reshape(()))
        figures = torch.stack(parts)
        if ranks is not None:
            figures = torch.cat([figures, ranks[:, 1].to(figures.device, torch.float64)])
        self._arrival: torch.cuda.Event | None = None
        if figures.device.type == "cuda":
            self._values = torch.empty(figures.shape, dtype=figures.dtype, pin_memory=True)
            self._values.copy_(figures, non_blocking=True)
            self._arrival = torch.cuda.Event()
            # On the stream that copies: with a model on several devices the loss lies on the last of them.
            self._arrival.record(torch.cuda.current_stream(figures.device))
        else:
            self._values = figures

    def ready(self) -> bool:
        return (self._arrival is None or bool(self._arrival.query())) and (
            self._times is None or bool(self._times[-1].query())
        )

    def wait(self) -> None:
        if self._arrival is not None:
            self._arrival.synchronize()
        if self._times is not None:
            self._times[-1].synchronize()

    def event(self) -> events.LossLogged:
        values = self._values.tolist()
        begun, ended, done = self._times or (None, None, None)
        return events.LossLogged(
            time=self._time,
            step=self._step,
            epoch=self._epoch,
            loss=values[0],
            gradient_norm=values[1] if self._has_norm else None,
            tokens=int(values[1 + self._has_norm]) * self._world_size if self._has_tokens else None,
            forward_backward_seconds=_seconds(begun, ended),
            optimizer_seconds=_seconds(ended, done),
        )

    def ranks_timed(self) -> events.RanksTimed:
        seconds = tuple(self._values.tolist()[-self.processes :])
        return events.RanksTimed(time=self._time, step=self._step, seconds=seconds)


def _seconds(start: torch.cuda.Event | None, end: torch.cuda.Event | None) -> float | None:
    """Device time between two events that were passed; None where they cannot be compared."""
    if start is None or end is None:
        return None
    try:
        return float(start.elapsed_time(end)) / 1e3
    except (RuntimeError, ValueError):
        # Recorded on two devices: somebody changed the current one within the step.
        return None


def is_out_of_memory(error: BaseException) -> bool:
    """True for an allocation that failed, on a device or in host memory."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate memory" in text)


def _token_tensor(batch: Any) -> torch.Tensor | None:
    """A tensor whose sum is the number of non-padding tokens of a batch; None when the batch has no tokens."""
    if not isinstance(batch, Mapping):
        return None
    mask = batch.get("attention_mask")
    if isinstance(mask, torch.Tensor) and mask.dim() == 2:
        return mask
    ids = batch.get("input_ids")
    if not isinstance(ids, torch.Tensor):
        return None
    # Without a mask nothing is padding: padding-free and packed batches have none.
    return torch.tensor(ids.numel())


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _run_started(
    run: str, settings: Mapping[str, str], args: TrainingArguments, state: TrainerState, kwargs: Mapping[str, Any]
) -> events.RunStarted:
    model = kwargs.get("model")
    config = getattr(model, "config", None)
    vocabulary = getattr(config, "vocab_size", None)
    scheduler = str(getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type))
    # What the Trainer itself knows; what the caller says goes first.
    known = {
        "base_model": str(getattr(config, "_name_or_path", "") or getattr(config, "model_type", "")),
        "batch_size": str(args.per_device_train_batch_size),
        "gradient_accumulation_steps": str(args.gradient_accumulation_steps),
        "learning_rate": f"{args.learning_rate:g}",
        "lr_scheduler": scheduler,
        "num_epochs": f"{state.num_train_epochs:g}",
    }
    if args.device.type == "cuda":
        known["gpu"] = torch.cuda.get_device_name(args.device)
        known["world_size"] = str(args.world_size * max(1, args.n_gpu))  # n_gpu > 1: one process with DataParallel
    return events.RunStarted(
        time=time.time(),
        run=run,
        max_steps=state.max_steps if state.max_steps > 0 else None,
        num_epochs=float(state.num_train_epochs),
        step=state.global_step,
        peak_learning_rate=float(args.learning_rate),
        lr_scheduler=scheduler,
        warmup_steps=int(args.get_warmup_steps(state.max_steps)),
        vocabulary_size=vocabulary if isinstance(vocabulary, int) else None,
        settings={**known, **settings},
    )

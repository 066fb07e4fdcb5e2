"""Between a Trainer's loop and its methods: the figures of each optimizer step."""

from __future__ import annotations

import functools
import math
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import torch
from transformers import Trainer

from training_exporter.monitor import Maker, Monitor
from training_exporter.sources.huggingface.device import InFlight, StepTimer
from training_exporter.sources.huggingface.notes import StepNotes, Tokens, tokens_of

#: Seconds between two events about the processes of a job.
RANKS_EVERY_SECONDS = 2.0

#: Steps whose figures may be on their way from the device; beyond that a step is left out rather than waited for.
MAX_IN_FLIGHT = 32


class StepProbe:
    """Takes each optimizer step's loss, gradient norm, tokens and times out of a running Trainer.

    On a CUDA device the figures are summed there, copied asynchronously into pinned memory, and read once an event
    says that the copy is done: one step later, without a synchronization. On the CPU they are there at once, and are
    read when their events are made.
    """

    def __init__(self, monitor: Monitor) -> None:
        self._monitor = monitor
        self._notes = StepNotes()
        #: The host computes, so that its clock tells.
        self._on_host = False
        self._timer: StepTimer | None = None
        #: Of the batches that the data loader has handed out and the training has not yet taken.
        self._ahead: deque[Tokens] = deque()
        #: Steps whose figures have not reached the host.
        self.in_flight: deque[InFlight] = deque()
        self._trainer: Trainer | None = None
        self._ranks_told = -math.inf

    def install(self, trainer: Trainer) -> None:
        """Put the probe between the Trainer's loop and four of its methods."""
        self._trainer = trainer
        training_step, get_batch_samples = trainer.training_step, trainer.get_batch_samples
        get_train_dataloader, gradient_norm = trainer.get_train_dataloader, trainer._get_grad_norm
        failed, clock, ahead = self._monitor.failed, time.perf_counter, self._ahead
        self._on_host = trainer.args.device.type == "cpu"
        timer = self._timer = StepTimer() if trainer.args.device.type == "cuda" else None

        @functools.wraps(get_train_dataloader)
        def watched_dataloader(*args: Any, **kwargs: Any) -> Any:
            loader = get_train_dataloader(*args, **kwargs)
            with self._monitor.guard("data_loader"):
                self._watch_batches(loader)
            return loader

        @functools.wraps(get_batch_samples)
        def watched_batches(*args: Any, **kwargs: Any) -> Any:
            # A step that an error cut short (`auto_find_batch_size` tries again) is no part of this one.
            notes = self._notes = StepNotes()
            if timer is not None:
                timer.reset()
            notes.began = clock()
            result = get_batch_samples(*args, **kwargs)
            notes.data_came = clock()
            return result

        # What comes next runs in every step: `try` costs nothing there, a context as much as all the rest.
        @functools.wraps(training_step)
        def watched_step(model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            notes = self._notes
            try:
                # Without any ahead: a batch of no watched loader, as in the epoch that resumes from a checkpoint.
                notes.tokens.append(ahead.popleft() if ahead else tokens_of(inputs))
                if notes.passes_began is None:
                    notes.passes_began = clock()
                if timer is not None:
                    timer.passes_begin()
            except Exception as error:
                failed("step", error)
            loss = training_step(model, inputs, *args, **kwargs)
            try:
                notes.losses.append(loss.detach() if loss.requires_grad else loss)
                notes.passes_ended = clock()
                if timer is not None:
                    timer.passes_ended()
            except Exception as error:
                failed("step", error)
            return loss

        @functools.wraps(gradient_norm)
        def watched_norm(*args: Any, **kwargs: Any) -> Any:
            norm = self._notes.gradient_norm = gradient_norm(*args, **kwargs)
            return norm

        trainer.get_train_dataloader = watched_dataloader
        trainer.get_batch_samples = watched_batches
        trainer.training_step = watched_step
        trainer._get_grad_norm = watched_norm

    @property
    def _ranks(self) -> torch.Tensor | None:
        """(processes, 2): tokens and seconds of the step in hand, from a trainer that knows them."""
        return getattr(self._trainer, "job_figures", None)

    def step_ended(self, step: int, epoch: float | None, processes: int, learning_rate: object) -> list[Maker]:
        """What makes the events of the step, as far as it is known, and of figures that have reached the host.

        `processes` of the job; `learning_rate` as the optimizer has it.
        """
        notes = self._notes
        notes.end(step, epoch, processes, learning_rate)
        ranks = self._ranks
        if self._on_host and ranks is None:
            return [notes.events]
        notes.known_by_job, notes.host_waits = ranks is not None, self._on_host
        times = self._timer.step_ended() if self._timer is not None else None
        if notes.losses and len(self.in_flight) < MAX_IN_FLIGHT:
            self.in_flight.append(InFlight(notes, times, ranks))
        return [notes.step_ended, *self.arrived()]

    def arrived(self) -> list[Maker]:
        """What makes the events of the figures that have reached the host, oldest first."""
        makers: list[Maker] = []
        while self.in_flight and self.in_flight[0].ready():
            flight = self.in_flight.popleft()
            now = time.monotonic()
            if flight.processes and now >= self._ranks_told + RANKS_EVERY_SECONDS:
                self._ranks_told = now
                makers.append(flight.events_with_ranks)
            else:
                makers.append(flight.events)
        return makers

    def wait(self) -> None:
        """Block until all figures have reached the host."""
        for flight in self.in_flight:
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
        self._ahead.append(tokens_of(batch))


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

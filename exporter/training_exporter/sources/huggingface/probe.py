"""Between a Trainer's loop and its methods: the figures of each optimizer step."""

from __future__ import annotations

import functools
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from transformers import Trainer

from training_exporter import events
from training_exporter.monitor import Monitor
from training_exporter.sources.huggingface.device import InFlight, StepTimer

#: Seconds between two events about the processes of a job.
RANKS_EVERY_SECONDS = 2.0

#: Steps whose figures may be on their way from the device; beyond that a step is left out rather than waited for.
MAX_IN_FLIGHT = 32


class StepProbe:
    """Takes each optimizer step's loss, gradient norm, tokens and times out of a running Trainer.

    On a CUDA device the figures are summed there, copied asynchronously into pinned memory, and read once an event
    says that the copy is done: one step later, without a synchronization. On the CPU they are there at once.
    """

    def __init__(self, monitor: Monitor) -> None:
        self._monitor = monitor
        self.timer = StepTimer("cpu")
        self.began: float | None = None
        self.data_wait: float | None = None
        self._loss: torch.Tensor | None = None
        self._gradient_norm: torch.Tensor | float | None = None
        self._tokens: int | None = None
        self._device_tokens: torch.Tensor | None = None
        #: Tokens of the batches that the data loader has handed out and the training has not yet taken.
        self._ahead: deque[int] = deque()
        self._in_flight: deque[InFlight] = deque()
        self._trainer: Trainer | None = None
        self._ranks_told = -math.inf

    def install(self, trainer: Trainer) -> None:
        """Put the probe between the Trainer's loop and four of its methods."""
        self._trainer = trainer
        training_step, get_batch_samples = trainer.training_step, trainer.get_batch_samples
        get_train_dataloader, gradient_norm = trainer.get_train_dataloader, trainer._get_grad_norm
        guard = self._monitor.guard
        self.timer = timer = StepTimer(trainer.args.device.type)

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
        self._in_flight.append(InFlight(step, epoch, world_size, loss, norm, device_tokens, times, ranks))

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
        tokens = token_tensor(batch)
        self._ahead.append(int(tokens.sum()) if tokens is not None else 0)

    def _take_tokens(self, inputs: Any) -> None:
        if self._ahead:
            self._tokens = (self._tokens or 0) + self._ahead.popleft()
            return
        # A batch that no watched loader handed out, as in the epoch that resumes from a checkpoint.
        mask = token_tensor(inputs)
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


def token_tensor(batch: Any) -> torch.Tensor | None:
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

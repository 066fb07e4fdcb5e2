"""What the training's thread writes down of an optimizer step: only what costs it next to nothing."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, TypeAlias

import torch

from training_exporter.events import Event, LossLogged, StepEnded
from training_exporter.sources.huggingface.facts import number

#: How many non-padding tokens a batch has: a tensor of which it is the sum, or the number; None: it has no tokens.
Tokens: TypeAlias = torch.Tensor | int | None


class StepNotes:
    """One optimizer step. What it means is worked out by `events`, on another thread and later.

    `began`, `data_came`, `passes_began`, `passes_ended` and `ended` are those of `time.perf_counter`, None: not known.
    """

    __slots__ = (
        "began", "data_came", "ended", "epoch", "gradient_norm", "host_waits", "known_by_job", "learning_rate",
        "losses", "passes_began", "passes_ended", "processes", "step", "time", "tokens",
    )  # fmt: skip

    def __init__(self) -> None:
        self.began: float | None = None
        self.data_came: float | None = None
        self.passes_began: float | None = None
        self.passes_ended: float | None = None
        #: Of each batch: what `training_step` gave, and its tokens.
        self.losses: list[torch.Tensor] = []
        self.tokens: list[Tokens] = []
        self.gradient_norm: torch.Tensor | float | None = None
        #: The tokens of the whole job are known from elsewhere.
        self.known_by_job = False
        #: The host computes, or waits for what does: its clock tells of the passes.
        self.host_waits = True

    def end(self, step: int, epoch: float | None, processes: int, learning_rate: object) -> None:
        """The optimizer has made the step."""
        self.time, self.ended = time.time(), time.perf_counter()
        self.step, self.epoch, self.processes, self.learning_rate = step, epoch, processes, learning_rate

    def events(self) -> tuple[Event, ...]:
        """All of the step, where the host computes."""
        if not self.losses:
            return self.step_ended()
        return *self.step_ended(), LossLogged(
            time=self.time,
            step=self.step,
            epoch=self.epoch,
            loss=sum(map(float, self.losses)),
            gradient_norm=None if (norm := readable(self.gradient_norm)) is None else float(norm),
        )

    def step_ended(self) -> tuple[Event, ...]:
        """What the host knows of the step."""
        tokens = [each for each in self.tokens if each is not None and _on_host(each)]
        return (
            StepEnded(
                time=self.time,
                step=self.step,
                epoch=self.epoch,
                tokens=sum(map(_sum, tokens)) * self.processes if tokens and not self.known_by_job else None,
                duration_seconds=_between(self.began, self.ended),
                data_wait_seconds=_between(self.began, self.data_came),
                forward_backward_seconds=_between(self.passes_began, self.passes_ended) if self.host_waits else None,
                optimizer_seconds=_between(self.passes_ended, self.ended) if self.host_waits else None,
                learning_rate=number(self.learning_rate),
            ),
        )

    def tokens_on_device(self) -> torch.Tensor | None:
        """The sum of what lies on a device, there."""
        sums = [each.sum() for each in self.tokens if isinstance(each, torch.Tensor) and not _on_host(each)]
        return torch.stack(sums).sum() if sums else None


def tokens_of(batch: Any) -> Tokens:
    """The non-padding tokens of a batch."""
    if not isinstance(batch, Mapping):
        return None
    mask: Any = batch.get("attention_mask")
    if isinstance(mask, torch.Tensor) and mask.dim() == 2:
        return mask
    ids: Any = batch.get("input_ids")
    # Without a mask nothing is padding: padding-free and packed batches have none.
    return ids.numel() if isinstance(ids, torch.Tensor) else None


def readable(norm: torch.Tensor | float | None) -> torch.Tensor | float | None:
    """A gradient norm that can be read, else None: a sharded one (DTensor) would need a collective."""
    if isinstance(norm, torch.Tensor):
        return norm if type(norm) is torch.Tensor and norm.numel() == 1 else None
    return norm


def _on_host(value: object) -> bool:
    return not isinstance(value, torch.Tensor) or value.is_cpu


def _sum(tokens: torch.Tensor | int) -> int:
    # NumPy's sum stays on the thread that asks for it; torch's of a large mask takes all cores.
    return tokens if isinstance(tokens, int) else int(tokens.long().numpy().sum())


def _between(start: float | None, end: float | None) -> float | None:
    return None if start is None or end is None else end - start

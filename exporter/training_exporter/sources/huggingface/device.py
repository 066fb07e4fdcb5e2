"""Times and figures that a device still works on: taken off it without waiting for it."""

from __future__ import annotations

import time
from typing import cast

import torch

from training_exporter import events

#: Ends of a step's parts on the device: its passes begin, its passes are done, the step is done.
Marks = tuple["torch.cuda.Event", "torch.cuda.Event", "torch.cuda.Event"]


class StepTimer:
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

    def step_ended(self) -> Marks | None:
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


class InFlight:
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
        times: Marks | None,
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
        parts = [loss, *([norm] if self._has_norm else ()), *([tokens] if self._has_tokens else ())]
        self._values: torch.Tensor | list[float]
        self._arrival: torch.cuda.Event | None = None
        if ranks is None and all(_on_host(part) for part in parts):
            # Nothing is on its way, and making one tensor of them would take longer than all else at a step's end.
            self._values = [float(cast(float, part)) for part in parts]
            return
        # On the device of the loss.
        figures = torch.stack(
            [
                torch.as_tensor(part, dtype=torch.float64).to(loss.device, non_blocking=True).reshape(())
                for part in parts
            ]
        )
        if ranks is not None:
            figures = torch.cat([figures, ranks[:, 1].to(figures.device, torch.float64)])
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
        values = self._figures()
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
        seconds = tuple(self._figures()[-self.processes :])
        return events.RanksTimed(time=self._time, step=self._step, seconds=seconds)

    def _figures(self) -> list[float]:
        values = self._values
        return values if isinstance(values, list) else values.tolist()


def _on_host(value: object) -> bool:
    return not isinstance(value, torch.Tensor) or value.device.type == "cpu"


def _seconds(start: torch.cuda.Event | None, end: torch.cuda.Event | None) -> float | None:
    """Device time between two events that were passed; None where they cannot be compared."""
    if start is None or end is None:
        return None
    try:
        return float(start.elapsed_time(end)) / 1e3
    except (RuntimeError, ValueError):
        # Recorded on two devices: somebody changed the current one within the step.
        return None

"""Times and figures that a device still works on: taken off it without waiting for it."""

from __future__ import annotations

import torch

from training_exporter.events import Event, LossLogged, RanksTimed
from training_exporter.sources.huggingface.notes import StepNotes, readable

#: Ends of a step's parts on the device: its passes begin, its passes are done, the step is done.
Marks = tuple["torch.cuda.Event", "torch.cuda.Event", "torch.cuda.Event"]


class StepTimer:
    """Takes apart the time of an optimizer step on a CUDA device: forward and backward passes of all its batches, and
    what follows.

    The host only tells the device what to do: so events are put between its pieces of work and read when it has passed
    them, without a synchronization. DeepSpeed's optimizer runs within the last backward pass, and counts there.
    """

    __slots__ = ("_begun", "_ended")

    def __init__(self) -> None:
        self._begun: torch.cuda.Event | None = None
        self._ended: torch.cuda.Event | None = None

    def passes_begin(self) -> None:
        """The passes of a batch come next; those of the step's first batch begin its time."""
        if self._begun is None:
            self._begun, self._ended = _timed_event(), _timed_event()
            self._begun.record()

    def passes_ended(self) -> None:
        """The passes of a batch were asked for; those of the step's last batch end its time."""
        if self._ended is not None:
            self._ended.record()

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
        self._begun = self._ended = None


def _timed_event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)


class InFlight:
    """A step's figures on their way from the device to the host: loss, gradient norm, tokens, times."""

    __slots__ = (
        "_arrival", "_epoch", "_has_norm", "_has_tokens", "_step", "_time", "_times", "_values", "_world_size",
        "processes",
    )  # fmt: skip

    def __init__(self, notes: StepNotes, times: Marks | None, ranks: torch.Tensor | None = None) -> None:
        """`notes` of a step that has a loss. `ranks`: (processes, 2), tokens and seconds of each."""
        #: Processes of which tokens and seconds are known, each its own.
        self.processes = 0 if ranks is None else len(ranks)
        tokens, self._world_size = notes.tokens_on_device(), notes.processes
        if ranks is not None:
            tokens, self._world_size = ranks[:, 0].sum(), 1
        self._step, self._epoch, self._time, self._times = notes.step, notes.epoch, notes.time, times
        loss = notes.losses[0] if len(notes.losses) == 1 else torch.stack(notes.losses).sum()
        norm = readable(notes.gradient_norm)
        self._has_norm, self._has_tokens = norm is not None, tokens is not None
        parts = [part for part in (loss, norm, tokens) if part is not None]
        # On the device of the loss.
        figures = torch.stack(
            [
                torch.as_tensor(part, dtype=torch.float64).to(loss.device, non_blocking=True).reshape(())
                for part in parts
            ]
        )
        if ranks is not None:
            figures = torch.cat([figures, ranks[:, 1].to(figures.device, torch.float64)])
        self._arrival: torch.cuda.Event | None = None
        self._values = figures
        if figures.device.type == "cuda":
            self._values = torch.empty(figures.shape, dtype=figures.dtype, pin_memory=True)
            self._values.copy_(figures, non_blocking=True)
            self._arrival = torch.cuda.Event()
            # On the stream that copies: with a model on several devices the loss lies on the last of them.
            self._arrival.record(torch.cuda.current_stream(figures.device))

    def ready(self) -> bool:
        return (self._arrival is None or bool(self._arrival.query())) and (
            self._times is None or bool(self._times[-1].query())
        )

    def wait(self) -> None:
        if self._arrival is not None:
            self._arrival.synchronize()
        if self._times is not None:
            self._times[-1].synchronize()

    def events(self) -> tuple[Event, ...]:
        values: list[float] = self._values.tolist()
        begun, ended, done = self._times or (None, None, None)
        return (
            LossLogged(
                time=self._time,
                step=self._step,
                epoch=self._epoch,
                loss=values[0],
                gradient_norm=values[1] if self._has_norm else None,
                tokens=int(values[1 + self._has_norm]) * self._world_size if self._has_tokens else None,
                forward_backward_seconds=_seconds(begun, ended),
                optimizer_seconds=_seconds(ended, done),
            ),
        )

    def events_with_ranks(self) -> tuple[Event, ...]:
        """Also of the processes of the job."""
        seconds = tuple(self._values.tolist()[-self.processes :])
        return *self.events(), RanksTimed(time=self._time, step=self._step, seconds=seconds)


def _seconds(start: torch.cuda.Event | None, end: torch.cuda.Event | None) -> float | None:
    """Device time between two events that were passed; None where they cannot be compared."""
    if start is None or end is None:
        return None
    try:
        return float(start.elapsed_time(end)) / 1e3
    except (RuntimeError, ValueError):
        # Recorded on two devices: somebody changed the current one within the step.
        return None

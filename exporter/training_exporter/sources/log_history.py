"""Events of a finished run from a table of what it logged, one entry per step, as trainers keep it.

Such a table says less than a live run does. What it leaves out is filled in here, in one place and in one way:

- **Times.** Entries without a time follow each other at a stated number of seconds per step.
- **Steps.** A live run tells of every optimizer step, the table of every `logging_steps`-th. The steps between two
  entries are spread evenly over the time between them.
- **Restarts.** Where the step or the epoch goes back, a process took the run up again.
- **The end.** A run that reached its last step has completed; one that did not was interrupted: no table says why.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from training_exporter import events

#: Steps between two entries that are told one by one; a larger jump is no logging interval.
MAX_STEPS_BETWEEN = 10_000

#: Steps of a run that are told one by one; of a longer one those that were logged.
MAX_STEPS = 1_000_000

#: Tokens that an event can hold: up to here Prometheus' numbers are exact.
MAX_TOKENS = 2**53

#: An epoch is logged with a few digits: only a fall beyond rounding is a restart.
_EPOCH_ROUNDING = 0.01


class RecordError(ValueError):
    """A record of a run that cannot be read: the message names the file, the line or key, what was found, and what is
    allowed. One line, complete."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What was logged at `step`; None where the table has nothing. `time` in Unix seconds, `tokens_seen` since the
    start of the run, `duration_seconds` of an evaluation."""

    step: int
    time: float | None = None
    epoch: float | None = None
    loss: float | None = None
    gradient_norm: float | None = None
    learning_rate: float | None = None
    tokens_per_second: float | None = None
    tokens_seen: int | None = None
    validation_loss: float | None = None
    validation_seconds: float | None = None

    @property
    def trains(self) -> bool:
        """Whether this entry is about training steps (and not about an evaluation alone)."""
        return self.loss is not None or self.gradient_norm is not None or self.learning_rate is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What a table says about the whole run."""

    run: str
    max_steps: int | None = None
    num_epochs: float | None = None
    logging_steps: int | None = None
    peak_learning_rate: float | None = None
    lr_scheduler: str | None = None
    warmup_steps: int = 0
    settings: Mapping[str, str] = field(default_factory=dict)


def validation_loss(metrics: Mapping[str, Any]) -> Any:
    """`eval_loss` of what an evaluation logged; with several validation sets, the first one's. None without any."""
    names = ["eval_loss", *(name for name in metrics if name.startswith("eval_") and name.endswith("_loss"))]
    return next((metrics[name] for name in names if metrics.get(name) is not None), None)


def logging_interval(entries: Sequence[Entry]) -> int | None:
    """Steps between two logged losses, as found; None with fewer than two of them."""
    steps = [entry.step for entry in entries if entry.trains]
    gaps = [b - a for a, b in itertools.pairwise(steps) if b > a]
    return round(statistics.median(gaps)) if gaps else None


def events_of(
    header: Header, entries: Sequence[Entry], *, seconds_per_step: float = 1.0, end_time: float = 0.0
) -> Iterator[events.Event]:
    """The events of a run, in order, from its `entries` as they were written.

    Without times in the entries, a step takes `seconds_per_step` and the last entry is at `end_time` or, where that
    would put the start before 1970, the first step begins at 0. Raises RecordError (without the file's name) where
    there is nothing to replay.
    """
    entries = _without_repetitions(entries)
    if not any(entry.loss is not None or entry.validation_loss is not None for entry in entries):
        raise RecordError("no entry with a training loss or a validation loss")
    timed = any(entry.time is not None for entry in entries)
    interval = logging_interval(entries) or header.logging_steps or 1
    times, pace = _times(entries, interval, seconds_per_step, end_time)
    last_step = max(entry.step for entry in entries)
    max_steps = header.max_steps or last_step
    limit = MAX_STEPS_BETWEEN if last_step <= MAX_STEPS else 1

    step = max(0, entries[0].step - interval) if entries[0].step > 2 * interval else 0
    began = max(0.0, times[0] - (entries[0].step - step) * pace)
    started = events.RunStarted(
        time=began,
        run=header.run,
        max_steps=max_steps or None,
        num_epochs=header.num_epochs,
        step=step,
        logging_steps=interval,
        timing_steps=interval if timed else 1,
        peak_learning_rate=header.peak_learning_rate,
        lr_scheduler=header.lr_scheduler,
        warmup_steps=header.warmup_steps,
        settings=header.settings,
    )
    yield started
    now, epoch, logged, tokens_seen = began, None, step, 0
    for entry, time in zip(entries, times, strict=True):
        went_back = entry.step < step or (
            entry.epoch is not None and epoch is not None and entry.epoch < epoch - _EPOCH_ROUNDING
        )
        if went_back:
            step = min(step, max(0, entry.step - interval)) if entry.step < step else step
            logged = step
            # Nothing ran in between, for however long that was.
            yield events.RunEnded(time=now, state="interrupted", reason="taken up again later")
            now = max(now, time - (entry.step - step) * pace)
            yield dataclasses.replace(started, time=now, step=step)
        evaluation = entry.validation_loss is not None
        # An evaluation is logged at its end; the steps before it were done when it began.
        steps_end = time
        if evaluation and not entry.trains:
            steps_end = max(now, time - (entry.validation_seconds or 0.0)) if timed else time
        tokens = _tokens(entry, tokens_seen, steps_end - now)
        if entry.tokens_seen is not None:
            tokens_seen = entry.tokens_seen
        yield from _steps(step, entry.step, now, steps_end, tokens, entry.epoch, timed or tokens is not None, limit)
        if entry.step > step or entry.trains:
            now = steps_end
        step, epoch = max(step, entry.step), entry.epoch if entry.epoch is not None else epoch
        if entry.loss is not None:
            yield events.LossLogged(
                time=steps_end,
                step=entry.step,
                steps=max(1, entry.step - logged),
                epoch=entry.epoch,
                loss=entry.loss,
                gradient_norm=entry.gradient_norm,
                learning_rate=entry.learning_rate,
            )
            logged = entry.step
        if evaluation:
            assert entry.validation_loss is not None
            if time > now:
                yield events.PhaseChanged(time=now, state="evaluating")
            yield events.Evaluated(
                time=time,
                step=entry.step,
                epoch=entry.epoch,
                loss=entry.validation_loss,
                runtime_seconds=entry.validation_seconds,
            )
            if time > now:
                yield events.PhaseChanged(time=time, state="training")
        now = time
    state = "completed" if step >= max_steps else "interrupted"
    yield events.RunEnded(time=now, state=state)


def _without_repetitions(entries: Sequence[Entry]) -> list[Entry]:
    """The entries without those that say exactly what the one before said."""
    # Compared as text, because NaN equals nothing.
    return [
        entry
        for number, entry in enumerate(entries)
        if number == 0 or entry.step != entries[number - 1].step or repr(entry) != repr(entries[number - 1])
    ]


def _times(
    entries: Sequence[Entry], interval: int, seconds_per_step: float, end_time: float
) -> tuple[list[float], float]:
    """The time of each entry, never falling, and the seconds that a step takes (median)."""
    known = [(e.step, e.time) for e in entries if e.time is not None and e.trains]
    paces = [(tb - ta) / (b - a) for (a, ta), (b, tb) in itertools.pairwise(known) if b > a and tb > ta]
    pace = statistics.median(paces) if paces else seconds_per_step
    times: list[float] = []
    step = max(0, entries[0].step - interval)
    first = next(((i, e.time) for i, e in enumerate(entries) if e.time is not None), None)
    now = 0.0
    for entry in entries:
        # After a restart the first entry comes when the steps since the checkpoint are done.
        done = entry.step - step if entry.step >= step else min(interval, entry.step)
        now = max(now, entry.time) if entry.time is not None else now + done * pace
        times.append(now)
        step = entry.step
    if first is None:
        shift = max(0.0, end_time - times[-1])
        times = [time + shift for time in times]
    elif first[0] > 0:
        # Entries before the first known time were counted from 0.
        number, since = first
        for i in range(number - 1, -1, -1):
            since = max(0.0, since - max(0, entries[i + 1].step - entries[i].step) * pace)
            times[i] = since
    return times, pace


def _tokens(entry: Entry, tokens_seen: int, seconds: float) -> int | None:
    """Tokens of the steps that end with `entry` and took `seconds`, where the entry lets tell."""
    if entry.tokens_seen is not None and entry.tokens_seen > tokens_seen:
        return min(entry.tokens_seen - tokens_seen, MAX_TOKENS)
    speed = entry.tokens_per_second
    if speed is None or not math.isfinite(speed) or speed < 0 or seconds <= 0:
        return None
    return round(min(speed * seconds, MAX_TOKENS))


def _steps(
    done: int, step: int, since: float, until: float, tokens: int | None, epoch: float | None, timed: bool, limit: int
) -> Iterator[events.StepEnded]:
    """The optimizer steps after `done` up to `step`, spread evenly over the time from `since` to `until`; only the
    last one where they are more than `limit`."""
    count = step - done
    if count <= 0:
        return
    if count > limit:
        yield events.StepEnded(time=until, step=step, epoch=epoch)
        return
    seconds = (until - since) / count
    for number in range(1, count + 1):
        last = number == count
        yield events.StepEnded(
            time=until if last else since + number * seconds,
            step=done + number,
            epoch=epoch if last else None,
            tokens=None if tokens is None else tokens * number // count - tokens * (number - 1) // count,
            duration_seconds=seconds if timed and seconds > 0 else None,
        )

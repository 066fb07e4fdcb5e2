"""The run's state: events in, current figures out.

Pure: no I/O, no clock of its own, constant time and memory per event. One code path therefore serves a live run,
a crashed run that is read from its journal, and a run of last year that is replayed.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import deque
from collections.abc import Mapping

from training_exporter import events
from training_exporter.schedule import schedule_multiplier
from training_exporter.signals import LossSignals

#: Upper bounds in seconds: a step takes 10 ms on a toy and minutes on a cluster.
STEP_DURATION_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)

#: Optimizer steps over which `tokens_per_second` is taken.
THROUGHPUT_WINDOW_STEPS = 20


def perplexity(loss: float | None) -> float | None:
    """exp(loss), capped at exp(50) so that a diverged loss stays a number; NaN stays NaN."""
    return None if loss is None else math.exp(min(loss, 50.0)) if loss == loss else loss


class Histogram:
    """Counts per bucket (not cumulative; the last one is +Inf), and the sum of what was observed."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    @property
    def count(self) -> int:
        return sum(self.counts)


class RunState:
    """Current figures of one run. None means: not known yet.

    Attributes are read by the metric families, by stdout and by whoever adds a sink; only `apply` writes them.
    """

    def __init__(self) -> None:
        self.run: str | None = None
        self.settings: Mapping[str, str] = {}
        self.state: str | None = None
        self.end_reason = ""
        self.start_time: float | None = None
        self.last_step_time: float | None = None
        self.end_time: float | None = None

        self.step: int | None = None
        self.max_steps: int | None = None
        self.epoch: float | None = None
        self.num_epochs: float | None = None
        self.vocabulary_size: int | None = None

        self.loss: float | None = None
        self.observed_loss_sum = 0.0
        self.observed_loss_count = 0
        self.validation_loss: float | None = None
        self.best_validation_loss: float | None = None
        self.gradient_norm: float | None = None
        self.learning_rate: float | None = None
        self.expected_learning_rate: float | None = None

        self.tokens: int | None = None
        self.step_duration = Histogram(STEP_DURATION_BUCKETS)
        self.data_wait_seconds: float | None = None

        self.nonfinite = {"loss": 0, "gradient": 0, "validation": 0}
        self.out_of_memory = 0
        self.checkpoints = 0
        self.evaluations = 0
        self.fault: events.FaultInjected | None = None

        self._signals: LossSignals | None = None
        self._started: events.RunStarted | None = None
        self._pace_from: tuple[int, float] | None = None
        # Two windows of the same length: tokens that are counted on the device arrive a step after the duration.
        self._recent_tokens: deque[int] = deque(maxlen=THROUGHPUT_WINDOW_STEPS)
        self._recent_durations: deque[float] = deque(maxlen=THROUGHPUT_WINDOW_STEPS)

    def apply(self, event: events.Event) -> None:
        """Take one event, in the order in which they happened."""
        match event:
            case events.StepEnded():
                self._step_ended(event)
            case events.LossLogged():
                self._loss_logged(event)
            case events.Evaluated():
                self._evaluated(event)
            case events.PhaseChanged():
                if self.state not in events.FINAL_STATES:
                    self.state = event.state
            case events.CheckpointSaved():
                self.checkpoints += 1
            case events.OutOfMemory():
                self.out_of_memory += 1
            case events.FaultInjected():
                self.fault = event
            case events.RunStarted():
                self._run_started(event)
            case events.RunEnded():
                self.state, self.end_reason, self.end_time = event.state, event.reason, event.time

    # -- what the families read beside the plain attributes ---------------------------------------------------------

    @property
    def perplexity(self) -> float | None:
        return perplexity(self.loss)

    @property
    def validation_perplexity(self) -> float | None:
        return perplexity(self.validation_loss)

    @property
    def progress_ratio(self) -> float | None:
        return None if self.step is None or not self.max_steps else min(1.0, self.step / self.max_steps)

    @property
    def remaining_seconds(self) -> float | None:
        """Time left at the pace that this process has had so far, evaluations and checkpoints included."""
        if self.state in events.FINAL_STATES:
            return 0.0
        if self._pace_from is None or self.max_steps is None or self.step is None or self.last_step_time is None:
            return None
        first_step, since = self._pace_from
        if self.step <= first_step:
            return None
        return max(0.0, (self.max_steps - self.step) * (self.last_step_time - since) / (self.step - first_step))

    @property
    def tokens_per_second(self) -> float | None:
        """Non-padding tokens per second of step time, over the last THROUGHPUT_WINDOW_STEPS steps."""
        steps = min(len(self._recent_tokens), len(self._recent_durations))
        seconds = sum(list(self._recent_durations)[-steps:]) if steps else 0.0
        return sum(list(self._recent_tokens)[-steps:]) / seconds if seconds > 0 else None

    @property
    def signals(self) -> LossSignals | None:
        return self._signals

    # -- one method per event that does more than set a figure ------------------------------------------------------

    def _run_started(self, event: events.RunStarted) -> None:
        self._started = event
        self.run, self.settings, self.state = event.run, event.settings, "starting"
        self.start_time = event.time if self.start_time is None else self.start_time
        self.tokens = event.tokens or self.tokens
        self.end_time, self.end_reason, self.last_step_time = None, "", None
        self.max_steps, self.num_epochs, self.step = event.max_steps, event.num_epochs, event.step
        self.vocabulary_size = event.vocabulary_size
        self._pace_from = (event.step, event.time)
        self._recent_tokens.clear()
        self._recent_durations.clear()
        if self._signals is None:
            points = event.max_steps // max(1, event.logging_steps) if event.max_steps else None
            self._signals = LossSignals(points)

    def _at_step(self, event: events.StepEnded | events.LossLogged | events.Evaluated) -> None:
        if self.step is None or event.step >= self.step:
            self.step = event.step
        if event.epoch is not None:
            self.epoch = event.epoch

    def _step_ended(self, event: events.StepEnded) -> None:
        self._at_step(event)
        self.last_step_time = event.time
        if self.state not in events.FINAL_STATES:
            self.state = "training"
        self._count_tokens(event.tokens)
        if event.duration_seconds is not None:
            self.step_duration.observe(event.duration_seconds)
            self._recent_durations.append(event.duration_seconds)
        if event.data_wait_seconds is not None:
            self.data_wait_seconds = (self.data_wait_seconds or 0.0) + event.data_wait_seconds
        self._learning_rate(event.step, event.learning_rate)

    def _loss_logged(self, event: events.LossLogged) -> None:
        self._at_step(event)
        self.loss = event.loss
        if math.isfinite(event.loss):
            self.observed_loss_sum += event.loss
            self.observed_loss_count += 1
        else:
            self.nonfinite["loss"] += 1
        if event.gradient_norm is not None:
            self.gradient_norm = event.gradient_norm
            if not math.isfinite(event.gradient_norm):
                self.nonfinite["gradient"] += 1
        if self._signals is None:
            self._signals = LossSignals(None)
        self._signals.add(event.loss)
        self._count_tokens(event.tokens)
        self._learning_rate(event.step, event.learning_rate)

    def _evaluated(self, event: events.Evaluated) -> None:
        self._at_step(event)
        self.evaluations += 1
        self.validation_loss = event.loss
        if not math.isfinite(event.loss):
            self.nonfinite["validation"] += 1
        elif self.best_validation_loss is None or event.loss < self.best_validation_loss:
            self.best_validation_loss = event.loss

    def _count_tokens(self, tokens: int | None) -> None:
        if tokens is not None:
            self.tokens = (self.tokens or 0) + tokens
            self._recent_tokens.append(tokens)

    def _learning_rate(self, step: int, learning_rate: float | None) -> None:
        if learning_rate is None:
            return
        self.learning_rate = learning_rate
        started = self._started
        if started is None or started.peak_learning_rate is None or not started.lr_scheduler or not started.max_steps:
            return
        # Optimizer step number `step` is made after `step - 1` scheduler steps.
        share = schedule_multiplier(started.lr_scheduler, step - 1, started.max_steps, started.warmup_steps)
        self.expected_learning_rate = None if share is None else share * started.peak_learning_rate

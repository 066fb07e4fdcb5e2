"""The run's state: events in, current figures out.

Pure: no I/O, no clock of its own, constant time and memory per event. One code path therefore serves a live run,
a crashed run that is read from its journal, and a run of last year that is replayed.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import deque
from collections.abc import Mapping
from itertools import islice

from training_exporter import events, profile
from training_exporter.schedule import schedule_multiplier, schedule_range
from training_exporter.signals import LossSignals, PaceSignals, TextQuality, ValidationSignals
from training_exporter.signals.windows import SlidingExtreme, is_number

#: Upper bounds in seconds: a step takes 10 ms on a toy and minutes on a cluster.
STEP_DURATION_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)

#: Optimizer steps over which `tokens_per_second` is taken.
THROUGHPUT_WINDOW_STEPS = 20

#: Learning rates are often logged with six decimals: half of the last one is no deviation.
LEARNING_RATE_ROUNDING = 5e-7
#: Optimizer steps in a row over which a learning rate must be off its schedule.
LEARNING_RATE_HOLD = 3
#: Steps that the schedule may lag behind because a loss scaler skipped them, at most.
MOST_SKIPPED_STEPS = 50
#: Of them, those that may lie unseen between two logged gradients.
MOST_UNSEEN_STEPS = 8


#: What a step, a wait or a process' share of a step takes is no shorter and no longer (30 years): a clock was wrong.
SHORTEST_SECONDS, LONGEST_SECONDS = 1e-9, 1e9
#: Epochs are no more; more is a number that was meant as something else.
MOST_EPOCHS = 1e9
#: A peak learning rate below this is none.
LEAST_PEAK = 1e-30


def _seconds(value: float | None) -> float | None:
    """A duration that can be one, 0 for one that is too short to tell; None for nonsense (negative, NaN, endless)."""
    if value is None or not 0 <= value <= LONGEST_SECONDS:
        return None
    return value if value >= SHORTEST_SECONDS else 0.0


def _epochs(value: float | None) -> float | None:
    return value if value is not None and 0 <= value <= MOST_EPOCHS else None


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

    Whatever events say, `apply` raises nothing, counters only grow, and figures are finite: a negative duration or an
    epoch that is NaN is passed over. Only what was measured as NaN or infinite is shown as such: a loss, a gradient
    norm, a learning rate.

    Attributes are read by the metric families, by stdout and by whoever adds a sink; only `apply` writes them.
    `expectations` is the profile of the run, the shipped one for None.
    """

    def __init__(self, expectations: profile.Profile | None = None) -> None:
        self.profile = profile.default() if expectations is None else expectations
        self.run: str | None = None
        self.settings: Mapping[str, str] = {}
        #: GPUs on which the job trains: the setting `world_size`; unknown without the setting `gpu`.
        self.gpus: int | None = None
        #: GPU model of the profile and tokens per second of the whole job on it; needs the setting `gpu`.
        self.expected_speed: tuple[str, profile.Band] | None = None
        self.state: str | None = None
        self.end_reason = ""
        self.start_time: float | None = None
        self.last_step_time: float | None = None
        #: When the run last showed that it goes on: a step, a batch of an evaluation, the begin or end of a phase.
        self.last_progress_time: float | None = None
        #: Longest time without such a sign in the evaluations, and in the checkpoints, of this process so far.
        self.longest_pauses: dict[str, float] = {}
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
        self.gradient_norm: float | None = None
        self.learning_rate: float | None = None
        self.expected_learning_rate: float | None = None
        #: Distance from the schedule as a share of the peak, the least of the last few steps.
        self.learning_rate_deviation_ratio: float | None = None

        self.tokens: int | None = None
        self.step_duration = Histogram(STEP_DURATION_BUCKETS)
        self.data_wait_seconds: float | None = None
        #: Of a distributed job: seconds of own work in a step, by rank.
        self.rank_seconds: tuple[float | None, ...] = ()
        self.forward_backward_seconds: float | None = None
        self.optimizer_seconds: float | None = None

        self.nonfinite = {"loss": 0, "gradient": 0, "validation": 0}
        #: Optimizer steps over which every gradient norm that was logged was NaN or infinite.
        self.nonfinite_gradient_steps = 0
        self.out_of_memory = 0
        self.checkpoints = 0
        self.evaluations = 0
        self.last_checkpoint_time: float | None = None
        #: Longest time between two checkpoints so far, in seconds.
        self.checkpoint_interval: float | None = None
        self.fault: events.FaultInjected | None = None

        #: Statistics over steps, for the rules.
        self.signals: LossSignals | None = None
        self.validation_signals = ValidationSignals()
        self.pace_signals = PaceSignals(None)
        self.text_quality = TextQuality()

        self._deviations = SlidingExtreme(LEARNING_RATE_HOLD)
        self._deviation_step = -1
        self._nonfinite_gradient_since: int | None = None
        self._skipped_steps = 0
        self._tells_checkpoints = False
        self._started: events.RunStarted | None = None
        self._pace_from: tuple[int, float] | None = None
        #: Longest time without a sign of progress in the phase in hand.
        self._pause = 0.0
        # Two windows of the same length: tokens that are counted on the device arrive a step after the duration.
        self._recent_tokens: deque[int] = deque(maxlen=THROUGHPUT_WINDOW_STEPS)
        self._recent_durations: deque[float] = deque(maxlen=THROUGHPUT_WINDOW_STEPS)
        self._untold_durations: deque[float] = deque(maxlen=THROUGHPUT_WINDOW_STEPS)

    def apply(self, event: events.Event) -> None:
        """Take one event, in the order in which they happened."""
        match event:
            case events.StepEnded():
                self._step_ended(event)
            case events.LossLogged():
                self._loss_logged(event)
            case events.RanksTimed():
                self.rank_seconds = tuple(map(_seconds, event.seconds[: events.MAX_RANKS]))
            case events.Evaluated():
                self._evaluated(event)
            case events.TextScored():
                self.text_quality.add(event)
            case events.PhaseChanged():
                if self.run is not None:
                    self._progressed(event.time)
                self._enter(event.state)
            case events.Progressed():
                self._progressed(event.time)
            case events.ClockSet():
                self._clock_set(event.by_seconds)
            case events.CheckpointSaved():
                self._checkpoint_saved(event)
            case events.OutOfMemory():
                self.out_of_memory += 1
            case events.FaultInjected():
                self.fault = event
            case events.CommandStarted():
                self.state, self.start_time = "starting", event.time
            case events.RunStarted():
                self._run_started(event)
            case events.RunEnded():
                self.state = event.state if event.state in events.FINAL_STATES else "failed"
                self.end_reason, self.end_time = event.reason, event.time

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
        seconds = sum(islice(reversed(self._recent_durations), steps))
        return sum(islice(reversed(self._recent_tokens), steps)) / seconds if seconds > 0 else None

    @property
    def best_validation_loss(self) -> float | None:
        return self.validation_signals.best

    @property
    def unsaved_seconds(self) -> float | None:
        """Training time that would be lost now: since the last checkpoint, or the start of this process.

        Known only from a source that tells of checkpoints: a log of losses does not.
        """
        since = self._pace_from[1] if self._pace_from is not None else None
        if self.last_checkpoint_time is not None and (since is None or self.last_checkpoint_time > since):
            since = self.last_checkpoint_time
        if not self._tells_checkpoints or since is None or self.last_step_time is None:
            return None
        return max(0.0, self.last_step_time - since)

    @property
    def epochs_done(self) -> float | None:
        """Epochs done, also where only the steps are known."""
        if self.epoch is not None:
            return self.epoch
        return None if self.progress_ratio is None or self.num_epochs is None else self.progress_ratio * self.num_epochs

    def _gpus(self) -> int | None:
        if not self.settings.get("gpu"):
            return None
        processes = self.settings.get("world_size", "1")
        return int(processes) if processes.isdecimal() and len(processes) < 7 else 1

    def _expected_speed(self) -> tuple[str, profile.Band] | None:
        found = self.profile.speed_of(self.settings.get("gpu", ""))
        if found is None:
            return None
        model, band = found
        count = self.gpus or 1
        return model, profile.Band(band.lower * count, band.upper * count)

    # -- one method per event that does more than set a figure ------------------------------------------------------

    def _run_started(self, event: events.RunStarted) -> None:
        self._started = event
        if self.state in events.FINAL_STATES:
            # Another process: its memory is its own.
            self.out_of_memory = 0
        if self.run is None:
            # When its command was started is another matter.
            self.start_time = event.time
        self.run, self.state = event.run, "starting"
        self.settings = {key: str(value) for key, value in event.settings.items()}
        self.gpus = self._gpus()
        self.expected_speed = self._expected_speed()
        self.tokens = event.tokens if event.tokens > 0 else self.tokens
        self.end_time, self.end_reason, self.last_step_time = None, "", None
        self.last_progress_time, self.longest_pauses, self._pause = event.time, {}, 0.0
        self.max_steps = event.max_steps if event.max_steps is not None and event.max_steps > 0 else None
        self.num_epochs, self.step = _epochs(event.num_epochs), max(0, event.step)
        self.vocabulary_size = event.vocabulary_size
        self.rank_seconds = ()
        self._pace_from = (self.step, event.time)
        self._recent_tokens.clear()
        self._recent_durations.clear()
        self._untold_durations.clear()
        # Another process, perhaps on another machine: what was usual for the one before says nothing.
        self.pace_signals = PaceSignals(self.max_steps, max(1, event.timing_steps))
        self._deviations, self._deviation_step = SlidingExtreme(LEARNING_RATE_HOLD), -1
        self.learning_rate_deviation_ratio, self._skipped_steps = None, 0
        if self.signals is None:
            points = self.max_steps // max(1, event.logging_steps) if self.max_steps else None
            self.signals = LossSignals(points, from_start=event.step == 0)

    def _clock_set(self, seconds: float) -> None:
        """What happened before is moved to the clock as it is now, so that what lies between takes the time it took."""

        def moved(time: float | None) -> float | None:
            return None if time is None else max(0.0, time + seconds)

        if not abs(seconds) < events.MAX_TIME:
            return
        self.start_time, self.last_step_time = moved(self.start_time), moved(self.last_step_time)
        self.last_progress_time = moved(self.last_progress_time)
        self.last_checkpoint_time = moved(self.last_checkpoint_time)
        if self._pace_from is not None:
            self._pace_from = (self._pace_from[0], max(0.0, self._pace_from[1] + seconds))

    def _at_step(self, event: events.StepEnded | events.LossLogged | events.Evaluated) -> None:
        self.step = max(self.step or 0, event.step)
        epoch = _epochs(event.epoch)
        if epoch is not None:
            self.epoch = epoch

    def _enter(self, state: str) -> None:
        """Another active state; an end is final."""
        if self.state in {"evaluating", "saving"}:
            self.longest_pauses[self.state] = max(self.longest_pauses.get(self.state, 0.0), self._pause)
        self._pause = 0.0
        if self.state not in events.FINAL_STATES and state in events.ACTIVE_STATES:
            self.state = state

    def _progressed(self, time: float) -> None:
        if self.last_progress_time is not None:
            self._pause = max(self._pause, time - self.last_progress_time)
        self.last_progress_time = time

    def _step_ended(self, event: events.StepEnded) -> None:
        self._at_step(event)
        if self.state != "training":
            self._progressed(event.time)
            self._enter("training")
        self.last_step_time = self.last_progress_time = event.time
        self._count_tokens(event.tokens)
        duration, data_wait = _seconds(event.duration_seconds), _seconds(event.data_wait_seconds)
        if duration is not None:
            self.step_duration.observe(duration)
            self._recent_durations.append(duration)
            self.pace_signals.add_step(duration)
            if event.tokens is not None:
                self.pace_signals.add_tokens(event.tokens, duration)
            else:
                self._untold_durations.append(duration)
        if data_wait is not None:
            # Only a live run knows this, and it tells of its checkpoints as well.
            self._tells_checkpoints = True
            self.data_wait_seconds = (self.data_wait_seconds or 0.0) + data_wait
        self._add_times(event)
        self._learning_rate(event.step, event.learning_rate)

    def _loss_logged(self, event: events.LossLogged) -> None:
        self._at_step(event)
        loss, norm = event.loss, event.gradient_norm
        overflowed = norm is not None and not is_number(norm)
        if overflowed and loss == 0:
            # This is what a NaN loss looks like behind the Trainer's `logging_nan_inf_filter`.
            loss = math.nan
        self.loss = loss
        if is_number(loss):
            self.observed_loss_sum += loss
            self.observed_loss_count += 1
        else:
            self.nonfinite["loss"] += 1
        if norm is not None:
            self.gradient_norm = norm
            self._gradient_seen(event, overflowed)
        if self.signals is None:
            self.signals = LossSignals(None)
        self.signals.add(loss)
        self._count_tokens(event.tokens)
        if event.tokens is not None and self._untold_durations:
            self.pace_signals.add_tokens(event.tokens, self._untold_durations.popleft())
        self._add_times(event)
        self._learning_rate(event.step, event.learning_rate)

    def _gradient_seen(self, event: events.LossLogged, overflowed: bool) -> None:
        if not overflowed:
            self._nonfinite_gradient_since = None
            self.nonfinite_gradient_steps = 0
            return
        self.nonfinite["gradient"] += 1
        self._skipped_steps += 1
        if self._nonfinite_gradient_since is None:
            self._nonfinite_gradient_since = event.step
        self.nonfinite_gradient_steps = max(0, event.step - self._nonfinite_gradient_since)

    def _evaluated(self, event: events.Evaluated) -> None:
        self._at_step(event)
        self._progressed(event.time)
        self.evaluations += 1
        self.validation_loss = event.loss
        if not is_number(event.loss):
            self.nonfinite["validation"] += 1
        self.validation_signals.add(event.loss, self.signals.smoothed if self.signals is not None else None)

    def _checkpoint_saved(self, event: events.CheckpointSaved) -> None:
        self.checkpoints += 1
        self._progressed(event.time)
        self._tells_checkpoints = True
        if self.last_checkpoint_time is not None and (
            self._pace_from is None or self.last_checkpoint_time >= self._pace_from[1]
        ):
            self.checkpoint_interval = max(self.checkpoint_interval or 0.0, event.time - self.last_checkpoint_time)
        self.last_checkpoint_time = event.time

    def _count_tokens(self, tokens: int | None) -> None:
        if tokens is not None and tokens >= 0:
            self.tokens = (self.tokens or 0) + tokens
            self._recent_tokens.append(tokens)

    def _add_times(self, event: events.StepEnded | events.LossLogged) -> None:
        passes, optimizer = _seconds(event.forward_backward_seconds), _seconds(event.optimizer_seconds)
        if passes is not None:
            self.forward_backward_seconds = (self.forward_backward_seconds or 0.0) + passes
        if optimizer is not None:
            self.optimizer_seconds = (self.optimizer_seconds or 0.0) + optimizer

    def _learning_rate(self, step: int, learning_rate: float | None) -> None:
        if learning_rate is None:
            return
        self.learning_rate = learning_rate
        started = self._started
        if started is None or started.peak_learning_rate is None or not started.lr_scheduler or not self.max_steps:
            return
        if not is_number(learning_rate) or not is_number(started.peak_learning_rate):
            return
        # Optimizer step number `step` is made after `step - 1` scheduler steps.
        share = schedule_multiplier(started.lr_scheduler, max(0, step - 1), self.max_steps, started.warmup_steps)
        self.expected_learning_rate = None if share is None else share * started.peak_learning_rate
        if share is None or started.peak_learning_rate < LEAST_PEAK or step <= self._deviation_step:
            return
        self._deviation_step = step
        distance = 0.0
        if abs(learning_rate - share * started.peak_learning_rate) > LEARNING_RATE_ROUNDING:
            distance = self._learning_rate_distance(started, step, learning_rate)
        self.learning_rate_deviation_ratio = self._deviations.add(
            max(0.0, distance - LEARNING_RATE_ROUNDING) / started.peak_learning_rate
        )

    def _learning_rate_distance(self, started: events.RunStarted, step: int, learning_rate: float) -> float:
        """Distance from the schedule, with the doubt on our side.

        Trainers log the rate of the step that was made or of the next one, and a loss scaler that skips an optimizer
        step skips the scheduler's as well: so any rate counts that the schedule has from the skipped steps before to
        one step after.
        """
        assert started.peak_learning_rate is not None
        assert started.lr_scheduler is not None
        assert self.max_steps is not None
        unseen = min(max(1, started.logging_steps) - 1, MOST_UNSEEN_STEPS)
        back = 1 + min(self._skipped_steps, MOST_SKIPPED_STEPS) + unseen
        span = schedule_range(started.lr_scheduler, step - back, max(0, step), self.max_steps, started.warmup_steps)
        assert span is not None
        low, high = (share * started.peak_learning_rate for share in span)
        return max(0.0, low - learning_rate, learning_rate - high)

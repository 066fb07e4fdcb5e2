"""The one table of metric families: name, type, unit, labels, help text, and how each reads its source.

Everything that needs a metric's name derives it from here: `/metrics`, `docs/metrics.md`, the checks of the alert
rules and of the dashboards. A family reads plain values; it never computes what belongs into the run state.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Literal, Protocol, TypeVar

from prometheus_client import Metric

from training_exporter._version import __version__
from training_exporter.events import STATES
from training_exporter.labels import clip
from training_exporter.profile import Band, Curve, Profile
from training_exporter.signals import LossSignals
from training_exporter.signals.text import MAX_TEXT
from training_exporter.state import Histogram, RunState

Source = TypeVar("Source")
MetricType = Literal["gauge", "counter", "info", "histogram", "summary"]

#: What `read` may return: nothing known yet, one value, values by label values, a histogram, or (sum, count).
Reading = float | None | Mapping[tuple[str, ...], float] | Histogram | tuple[float, int]


@dataclass(frozen=True)
class Family(Generic[Source]):
    """One metric family. `labels` are those beside the ones that the source adds to every sample (`run`).

    Label values may be any text: what a label cannot carry is cut (`training_exporter.labels`).
    """

    name: str
    type: MetricType
    help: str
    read: Callable[[Source], Reading]
    labels: tuple[str, ...] = ()

    @property
    def sample_names(self) -> tuple[str, ...]:
        """Names of the series, as a query spells them."""
        if self.type == "histogram":
            return tuple(self.name + suffix for suffix in ("_bucket", "_sum", "_count"))
        if self.type == "summary":
            return (self.name + "_sum", self.name + "_count")
        return (self.name,)

    def collect(self, source: Source, common: Mapping[str, str]) -> Metric | None:
        """The family's samples with the labels `common` on each, or None when nothing is known."""
        reading = self.read(source)
        if reading is None:
            return None
        # prometheus_client keeps counters and infos under the name without their suffix.
        metric = Metric(self.name.removesuffix("_total" if self.type == "counter" else "_info"), self.help, self.type)
        if isinstance(reading, Histogram):
            if reading.count == 0:
                return None
            seen = 0
            for bound, count in zip((*map(str, reading.bounds), "+Inf"), reading.counts, strict=True):
                seen += count
                metric.add_sample(self.name + "_bucket", {**common, "le": bound}, seen)
            metric.add_sample(self.name + "_sum", dict(common), reading.sum)
            metric.add_sample(self.name + "_count", dict(common), seen)
        elif isinstance(reading, tuple):
            total, count = reading
            metric.add_sample(self.name + "_sum", dict(common), total)
            metric.add_sample(self.name + "_count", dict(common), count)
        elif isinstance(reading, Mapping):
            for values, value in reading.items():
                own = {name: clip(text, MAX_TEXT) for name, text in zip(self.labels, values, strict=True)}
                metric.add_sample(self.name, {**common, **own}, value)
        else:
            metric.add_sample(self.name, dict(common), reading)
        return metric if metric.samples else None


def collect(families: Sequence[Family[Source]], source: Source, common: Mapping[str, str]) -> Iterator[Metric]:
    """All families of a table that have something to say about `source`."""
    for family in families:
        metric = family.collect(source, common)
        if metric is not None:
            yield metric


#: Keys of `RunStarted.settings` that `llm_training_run_info` shows; others stay in the journal.
SETTINGS = (
    "base_model",
    "dataset",
    "batch_size",
    "gradient_accumulation_steps",
    "learning_rate",
    "lr_scheduler",
    "lora_r",
    "quantization",
    "num_epochs",
    "git_commit",
)


def _run_info(s: RunState) -> Reading:
    if s.run is None:
        return None
    settings = s.settings.get
    return {tuple([clip(settings(key, "")) for key in SETTINGS]): 1.0}


_NO_STATE: dict[tuple[str, ...], float] = {(state,): 0.0 for state in STATES}


def _state(s: RunState) -> Reading:
    return {**_NO_STATE, (s.state,): 1.0} if s.state is not None else None


def _observed_loss(s: RunState) -> Reading:
    return (s.observed_loss_sum, s.observed_loss_count) if s.observed_loss_count else None


def _signal(read: Callable[[LossSignals], float | None]) -> Callable[[RunState], Reading]:
    return lambda s: read(s.signals) if s.signals is not None else None


def _bounds(read: Callable[[Profile], Band]) -> Callable[[RunState], Reading]:
    """A band of the profile, by `bound`."""

    def bounds(s: RunState) -> Reading:
        if s.run is None:
            return None
        band = read(s.profile)
        return {("lower",): band.lower, ("upper",): band.upper}

    return bounds


def _curve(read: Callable[[Profile], Curve]) -> Callable[[RunState], Reading]:
    """A curve of the profile where the run stands, by `bound`."""

    def bounds(s: RunState) -> Reading:
        epochs = s.epochs_done
        if s.run is None or epochs is None:
            return None
        band = read(s.profile).at(epochs)
        return {("lower",): band.lower, ("upper",): band.upper}

    return bounds


def _first_epoch_bounds(s: RunState) -> Reading:
    return _FIRST_EPOCH(s) if (s.epochs_done or 0.0) >= 1 else None


def _late_perplexity_bound(s: RunState) -> Reading:
    late = (s.epochs_done or 0.0) >= s.profile.several_epochs
    return {("upper",): s.profile.late_perplexity_limit} if late and s.run is not None else None


def _speed_bounds(s: RunState) -> Reading:
    found = s.expected_speed
    if found is None:
        return None
    model, band = found
    return {("lower", model): band.lower, ("upper", model): band.upper}


def _text_scores(s: RunState) -> Reading:
    return {
        (criterion, stage): score
        for stage, scores in s.text_quality.scores.items()
        for criterion, score in scores.items()
    }


def _expected_text_scores(s: RunState) -> Reading:
    """Of the stages that were scored: before, nothing is there to compare."""
    return {
        (criterion, stage, "lower"): least
        for stage in s.text_quality.scores
        for criterion, least in s.profile.text_quality[stage].items()
    }


def _text_samples(s: RunState) -> Reading:
    text = s.text_quality
    return {
        (text.stage or "", str(number), sample.prompt, sample.text): 1.0
        for number, sample in enumerate(text.samples, 1)
    }


_FIRST_EPOCH = _bounds(lambda p: p.first_epoch_improvement)


def _counted(read: Callable[[RunState], int]) -> Callable[[RunState], Reading]:
    """A counter of the run: 0 from the start, so that its first increase is seen."""
    return lambda s: read(s) if s.run is not None else None


RUN_FAMILIES: tuple[Family[RunState], ...] = (
    # What it is
    Family("llm_training_run_info", "info", "Settings of the run; the value is always 1.", _run_info, SETTINGS),
    Family("llm_training_state", "gauge", "1 for the state that the run is in, 0 for the others.", _state, ("state",)),
    Family("llm_training_gpus", "gauge", "GPUs on which the job trains; unknown without one.", lambda s: s.gpus),
    # Where it stands
    Family(
        "llm_training_steps_total", "counter", "Optimizer steps done, those before a resume included.", lambda s: s.step
    ),
    Family("llm_training_max_steps", "gauge", "Optimizer steps that the run will make.", lambda s: s.max_steps),
    Family("llm_training_epoch", "gauge", "Epochs done, as a fraction.", lambda s: s.epoch),
    Family("llm_training_num_epochs", "gauge", "Epochs that the run will make.", lambda s: s.num_epochs),
    Family(
        "llm_training_progress_ratio", "gauge", "Share of the steps that is done, 0 to 1.", lambda s: s.progress_ratio
    ),
    Family(
        "llm_training_remaining_seconds",
        "gauge",
        "Time left at the pace so far; as of the last step.",
        lambda s: s.remaining_seconds,
    ),
    Family(
        "llm_training_start_timestamp_seconds",
        "gauge",
        "When the run started, in Unix seconds.",
        lambda s: s.start_time,
    ),
    Family(
        "llm_training_last_step_timestamp_seconds",
        "gauge",
        "When the last optimizer step ended, in Unix seconds.",
        lambda s: s.last_step_time,
    ),
    Family(
        "llm_training_last_progress_timestamp_seconds",
        "gauge",
        "When the run last showed that it goes on: a step, a batch of an evaluation, the begin or end of an evaluation "
        "or a checkpoint; in Unix seconds.",
        lambda s: s.last_progress_time,
    ),
    Family(
        "llm_training_longest_pause_seconds",
        "gauge",
        "Longest time without such a sign in the evaluations, and in the checkpoints, that this process has finished.",
        lambda s: {(state,): seconds for state, seconds in s.longest_pauses.items()},
        ("state",),
    ),
    Family("llm_training_end_timestamp_seconds", "gauge", "When the run ended, in Unix seconds.", lambda s: s.end_time),
    Family(
        "llm_training_end_info",
        "info",
        "Why the run ended, in one line, where it says so; the value is always 1.",
        lambda s: {(clip(s.end_reason),): 1.0} if s.end_time is not None and s.end_reason else None,
        ("reason",),
    ),
    # How it learns
    Family(
        "llm_training_loss", "gauge", "Training loss, last value logged (natural log, per token).", lambda s: s.loss
    ),
    Family("llm_training_perplexity", "gauge", "Exponential of the training loss last logged.", lambda s: s.perplexity),
    Family(
        "llm_training_observed_loss",
        "summary",
        "Every finite training loss logged: rate(sum)/rate(count) is its exact mean over any window.",
        _observed_loss,
    ),
    Family(
        "llm_training_validation_loss", "gauge", "Validation loss of the last evaluation.", lambda s: s.validation_loss
    ),
    Family(
        "llm_training_validation_perplexity",
        "gauge",
        "Exponential of the last validation loss.",
        lambda s: s.validation_perplexity,
    ),
    Family(
        "llm_training_best_validation_loss", "gauge", "Lowest validation loss so far.", lambda s: s.best_validation_loss
    ),
    Family(
        "llm_training_learning_rate", "gauge", "Learning rate of the last optimizer step.", lambda s: s.learning_rate
    ),
    Family(
        "llm_training_expected_learning_rate",
        "gauge",
        "Learning rate that the configured schedule gives for the last optimizer step.",
        lambda s: s.expected_learning_rate,
    ),
    Family(
        "llm_training_gradient_norm",
        "gauge",
        "Norm of the gradient before clipping, last value logged.",
        lambda s: s.gradient_norm,
    ),
    # What it writes
    Family(
        "llm_training_text_quality_ratio",
        "gauge",
        "Score of the texts that the model generated at a stage of the run (early, middle, final), by criterion: "
        "0 to 1, where 1 is good.",
        _text_scores,
        ("criterion", "stage"),
    ),
    Family(
        "llm_training_text_sample_info",
        "info",
        "Texts that the model generated at the latest stage, clipped; the value is always 1.",
        _text_samples,
        ("stage", "sample", "prompt", "text"),
    ),
    # How fast it goes
    Family("llm_training_tokens_total", "counter", "Non-padding tokens trained on.", lambda s: s.tokens),
    Family(
        "llm_training_tokens_per_second",
        "gauge",
        "Non-padding tokens per second of step time, over the last 20 optimizer steps.",
        lambda s: s.tokens_per_second,
    ),
    Family(
        "llm_training_step_duration_seconds",
        "histogram",
        "Time of an optimizer step, waiting for data included.",
        lambda s: s.step_duration,
    ),
    Family(
        "llm_training_rank_step_duration_seconds",
        "gauge",
        "Time that each process of a distributed job spent on its own work in a recent step: waiting for data and "
        "forward passes. A straggler's is longer than the others'; they wait for it in the rest of the step.",
        lambda s: {(str(rank),): seconds for rank, seconds in enumerate(s.rank_seconds) if seconds is not None},
        ("rank",),
    ),
    Family(
        "llm_training_data_wait_seconds_total",
        "counter",
        "Time for which steps waited for the data loader.",
        lambda s: s.data_wait_seconds,
    ),
    Family(
        "llm_training_forward_backward_seconds_total",
        "counter",
        "Time of the forward and backward passes of steps, on the clock of the device that computes.",
        lambda s: s.forward_backward_seconds,
    ),
    Family(
        "llm_training_optimizer_seconds_total",
        "counter",
        "Time of gradient clipping and optimizer in steps, on the clock of the device that computes.",
        lambda s: s.optimizer_seconds,
    ),
    # What happened
    Family(
        "llm_training_nonfinite_total",
        "counter",
        "NaN or infinite values seen, by what they were.",
        lambda s: {(kind,): count for kind, count in s.nonfinite.items()} if s.run is not None else None,
        ("kind",),
    ),
    Family(
        "llm_training_out_of_memory_total", "counter", "Allocations that failed.", _counted(lambda s: s.out_of_memory)
    ),
    Family("llm_training_checkpoints_total", "counter", "Checkpoints saved.", _counted(lambda s: s.checkpoints)),
    Family("llm_training_evaluations_total", "counter", "Evaluations done.", _counted(lambda s: s.evaluations)),
    Family(
        "llm_training_nonfinite_gradient_steps",
        "gauge",
        "Optimizer steps over which every gradient norm logged, up to the last one, was NaN or infinite.",
        lambda s: s.nonfinite_gradient_steps if s.run is not None else None,
    ),
    Family(
        "llm_training_unsaved_seconds",
        "gauge",
        "Training time since the last checkpoint, or since the process started.",
        lambda s: s.unsaved_seconds,
    ),
    Family(
        "llm_training_checkpoint_interval_seconds",
        "gauge",
        "Longest time between two checkpoints so far.",
        lambda s: s.checkpoint_interval,
    ),
    # Signals: statistics over steps, for the rules
    Family(
        "llm_training_loss_smoothed",
        "gauge",
        "Bias-corrected exponential mean of the training loss.",
        _signal(lambda g: g.smoothed),
    ),
    Family("llm_training_loss_best", "gauge", "Lowest smoothed training loss so far.", _signal(lambda g: g.best)),
    Family(
        "llm_training_loss_initial",
        "gauge",
        "Where the training loss began: median of the first losses, without an outlier at the start.",
        _signal(lambda g: g.initial),
    ),
    Family(
        "llm_training_loss_rise_ratio",
        "gauge",
        "How far the smoothed loss has stayed above its best: the least excess of the last few points.",
        _signal(lambda g: g.rise_ratio),
    ),
    Family(
        "llm_training_loss_rise_zscore",
        "gauge",
        "The same rise in standard deviations of the smoothed loss.",
        _signal(lambda g: g.rise_zscore),
    ),
    Family(
        "llm_training_loss_sustained_rise_ratio",
        "gauge",
        "As llm_training_loss_rise_ratio, over three times as many points.",
        _signal(lambda g: g.sustained_rise_ratio),
    ),
    Family(
        "llm_training_loss_sustained_rise_zscore",
        "gauge",
        "As llm_training_loss_rise_zscore, over three times as many points.",
        _signal(lambda g: g.sustained_rise_zscore),
    ),
    Family(
        "llm_training_loss_improvement_ratio",
        "gauge",
        "Share of the initial loss that training has removed; negative when the loss is higher.",
        _signal(lambda g: g.improvement_ratio),
    ),
    Family(
        "llm_training_loss_recent_improvement_ratio",
        "gauge",
        "Share of the smoothed loss that the later half of the points so far has removed.",
        _signal(lambda g: g.recent_improvement_ratio),
    ),
    Family(
        "llm_training_loss_fluctuation",
        "gauge",
        "Typical to and fro of the loss from point to point, in nats per token; trends and steps are none.",
        _signal(lambda g: g.fluctuation),
    ),
    Family(
        "llm_training_loss_fluctuation_ratio",
        "gauge",
        "The same as a share of the loss.",
        _signal(lambda g: g.fluctuation_ratio),
    ),
    Family(
        "llm_training_loss_spike_zscore",
        "gauge",
        "Largest sudden rise of the last few points, in standard deviations of a single point.",
        _signal(lambda g: g.spike_zscore),
    ),
    Family(
        "llm_training_validation_divergence_ratio",
        "gauge",
        "How far validation loss has stayed above its best, and further than training loss rose with it.",
        lambda s: s.validation_signals.divergence_ratio,
    ),
    Family(
        "llm_training_validation_gap_ratio",
        "gauge",
        "How far validation loss has stayed above the smoothed training loss: the least of the last evaluations.",
        lambda s: s.validation_signals.gap_ratio,
    ),
    Family(
        "llm_training_validation_gap_growth_ratio",
        "gauge",
        "Growth of validation loss / training loss since the best validation loss: the least of the last evaluations.",
        lambda s: s.validation_signals.gap_growth_ratio,
    ),
    Family(
        "llm_training_validation_recent_improvement_ratio",
        "gauge",
        "Share of the best validation loss that the later half of the evaluations so far has removed.",
        lambda s: s.validation_signals.recent_improvement_ratio,
    ),
    Family(
        "llm_training_validation_fluctuation_ratio",
        "gauge",
        "Typical to and fro from evaluation to evaluation, as a share of the validation loss.",
        lambda s: s.validation_signals.fluctuation_ratio,
    ),
    Family(
        "llm_training_learning_rate_deviation_ratio",
        "gauge",
        "Distance of the learning rate from its schedule as a share of the peak: the least of the last three steps.",
        lambda s: s.learning_rate_deviation_ratio,
    ),
    Family(
        "llm_training_speed_ratio",
        "gauge",
        "Median speed of the last steps over the median of all steps of the process (tokens or steps per second, "
        "whichever is higher).",
        lambda s: s.pace_signals.ratio,
    ),
    Family(
        "llm_training_speed_drop_zscore",
        "gauge",
        "How far that is below what is usual, in standard deviations of such a median.",
        lambda s: s.pace_signals.zscore,
    ),
    # The profile: what is expected of the run where it stands
    Family(
        "llm_training_random_loss",
        "gauge",
        "Loss of a model that knows nothing: the natural logarithm of the vocabulary's size.",
        lambda s: math.log(s.vocabulary_size) if s.vocabulary_size and s.vocabulary_size > 1 else None,
    ),
    Family(
        "llm_training_expected_loss",
        "gauge",
        "Training loss to expect after as many epochs.",
        _curve(lambda p: p.loss),
        ("bound",),
    ),
    Family(
        "llm_training_expected_final_loss",
        "gauge",
        "Training loss to expect at the end of a full training.",
        _bounds(lambda p: p.loss.last),
        ("bound",),
    ),
    Family(
        "llm_training_expected_loss_floor",
        "gauge",
        "Loss below which nothing honest is learnt.",
        lambda s: s.profile.loss_floor if s.run is not None else None,
    ),
    Family(
        "llm_training_expected_validation_loss",
        "gauge",
        "Validation loss to expect after as many epochs.",
        _curve(lambda p: p.validation_loss),
        ("bound",),
    ),
    Family(
        "llm_training_expected_validation_gap_ratio",
        "gauge",
        "Validation loss / training loss - 1 to expect.",
        _bounds(lambda p: p.validation_gap),
        ("bound",),
    ),
    Family(
        "llm_training_expected_perplexity",
        "gauge",
        "Perplexity to expect after as many epochs.",
        _curve(lambda p: p.perplexity),
        ("bound",),
    ),
    Family(
        "llm_training_expected_initial_perplexity",
        "gauge",
        "Perplexity that a run should not start above.",
        lambda s: {("upper",): s.profile.initial_perplexity_limit} if s.run is not None else None,
        ("bound",),
    ),
    Family(
        "llm_training_expected_late_perplexity",
        "gauge",
        "Perplexity that a run should not remain above; known after several epochs.",
        _late_perplexity_bound,
        ("bound",),
    ),
    Family(
        "llm_training_expected_improvement_ratio",
        "gauge",
        "Share of the initial loss that should be gone; known after the first epoch.",
        _first_epoch_bounds,
        ("bound",),
    ),
    Family(
        "llm_training_expected_text_quality_ratio",
        "gauge",
        "Score of the generated text that a stage should reach, by criterion; known for the stages that were scored.",
        _expected_text_scores,
        ("criterion", "stage", "bound"),
    ),
    Family(
        "llm_training_expected_warmup_ratio",
        "gauge",
        "Share of the steps that warm-up should take.",
        _bounds(lambda p: p.warmup),
        ("bound",),
    ),
    Family(
        "llm_training_expected_tokens_per_second",
        "gauge",
        "Tokens per second to expect of the job's GPUs; known for GPU models of the profile.",
        _speed_bounds,
        ("bound", "gpu_model"),
    ),
    Family(
        "llm_training_expected_gpu_memory_ratio",
        "gauge",
        "Share of the GPU's memory to expect in use.",
        _bounds(lambda p: p.gpu_memory),
        ("bound",),
    ),
)


class MonitorFigures(Protocol):
    """What the exporter says about itself; `Monitor` has it."""

    @property
    def errors(self) -> Mapping[str, int]: ...

    @property
    def dropped_events(self) -> int: ...

    @property
    def waiting_events(self) -> int: ...


MONITOR_FAMILIES: tuple[Family[MonitorFigures], ...] = (
    Family(
        "training_exporter_build_info",
        "info",
        "Version of the exporter; the value is always 1.",
        lambda m: {(__version__,): 1.0},
        ("version",),
    ),
    Family(
        "training_exporter_callback_errors_total",
        "counter",
        "Errors of the monitoring that were kept from the training, by where they arose.",
        lambda m: {(hook,): float(n) for hook, n in m.errors.items()},
        ("hook",),
    ),
    Family(
        "training_exporter_journal_dropped_events_total",
        "counter",
        "Events that could not be written to the journal.",
        lambda m: m.dropped_events,
    ),
    Family(
        "training_exporter_journal_waiting_events",
        "gauge",
        "Events that wait in memory because the journal's disk does not take them; lost when the process is killed.",
        lambda m: m.waiting_events,
    ),
)

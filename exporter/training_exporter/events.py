"""What can happen in a run, as plain values.

An event states a fact at a time; it never says whether the fact is good or bad. The same events come from a live
Hugging Face `Trainer`, from a journal on disk and from other records of past runs, and feed one `RunState`.

All times are Unix seconds, all durations seconds, all losses natural-log cross-entropy per token.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

#: Phases of a run, in the order of a normal life; the last three are final.
STATES = ("starting", "training", "evaluating", "saving", "completed", "failed", "interrupted")
FINAL_STATES = STATES[-3:]
ACTIVE_STATES = STATES[:-3]

#: Stages at which generated text is scored, in order: about 20 % of the run, half of it, and its end.
TEXT_STAGES = ("early", "middle", "final")


#: Processes of a job that are told apart: each is a series.
MAX_RANKS = 1024


class InvalidEvent(ValueError):
    """A record that is no event: names the key, what was found and what is allowed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened in a run at `time` (Unix seconds)."""

    kind: ClassVar[str]
    time: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandStarted(Event):
    """A supervised command was started; what run it takes up, if it tells of one, is not known yet."""

    kind: ClassVar[str] = "command_started"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStarted(Event):
    """The process took up the run; `step` > 0 when it resumes from a checkpoint.

    `settings` are the run's own settings as `llm_training_run_info` and the alerts' messages show them.
    Every `timing_steps` steps the time was taken: 1 in a live run, more in a record where the steps between are
    spread evenly. The learning-rate schedule is Hugging Face's `lr_scheduler_type` with `warmup_steps` (0 when it has
    none).
    """

    kind: ClassVar[str] = "run_started"
    run: str
    max_steps: int | None = None
    num_epochs: float | None = None
    step: int = 0
    tokens: int = 0
    logging_steps: int = 1
    timing_steps: int = 1
    peak_learning_rate: float | None = None
    lr_scheduler: str | None = None
    warmup_steps: int = 0
    vocabulary_size: int | None = None
    settings: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepEnded(Event):
    """One optimizer step is done. `tokens` are the non-padding tokens of the step over the whole job.

    `duration_seconds` runs from asking for the step's data to its end; `data_wait_seconds` is the part of it that
    went into waiting for the data, `forward_backward_seconds` that of the forward and backward passes of all its
    batches, `optimizer_seconds` what followed them: gradient clipping, the optimizer, clearing the gradients.
    """

    kind: ClassVar[str] = "step_ended"
    step: int
    epoch: float | None = None
    tokens: int | None = None
    duration_seconds: float | None = None
    data_wait_seconds: float | None = None
    forward_backward_seconds: float | None = None
    optimizer_seconds: float | None = None
    learning_rate: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LossLogged(Event):
    """The training loss of `step`, or its mean over the `steps` optimizer steps that end there.

    `tokens`, `forward_backward_seconds` and `optimizer_seconds` are given here, and not in `StepEnded`, when only the
    device could count and time them: it is asked once it is done with the step, and never waited for.
    """

    kind: ClassVar[str] = "loss_logged"
    step: int
    loss: float
    steps: int = 1
    epoch: float | None = None
    gradient_norm: float | None = None
    learning_rate: float | None = None
    tokens: int | None = None
    forward_backward_seconds: float | None = None
    optimizer_seconds: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RanksTimed(Event):
    """In a distributed job: the seconds of a step, shortly before or at `step`, that each process spent on its own
    work, by rank. In the rest of the step it waited for the others."""

    kind: ClassVar[str] = "ranks_timed"
    step: int
    seconds: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluated(Event):
    """An evaluation gave the validation loss at `step`."""

    kind: ClassVar[str] = "evaluated"
    step: int
    loss: float
    epoch: float | None = None
    runtime_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class TextSample:
    """A prompt and what the model wrote on it, both clipped by whoever emits the event."""

    prompt: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TextScored(Event):
    """Texts that the model generated at a stage (of TEXT_STAGES) were scored.

    `scores` are means over `texts` texts, by criterion: 0 to 1, where 1 is good. A criterion that none of the texts
    allows to judge is left out. `samples` are a few of the texts.
    """

    kind: ClassVar[str] = "text_scored"
    step: int
    stage: str
    scores: Mapping[str, float]
    texts: int = 0
    samples: tuple[TextSample, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseChanged(Event):
    """The run went over to another active state (`training`, `evaluating`, `saving`)."""

    kind: ClassVar[str] = "phase_changed"
    state: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Progressed(Event):
    """Work went on within a phase that makes no steps: a batch was evaluated, a part of a model was loaded.

    What is done often is told every few seconds only. A run that tells nothing for long counts as stalled.
    """

    kind: ClassVar[str] = "progressed"


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointSaved(Event):
    """A checkpoint of `step` is complete on disk."""

    kind: ClassVar[str] = "checkpoint_saved"
    step: int
    path: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OutOfMemory(Event):
    """An allocation failed at `step`; `message` is the allocator's own."""

    kind: ClassVar[str] = "out_of_memory"
    step: int
    message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultInjected(Event):
    """A person made a fault happen on purpose (`trading-llm train --inject`): kept so that delays can be measured."""

    kind: ClassVar[str] = "fault_injected"
    sign: str
    step: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEnded(Event):
    """The run is over: `completed`, `failed` or `interrupted`, with the reason in one line."""

    kind: ClassVar[str] = "run_ended"
    state: str
    reason: str = ""


EVENT_TYPES: dict[str, type[Event]] = {
    cls.kind: cls
    for cls in (
        RunStarted,
        StepEnded,
        LossLogged,
        RanksTimed,
        Evaluated,
        TextScored,
        PhaseChanged,
        Progressed,
        CheckpointSaved,
        OutOfMemory,
        FaultInjected,
        RunEnded,
        CommandStarted,
    )
}


_FIELDS = {cls: tuple(f.name for f in dataclasses.fields(cls)) for cls in EVENT_TYPES.values()}


def to_record(event: Event) -> dict[str, Any]:
    """The event as a JSON-ready mapping; absent values are left out, non-finite numbers become strings.

    JSON has no NaN: "NaN", "Infinity" and "-Infinity" stand for it, as in protobuf's JSON mapping.
    """
    record: dict[str, Any] = {"event": event.kind}
    for name in _FIELDS[type(event)]:
        value = getattr(event, name)
        if value is None:
            continue
        if isinstance(value, float) and not math.isfinite(value):
            value = "NaN" if value != value else ("Infinity" if value > 0 else "-Infinity")
        elif isinstance(value, tuple):
            value = [dataclasses.asdict(part) if isinstance(part, TextSample) else part for part in value]
        record[name] = value
    return record


_CHOICES: dict[type[Event], dict[str, tuple[str, ...]]] = {
    RunEnded: {"state": FINAL_STATES},
    PhaseChanged: {"state": ACTIVE_STATES},
    TextScored: {"stage": TEXT_STAGES},
}
_NUMBERS = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def from_record(record: object) -> Event:
    """The event that `to_record` wrote.

    Raises InvalidEvent for anything else. Keys that this version does not know are ignored, so that an older
    reader understands a newer journal.
    """
    if not isinstance(record, dict):
        raise InvalidEvent(f"expected an object, found {type(record).__name__}")
    kind = record.get("event")
    cls = EVENT_TYPES.get(kind) if isinstance(kind, str) else None
    if cls is None:
        raise InvalidEvent(f"key 'event': found {kind!r}, allowed: {', '.join(EVENT_TYPES)}")
    values: dict[str, Any] = {}
    for f in dataclasses.fields(cls):
        if f.name in record:
            values[f.name] = _checked(f.name, str(f.type), record[f.name])
        elif f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING:
            raise InvalidEvent(f"event {kind!r}: key {f.name!r} is missing")
    for key, allowed in _CHOICES.get(cls, {}).items():
        if values[key] not in allowed:
            raise InvalidEvent(f"key {key!r}: found {values[key]!r}, allowed: {', '.join(allowed)}")
    return cls(**values)


def _checked(name: str, annotation: str, value: Any) -> Any:
    """`value` if it fits the field's annotation, else InvalidEvent."""
    if annotation == "Mapping[str, float]":
        if isinstance(value, dict) and all(_is_ratio(score) for score in value.values()):
            return {key: float(score) for key, score in value.items()}
        raise InvalidEvent(f"key {name!r}: found {value!r}, allowed: an object of numbers from 0 to 1")
    if annotation.startswith("tuple[TextSample"):
        if isinstance(value, list) and all(_is_sample(sample) for sample in value):
            return tuple(TextSample(sample["prompt"], sample["text"]) for sample in value)
        raise InvalidEvent(
            f"key {name!r}: found {value!r}, allowed: a list of objects with the strings prompt and text"
        )
    if annotation.startswith("Mapping"):
        if isinstance(value, dict) and all(isinstance(v, str) for v in value.values()):
            return value
        raise InvalidEvent(f"key {name!r}: found {value!r}, allowed: an object of strings")
    if value is None and annotation.endswith("None"):
        return None
    if annotation.startswith("tuple[float"):
        if isinstance(value, list | tuple) and len(value) <= MAX_RANKS:
            return tuple(_checked(name, "float", part) for part in value)
        raise InvalidEvent(f"key {name!r}: found {value!r}, allowed: at most {MAX_RANKS} numbers")
    if annotation.startswith("str"):
        if isinstance(value, str):
            return value
        raise InvalidEvent(f"key {name!r}: found {value!r}, allowed: a string")
    if annotation.startswith("int"):
        # Bounded as Prometheus' float64 is exact, and so that a foreign file cannot bring a number of a million digits.
        if isinstance(value, int) and not isinstance(value, bool) and abs(value) <= 2**53:
            return value
        raise InvalidEvent(f"key {name!r}: found {value!r}, allowed: an integer")
    if isinstance(value, str) and value in _NUMBERS:
        value = _NUMBERS[value]
    if isinstance(value, int | float) and not isinstance(value, bool):
        if name == "time" and not 0 <= value < 1e11:
            raise InvalidEvent(f"key 'time': found {value!r}, allowed: Unix seconds")
        return float(value)
    raise InvalidEvent(f"key {name!r}: found {value!r}, allowed: a number")


def _is_ratio(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1


def _is_sample(value: object) -> bool:
    return isinstance(value, dict) and isinstance(value.get("prompt"), str) and isinstance(value.get("text"), str)

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
from numbers import Integral, Real
from typing import Any, ClassVar, TypeVar

from training_exporter.errors import shown

#: Phases of a run, in the order of a normal life; the last three are final.
STATES = ("starting", "training", "evaluating", "saving", "completed", "failed", "interrupted")
FINAL_STATES = STATES[-3:]
ACTIVE_STATES = STATES[:-3]

#: Stages at which generated text is scored, in order: about 20 % of the run, half of it, and its end.
TEXT_STAGES = ("early", "middle", "final")


#: Processes of a job that are told apart: each is a series.
MAX_RANKS = 1024
#: Prometheus' float64 is exact up to here, and no foreign file brings a number of a million digits.
MAX_INTEGER = 2**53
#: Unix seconds of the year 5138: what is beyond was meant as something else.
MAX_TIME = 1e11


class InvalidEvent(ValueError):
    """A record that is no event: names the key, what was found and what is allowed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened in a run at `time` (Unix seconds)."""

    kind: ClassVar[str]
    time: float


AnyEvent = TypeVar("AnyEvent", bound=Event)


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
class ClockSet(Event):
    """The wall clock of the process was set by so many seconds: the times of its events before are of the clock as it
    was, `time` is of the clock as it is."""

    kind: ClassVar[str] = "clock_set"
    by_seconds: float


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
        ClockSet,
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
        if isinstance(value, float):
            value = _number_record(value)
        elif isinstance(value, tuple):
            value = [_number_record(p) if isinstance(p, float) else _part_record(p) for p in value]
        record[name] = value
    return record


def _number_record(value: float) -> float | str:
    return value if math.isfinite(value) else "NaN" if value != value else "Infinity" if value > 0 else "-Infinity"


def _part_record(part: object) -> object:
    return dataclasses.asdict(part) if isinstance(part, TextSample) else part


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
        raise InvalidEvent(f"key 'event': found {shown(kind)}, allowed: {', '.join(EVENT_TYPES)}")
    values: dict[str, Any] = {}
    for f in dataclasses.fields(cls):
        if f.name in record:
            values[f.name] = _checked(cls, f.name, str(f.type), record[f.name])
        elif f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING:
            raise InvalidEvent(f"event {kind!r}: key {f.name!r} is missing")
    return cls(**values)


#: By event: name, plain type (None: looked at more closely), whether it may be absent, and the words allowed.
_PLAIN: dict[type[Event], list[tuple[str, type | None, bool, tuple[str, ...] | None]]] = {
    cls: [
        (
            f.name,
            {"float": float, "int": int, "str": str}.get(str(f.type).removesuffix(" | None")),
            str(f.type).endswith("None"),
            _CHOICES.get(cls, {}).get(f.name),
        )
        for f in dataclasses.fields(cls)
    ]
    for cls in EVENT_TYPES.values()
}


def checked(event: AnyEvent) -> AnyEvent:
    """`event` as it comes back from a journal: the same one, or one that has plain numbers where these are NumPy's.

    Raises InvalidEvent for one that no journal could hold. Takes about a microsecond.
    """
    cls = type(event)
    if cls not in _PLAIN:
        raise InvalidEvent(f"found {shown(event)}, allowed: the events of {__name__}")
    for name, plain, optional, allowed in _PLAIN[cls]:
        value: Any = getattr(event, name)
        kind: type = type(value)
        if value is None and optional:
            continue
        if (
            kind is not plain
            or (plain is int and not 0 <= value <= MAX_INTEGER)
            or (allowed is not None and value not in allowed)
            or (name == "time" and not 0 <= value < MAX_TIME)
        ):
            break
    else:
        return event
    values = {f.name: _checked(cls, f.name, str(f.type), getattr(event, f.name)) for f in dataclasses.fields(cls)}
    return cls(**values)


def _checked(cls: type[Event], name: str, annotation: str, value: Any) -> Any:
    """`value` in the type of the field, from JSON or from a caller, if it fits; else InvalidEvent."""

    def refused(allowed: str) -> InvalidEvent:
        return InvalidEvent(f"key {name!r}: found {shown(value)}, allowed: {allowed}")

    if value is None and annotation.endswith("None"):
        return None
    if annotation == "Mapping[str, float]":
        if isinstance(value, Mapping) and all(isinstance(k, str) and _is_ratio(v) for k, v in value.items()):
            return {key: float(score) for key, score in value.items()}
        raise refused("an object of numbers from 0 to 1")
    if annotation.startswith("Mapping"):
        if isinstance(value, Mapping) and all(isinstance(v, str | Real) for v in value.values()):
            return {str(key): str(each) for key, each in value.items()}
        raise refused("an object of strings")
    if annotation.startswith("tuple[TextSample"):
        if isinstance(value, list | tuple) and all(map(_is_sample, value)):
            return tuple(each if isinstance(each, TextSample) else TextSample(**_texts(each)) for each in value)
        raise refused("a list of objects with the strings prompt and text")
    if annotation.startswith("tuple[float"):
        if isinstance(value, list | tuple) and len(value) <= MAX_RANKS:
            return tuple(_checked(cls, name, "float", part) for part in value)
        raise refused(f"at most {MAX_RANKS} numbers")
    if annotation.startswith("str"):
        allowed = _CHOICES.get(cls, {}).get(name)
        if isinstance(value, str) and (allowed is None or value in allowed):
            return str(value)
        raise refused("a string" if allowed is None else ", ".join(allowed))
    if annotation.startswith("int"):
        number = _number(value)
        if isinstance(number, int) and 0 <= number <= MAX_INTEGER:
            return number
        raise refused("an integer from 0 to 2^53")
    number = _number(_NUMBERS.get(value, value) if isinstance(value, str) else value)
    if number is None:
        raise refused("a number")
    if name == "time" and not 0 <= number < MAX_TIME:
        raise refused("Unix seconds")
    try:
        return float(number)
    except OverflowError:
        raise refused("a number up to 1e308") from None


def _number(value: object) -> int | float | None:
    """The plain number that `value` is, also where it is NumPy's; None for anything else."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        return value
    return int(value) if isinstance(value, Integral) else float(value) if isinstance(value, Real) else None


def _is_ratio(value: object) -> bool:
    number = _number(value)
    return number is not None and 0 <= number <= 1


def _is_sample(value: object) -> bool:
    texts = dataclasses.asdict(value) if isinstance(value, TextSample) else value
    return isinstance(texts, dict) and all(isinstance(texts.get(key), str) for key in ("prompt", "text"))


def _texts(sample: Mapping[str, str]) -> dict[str, str]:
    return {key: sample[key] for key in ("prompt", "text")}

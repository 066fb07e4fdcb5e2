"""What a run is expected to look like, as data: `profiles/default.yaml` has the guide's numbers.

A profile is a YAML file with the same keys; what it leaves out is taken from the default. The families export it as
`llm_training_expected_...` series, so that rules compare with it and dashboards draw it.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from training_exporter import yaml_file
from training_exporter.errors import shown
from training_exporter.events import TEXT_STAGES

DEFAULT = Path(__file__).parent / "profiles" / "default.yaml"


class ProfileError(ValueError):
    """A file that is no profile: one line with the file, the key, what was found and what is allowed."""


class Band(NamedTuple):
    """The values from `lower` to `upper`."""

    lower: float
    upper: float


@dataclass(frozen=True, slots=True)
class Curve:
    """A band over the epochs done: `bands[i]` holds at `epochs[i]`, ascending; straight lines lie between."""

    epochs: tuple[float, ...]
    bands: tuple[Band, ...]

    def at(self, epoch: float) -> Band:
        """The band after `epoch` epochs; before the first and after the last point it is that point's."""
        after = bisect_right(self.epochs, epoch)
        if after == 0:
            return self.bands[0]
        if after == len(self.epochs):
            return self.bands[-1]
        before = self.bands[after - 1]
        since = self.epochs[after - 1]
        share = (epoch - since) / (self.epochs[after] - since)
        later = self.bands[after]
        return Band(
            before.lower + share * (later.lower - before.lower), before.upper + share * (later.upper - before.upper)
        )

    @property
    def last(self) -> Band:
        """The band at the end of a full training."""
        return self.bands[-1]


@dataclass(frozen=True, slots=True)
class Profile:
    """Expectations of a run. Losses in nats per token, speeds in non-padding tokens per second of one GPU, the rest
    shares or perplexities."""

    loss: Curve
    validation_loss: Curve
    perplexity: Curve
    first_epoch_improvement: Band
    validation_gap: Band
    initial_perplexity_limit: float
    late_perplexity_limit: float
    several_epochs: float
    loss_floor: float
    warmup: Band
    tokens_per_second: Mapping[str, Band]
    gpu_memory: Band
    #: Least score of the generated text, by stage and criterion.
    text_quality: Mapping[str, Mapping[str, float]]

    def speed_of(self, gpu: str) -> tuple[str, Band] | None:
        """The GPU model of the profile that the name `gpu` contains (the longest one), and its speed."""
        names = [model for model in self.tokens_per_second if model.lower() in gpu.lower()]
        best = max(names, key=len, default=None)
        return None if best is None else (best, self.tokens_per_second[best])


def load(path: Path | None = None) -> Profile:
    """The profile of the file at `path`, or the shipped one for None.

    Raises ProfileError for a file that cannot be read, is no YAML, or has a key or a value that is not allowed.
    """
    return default() if path is None else _read(path, default())


@cache
def default() -> Profile:
    """The shipped profile."""
    return _read(DEFAULT, None)


def _read(path: Path, base: Profile | None) -> Profile:
    try:
        document = yaml_file.load(path)
        return _from_document({} if document is None else document, base)
    except yaml_file.YamlFileError as error:
        raise ProfileError(str(error)) from None
    except ProfileError as error:
        raise ProfileError(f"{path}: {error}") from None


def from_yaml(text: str) -> Profile:
    """The profile of a file's text. Raises ProfileError."""
    try:
        return _from_document(yaml_file.parse(text) or {}, default())
    except yaml_file.YamlFileError as error:
        raise ProfileError(str(error)) from None


def _from_document(document: object, base: Profile | None) -> Profile:
    names = [field.name for field in fields(Profile)]
    if not isinstance(document, dict):
        raise ProfileError(f"found {shown(document)}, allowed: a mapping with keys of {', '.join(names)}")
    values: dict[str, Any] = {name: getattr(base, name) for name in names} if base is not None else {}
    for key, value in document.items():
        if key not in names:
            raise ProfileError(f"key {shown(key)}: not known, allowed: {', '.join(names)}")
        values[key] = _value(str(key), value, values.get(key))
    return Profile(**values)


def to_yaml(profile: Profile) -> str:
    """The profile as the text of a file."""

    def plain(value: Any) -> Any:
        if isinstance(value, Curve):
            return {epoch: plain(band) for epoch, band in zip(value.epochs, value.bands, strict=True)}
        if isinstance(value, Mapping):
            return {key: plain(each) for key, each in value.items()}
        return list(value) if isinstance(value, Band) else value

    return yaml.safe_dump({field.name: plain(getattr(profile, field.name)) for field in fields(Profile)})


def _value(key: str, value: Any, base: Any) -> Any:
    """The value of `key` as `Profile` has it; GPU models and scores of the file are added to those of `base`."""
    if key in {"loss", "validation_loss", "perplexity"}:
        return _curve(key, value)
    if key == "tokens_per_second":
        if not isinstance(value, dict) or not all(isinstance(model, str) and model.strip() for model in value):
            raise ProfileError(f"key {key!r}: found {shown(value)}, allowed: a mapping of GPU names to [lower, upper]")
        return {**(base or {}), **{model: _band(_below(key, model), band) for model, band in value.items()}}
    if key == "text_quality":
        return _scores(key, value, base or {})
    if key in {"first_epoch_improvement", "validation_gap", "warmup", "gpu_memory"}:
        return _band(key, value, 1.0 if key != "validation_gap" else math.inf)
    return _number(key, value)


def _scores(key: str, value: Any, base: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    stages = ", ".join(TEXT_STAGES)
    if not isinstance(value, dict):
        raise ProfileError(f"key {key!r}: found {shown(value)}, allowed: a mapping with keys of {stages}")
    found: dict[str, dict[str, float]] = {stage: dict(base.get(stage, {})) for stage in TEXT_STAGES}
    for stage, scores in value.items():
        if stage not in TEXT_STAGES:
            raise ProfileError(f"key {_below(key, stage)!r}: not known, allowed: {stages}")
        if not isinstance(scores, dict):
            raise ProfileError(f"key '{key}.{stage}': found {shown(scores)}, allowed: a mapping of criteria to scores")
        for criterion, least in scores.items():
            # The shipped profile names the criteria that there are.
            if base and criterion not in base[stage]:
                allowed = ", ".join(base[stage])
                raise ProfileError(f"key {_below(f'{key}.{stage}', criterion)!r}: not known, allowed: {allowed}")
            found[stage][str(criterion)] = _number(f"{key}.{stage}.{criterion}", least, 1.0)
    return found


def _below(key: str, name: object) -> str:
    return f"{key}.{name[:60] if isinstance(name, str) else shown(name)}"


def _curve(key: str, value: Any) -> Curve:
    if not isinstance(value, dict) or not value:
        raise ProfileError(f"key {key!r}: found {shown(value)}, allowed: a mapping of epochs to [lower, upper]")
    points = {}
    for epoch, band in value.items():
        at = _number(f"{key}: epoch", epoch)
        points[at] = _band(f"{key}.{at:g}", band)
    epochs = tuple(sorted(points))
    return Curve(epochs, tuple(points[epoch] for epoch in epochs))


def _band(key: str, value: Any, most: float = math.inf) -> Band:
    if not isinstance(value, list) or len(value) != 2:
        raise ProfileError(f"key {key!r}: found {shown(value)}, allowed: [lower, upper]")
    lower, upper = (_number(key, bound, most) for bound in value)
    if lower > upper:
        raise ProfileError(f"key {key!r}: found {shown(value)}, allowed: [lower, upper] with lower <= upper")
    return Band(lower, upper)


def _number(key: str, value: Any, most: float = math.inf) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= min(most, 1e12):
        allowed = "a number from 0" + (f" to {most:g}" if math.isfinite(most) else "")
        raise ProfileError(f"key {key!r}: found {shown(value)}, allowed: {allowed}")
    return float(value)

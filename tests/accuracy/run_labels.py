"""Labelled runs on disk: `<set>/labels.json`, and for each run its loss curve.

Two kinds of labels. An injected fault is known: `kind`, `signs` (one of them must fire; empty: healthy). A reader's
judgement of a real log is a list of words: `label` (see READER), with `tags`. Common to both: `onset_step` (null: from
the start), `max_steps`, `why`; `skip` where the run proves nothing, `also_ok` for signs that are no false alarm there.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from training_exporter import journal
from training_exporter.events import Evaluated, LossLogged, RunStarted

LABELS_FILE = "labels.json"

#: Which signs answer a reader's word.
READER = {
    "rising": {"loss_rising", "loss_fluctuating", "loss_nan"},
    "spiky": {"loss_rising", "loss_fluctuating", "loss_spike", "loss_nan"},
    "overfitting": {"val_diverging", "val_gap"},
    "diverged_nan": {"loss_nan"},
    "collapsed_to_zero": {"loss_collapsed", "loss_nan"},
}
#: Words that prove nothing by themselves: whether such a run is ill cannot be told from its curve.
ARGUABLE = {"unclear", "plateau_early", "high_perplexity"}
HEALTHY = "healthy"
#: Tags of curves near the border, and the signs that are no false alarm there.
NEAR_PLATEAU = {"near_plateau", "benign_plateau"}
PLATEAU_SIGNS = {"early_plateau", "slow_first_epoch"}


class LabelError(ValueError):
    """A labels file that is not as documented above; the message names file, run and key."""


@dataclass(frozen=True)
class Label:
    """What is true of a run. `signs`: None where the run proves nothing, empty where it is healthy."""

    kind: str
    signs: frozenset[str] | None
    onset_step: int | None
    max_steps: int
    why: str
    #: Whether somebody read it from the curve; the onset is then a guess.
    read: bool = False
    forgiven: frozenset[str] = frozenset()


@dataclass
class Curve:
    """(step, epoch, loss) as logged, (step, loss) of the evaluations; values can be NaN."""

    max_steps: int
    losses: list[tuple[int, float, float]] = field(default_factory=list)
    evaluations: list[tuple[int, float]] = field(default_factory=list)


def read_labels(path: Path) -> dict[str, Label]:
    """The labels of a set, by run. Raises LabelError."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise LabelError(f"{path}: cannot be read: {error}") from None
    if not isinstance(document, dict) or not all(isinstance(item, dict) for item in document.values()):
        raise LabelError(f"{path}: found no object of objects; allowed: one label for each run")
    return {run: _label(f"{path}: {run}", item) for run, item in sorted(document.items())}


def _label(where: str, item: dict[str, Any]) -> Label:
    def value(key: str, allowed: type | tuple[type, ...], words: str) -> Any:
        if key not in item or not isinstance(item[key], allowed) or isinstance(item[key], bool):
            raise LabelError(f"{where}: {key}: found {item.get(key, 'nothing')!r}; allowed: {words}")
        return item[key]

    onset = value("onset_step", (int, type(None)), "a step, or null")
    max_steps, why = value("max_steps", int, "a number of steps"), value("why", str, "a text")
    forgiven = set(item.get("also_ok", ()))
    if NEAR_PLATEAU & set(item.get("tags", ())):
        forgiven |= PLATEAU_SIGNS
    if "signs" in item:
        kind, read = value("kind", str, "a text"), False
        signs: set[str] | None = set(value("signs", list, "a list of signs"))
    else:
        words = value("label", list, "a list of words, or `kind` and `signs` instead")
        allowed = READER.keys() | ARGUABLE | {HEALTHY}
        if not words or set(words) - allowed:
            raise LabelError(f"{where}: label: found {words!r}; allowed: {', '.join(sorted(allowed))}")
        # A word that proves something outweighs one that does not.
        ill = [word for word in words if word in READER]
        kind, read = "+".join(ill or words), True
        signs = None if not ill and ARGUABLE & set(words) else {sign for word in ill for sign in READER[word]}
    if item.get("skip"):
        signs = None
    return Label(kind, None if signs is None else frozenset(signs), onset, max_steps, why, read, frozenset(forgiven))


def write_labels(path: Path, labels: dict[str, Label]) -> None:
    """Write labels of injected faults, in one piece."""
    document = {
        run: {
            "kind": label.kind,
            "onset_step": label.onset_step,
            "max_steps": label.max_steps,
            "signs": sorted(label.signs or ()),
            "why": label.why,
            **({"also_ok": sorted(label.forgiven)} if label.forgiven else {}),
        }
        for run, label in sorted(labels.items())
    }
    part = path.with_suffix(".part")
    part.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    part.replace(path)


def read_curve(folder: Path) -> Curve:
    """The curve of a run from its `trainer_state.json` or journal. Raises LabelError."""
    state_file, journal_file = folder / "trainer_state.json", folder / journal.JOURNAL_NAME
    if state_file.exists():
        state = json.loads(state_file.read_text(encoding="utf-8"))
        entries = state["log_history"]
        return Curve(
            state["max_steps"],
            [(e["step"], e.get("epoch") or 0.0, e["loss"]) for e in entries if "loss" in e],
            [(e["step"], e["eval_loss"]) for e in entries if "eval_loss" in e],
        )
    if not journal_file.exists():
        raise LabelError(f"{folder}: found neither trainer_state.json nor {journal.JOURNAL_NAME}")
    curve = Curve(0)
    for event in journal.read(journal_file):
        if isinstance(event, RunStarted):
            curve.max_steps = event.max_steps or 0
        elif isinstance(event, LossLogged):
            curve.losses.append((event.step, event.epoch or 0.0, event.loss))
        elif isinstance(event, Evaluated):
            curve.evaluations.append((event.step, event.loss))
    return curve


def true_anyway(curve: Curve) -> set[str]:
    """Signs that hold for a run by the guide's own numbers, whatever else is the matter with it."""
    losses = [loss for _, _, loss in curve.losses]
    if not losses:
        return {"initial_perplexity", "high_perplexity"}
    true = set()
    first = _mean(losses[:5])
    early = [_perplexity(loss) for loss in losses[:10] if math.isfinite(loss)]
    if not math.isfinite(first) or _perplexity(first) > 18 or any(each > 20 for each in early):
        true.add("initial_perplexity")
    tail = _mean([loss for loss in losses[-max(5, len(losses) // 10) :] if math.isfinite(loss)])
    if max(epoch for _, epoch, _ in curve.losses) >= 1.9 and (math.isnan(tail) or _perplexity(tail) > 4.5):
        true.add("high_perplexity")
    after = [loss for _, epoch, loss in curve.losses if 0.9 <= epoch <= 1.15]
    if after and _mean(after) > 0.68 * first:
        true.add("slow_first_epoch")
    reach = max(3, curve.max_steps // 40)
    for step, validation in curve.evaluations:
        near = _mean([loss for at, _, loss in curve.losses if abs(at - step) <= reach])
        if near > 0 and validation / near > 1.25:
            true |= {"val_gap", "val_diverging"}
    return true


def _perplexity(loss: float) -> float:
    return math.exp(min(loss, 50))


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else math.nan

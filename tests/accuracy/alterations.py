"""What can be drawn into the log of a healthy run: harmless oddities, and faults. Nothing is trained for it.

Each function changes a `Log` in place and gives the onset of its fault (None: from the start), or ABSENT where the log
lacks what it would change. `r` is the only source of chance, so the same seed gives the same set.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from random import Random
from statistics import median
from typing import Any

Entry = dict[str, Any]
#: The log has no such figures, or too few of them.
ABSENT = -1


class Log:
    """A `trainer_state.json`. `steps` is how far it goes; losses are changed as (loss, step) -> loss."""

    def __init__(self, state: dict[str, Any]) -> None:
        self.state = copy.deepcopy(state)

    @property
    def entries(self) -> list[Entry]:
        return self.state["log_history"]

    @entries.setter
    def entries(self, entries: list[Entry]) -> None:
        self.state["log_history"] = entries

    @property
    def steps(self) -> int:
        return max(entry["step"] for entry in self.entries)

    @property
    def training(self) -> list[Entry]:
        return [entry for entry in self.entries if "loss" in entry]

    @property
    def evaluations(self) -> list[Entry]:
        return [entry for entry in self.entries if "eval_loss" in entry]

    @property
    def timed(self) -> bool:
        return all("wall_time" in entry for entry in self.entries)

    @property
    def peak(self) -> float | None:
        """The peak learning rate, where the schedule is one that is compared."""
        known = self.state.get("lr_scheduler_type") in {"cosine", "linear"} and "learning_rate" in self.training[-1]
        return self.state.get("learning_rate") if known else None

    def start(self) -> float:
        return median(entry["loss"] for entry in self.training[:3])

    def at(self, r: Random, low: float, high: float) -> int:
        """A step by chance between these shares of the run."""
        return int(r.uniform(low, high) * self.steps)

    def lose(self, change: Callable[[float, int], float], since: float = 0, evaluations: bool = False) -> None:
        for entry in self.entries:
            for key in ("loss", "eval_loss") if evaluations else ("loss",):
                if key in entry and entry["step"] >= since:
                    entry[key] = change(entry[key], entry["step"])

    def rate(self, change: Callable[[float, int], float], since: float = 0) -> None:
        for entry in self.entries:
            if "learning_rate" in entry and entry["step"] >= since:
                entry["learning_rate"] = change(entry["learning_rate"], entry["step"])

    def slow(self, factor: Callable[[int], float], since: float = 0) -> None:
        """Training steps from `since` on take `factor` times as long."""
        before = now = self.entries[0]["wall_time"]
        for entry in self.entries:
            took, before = entry["wall_time"] - before, entry["wall_time"]
            by = factor(entry["step"]) if entry["step"] >= since and "loss" in entry else 1.0
            now += took * by
            entry["wall_time"] = now
            if "tokens_per_second" in entry:
                entry["tokens_per_second"] /= by

    def level_out(self, level: Callable[[int], float], validation: Callable[[], float]) -> None:
        """The loss follows `level` with the noise that it had."""
        losses = [entry["loss"] for entry in self.training]
        for place, entry in enumerate(self.training):
            near = losses[max(0, place - 8) : place + 9]
            noise = losses[place] / (sum(near) / len(near)) - 1
            entry["loss"] = level(entry["step"]) * (1 + 0.7 * noise)
        for entry in self.evaluations:
            entry["eval_loss"] = level(entry["step"]) * validation()


# -- harmless ---------------------------------------------------------------------------------------------------------


def one_spike(log: Log, r: Random) -> int | None:
    since, height, last = log.at(r, 0.2, 0.8), r.uniform(1.5, 3), r.choice((1, 1, 2, 3))
    hit = [entry["step"] for entry in log.training if entry["step"] >= since][:last]
    log.lose(lambda x, step: x * (1 + (height - 1) * 0.6 ** hit.index(step)) if step in hit else x)
    return None


def rare_spikes(log: Log, r: Random) -> int | None:
    hit = {entry["step"] for entry in log.training if r.random() < 0.012}
    log.lose(lambda x, step: x * r.uniform(1.3, 1.9) if step in hit else x)
    return None


def taken_up_again(log: Log, r: Random) -> int | None:
    """From an earlier checkpoint, after a minute or hours; the steps since then are made again."""
    place = int(len(log.entries) * r.uniform(0.4, 0.7))
    again = copy.deepcopy(log.entries[place - max(2, int(len(log.entries) * r.uniform(0.03, 0.12))) :])
    if log.timed:
        gap = log.entries[place - 1]["wall_time"] - again[0]["wall_time"] + r.choice((60, 600, 20_000))
        for entry in again:
            entry["wall_time"] += gap
    log.entries = log.entries[:place] + again
    return None


def harder_data(log: Log, r: Random) -> int | None:
    more = r.uniform(1.08, 1.22)
    log.lose(lambda x, _: x * more, log.at(r, 0.3, 0.7), evaluations=True)
    return None


def steps_at_epochs(log: Log, r: Random) -> int | None:
    epochs, less = r.choice((2, 3, 4)), r.uniform(0.85, 0.93)
    log.lose(lambda x, step: x * less ** int(epochs * step / log.steps + 1e-3))
    return None


def logged_less_often(log: Log, r: Random) -> int | None:
    every = r.choice((2, 5)) if len(log.training) >= 125 else 2
    kept: list[Entry] = []
    some: list[Entry] = []
    for entry in log.entries:
        if "loss" not in entry:
            kept.append(entry)
            continue
        some.append(entry)
        if len(some) == every:
            kept.append({**entry, "loss": sum(each["loss"] for each in some) / every})
            some = []
    log.entries = kept
    log.state["logging_steps"] = every * (log.state.get("logging_steps") or 1)
    return None


def uneven_steps(log: Log, r: Random) -> int | None:
    if not log.timed:
        return ABSENT
    by = {entry["step"]: r.choice((0.5, 0.8, 1, 1.6, 2.2)) for entry in log.training}
    log.slow(lambda step: by.get(step, 1.0))
    return None


def slow_checkpoints(log: Log, r: Random) -> int | None:
    if not log.timed:
        return ABSENT
    every = max(5, log.steps // r.choice((10, 20)))
    log.slow(lambda step: 15 if step % every == 0 else 1)
    return None


def slightly_slower(log: Log, r: Random) -> int | None:
    if not log.timed:
        return ABSENT
    more = r.uniform(0.08, 0.2)
    log.slow(lambda step: 1 + more * step / log.steps)
    return None


def slow_start(log: Log, r: Random) -> int | None:
    if not log.timed:
        return ABSENT
    log.slow(lambda step: 1 + 8 * math.exp(-step / r.uniform(3, 5)))
    return None


def busy_for_a_moment(log: Log, r: Random) -> int | None:
    if not log.timed:
        return ABSENT
    since, last = log.at(r, 0.3, 0.8), max(2, 0.01 * log.steps)
    log.slow(lambda step: 3 if since <= step < since + last else 1)
    return None


def sorted_by_length(log: Log, r: Random) -> int | None:
    period, height = r.choice((12, 25, 50)), r.uniform(0.15, 0.35)
    log.lose(lambda x, step: x * (1 + height * (step % period / period - 0.5)))
    return None


def one_odd_evaluation(log: Log, r: Random) -> int | None:
    if len(log.evaluations) < 4:
        return ABSENT
    r.choice(log.evaluations[1:-1])["eval_loss"] *= r.uniform(1.04, 1.12)
    return None


def noisy_evaluations(log: Log, r: Random) -> int | None:
    if not log.evaluations:
        return ABSENT
    noise = r.uniform(0.01, 0.03)
    for entry in log.evaluations:
        entry["eval_loss"] *= math.exp(r.gauss(0, noise))
    return None


def many_evaluations(log: Log, r: Random) -> int | None:
    known = [(0, log.start())] + [(entry["step"], entry["eval_loss"]) for entry in log.evaluations]
    if len(known) < 4:
        return ABSENT
    every, kept = max(1, log.steps // 40), []
    for entry in log.training:
        kept.append(entry)
        span = next(((a, b) for a, b in pairwise(known) if a[0] < entry["step"] <= b[0]), None)
        if entry["step"] % every == 0 and span:
            (a, x), (b, y) = span
            loss = (x + (y - x) * (entry["step"] - a) / (b - a)) * math.exp(r.gauss(0, 0.006))
            kept.append(
                {key: entry[key] for key in ("step", "epoch", "wall_time") if key in entry} | {"eval_loss": loss}
            )
    log.entries = kept
    return None


def first_loss_is_odd(log: Log, r: Random) -> int | None:
    log.training[0]["loss"] *= r.uniform(2, 8)
    return None


def noisy_batches(log: Log, r: Random) -> int | None:
    noise = r.uniform(0.06, 0.12)
    log.lose(lambda x, _: x * math.exp(r.gauss(0, noise)))
    return None


def trained_on(log: Log, r: Random) -> int | None:
    """As long again, where it had arrived."""
    end, last, steps = log.training[-max(5, len(log.training) // 10) :], log.entries[-1], log.steps
    level = sum(entry["loss"] for entry in end) / len(end)
    noise = math.sqrt(sum((entry["loss"] - level) ** 2 for entry in end) / len(end))
    shift = last["wall_time"] - log.entries[0]["wall_time"] if log.timed else 0.0
    final = log.evaluations[-1]["eval_loss"] if log.evaluations else 0.0
    for entry in copy.deepcopy(log.entries):
        entry["step"] += steps
        entry.pop("learning_rate", None)
        if entry.get("epoch") is not None:
            entry["epoch"] += last.get("epoch") or 0.0
        if "wall_time" in entry:
            entry["wall_time"] += shift
        if "loss" in entry:
            entry["loss"] = level + r.gauss(0, 0.9 * noise)
        if "eval_loss" in entry:
            entry["eval_loss"] = final * math.exp(r.gauss(0, 0.005))
        log.entries.append(entry)
    log.state["max_steps"] = 2 * log.state["max_steps"]
    log.state.pop("lr_scheduler_type", None)
    return None


def bare(log: Log, r: Random) -> int | None:
    """A log of losses alone."""
    gone = {"grad_norm", "learning_rate", "tokens_per_second"} | ({"epoch"} if r.random() < 0.3 else set())
    log.entries = [{key: value for key, value in entry.items() if key not in gone} for entry in log.entries]
    return None


def easier_data(log: Log, r: Random) -> int | None:
    less = r.uniform(0.3, 0.7)
    log.lose(lambda x, _: x * less, evaluations=True)
    return None


def bump_at_the_peak(log: Log, r: Random) -> int | None:
    """Just after warm-up, when the learning rate is highest."""
    top, width, height = log.at(r, 0.06, 0.14), 0.03 * log.steps + 1, r.uniform(0.05, 0.2)
    log.lose(lambda x, step: x * (1 + height * math.exp(-(((step - top) / width) ** 2))))
    return None


def restarted_schedule(log: Log, r: Random) -> int | None:
    since, width, height = log.at(r, 0.35, 0.75), 0.06 * log.steps + 1, r.uniform(0.05, 0.18)
    log.lose(lambda x, step: x * (1 + height * math.exp((since - step) / width)), since, evaluations=True)
    log.state["lr_scheduler_type"] = "cosine_with_restarts"
    return None


def starts_converged(log: Log, r: Random) -> int | None:
    """From an adapter that is trained already."""
    level = r.uniform(0.3, 0.85)
    log.level_out(lambda _: level, lambda: 1.05 * math.exp(r.gauss(0, 0.004)))
    return None


def wide_gap(log: Log, r: Random) -> int | None:
    if not log.evaluations:
        return ABSENT
    more = r.uniform(0.12, 0.3)
    for entry in log.evaluations:
        entry["eval_loss"] *= 1 + more * entry["step"] / log.steps
    return None


def low_validation(log: Log, r: Random) -> int | None:
    """Dropout is off in evaluations."""
    if not log.evaluations:
        return ABSENT
    less = r.uniform(0.8, 0.95)
    for entry in log.evaluations:
        entry["eval_loss"] *= less
    return None


# -- faults -----------------------------------------------------------------------------------------------------------


def slow_rise(log: Log, r: Random) -> int | None:
    since, height = log.at(r, 0.3, 0.65), r.uniform(0.6, 1.2)
    log.lose(lambda x, step: x * (1 + height * min(1.3, (step - since) / (0.35 * log.steps))), since)
    return since


def rise_at_once(log: Log, r: Random) -> int | None:
    since, height = log.at(r, 0.3, 0.8), r.uniform(1.7, 2.5)
    log.lose(lambda x, _: x * height, since)
    return since


def late_rise(log: Log, r: Random) -> int | None:
    since, height = log.at(r, 0.8, 0.88), r.uniform(0.8, 1.5)
    log.lose(lambda x, step: x * (1 + height * min(1.3, (step - since) / (0.05 * log.steps))), since)
    return since


def collapse_upwards(log: Log, r: Random) -> int | None:
    """To a level above the start, as of a model that has diverged to equal chances."""
    since, top = log.at(r, 0.2, 0.8), log.start() * r.uniform(1.2, 3)
    log.lose(lambda x, step: min(top, x + (top - x) * (step - since) / max(2, 0.02 * log.steps)), since)
    return since


def spikes_that_keep_coming(log: Log, r: Random) -> int | None:
    since, every = log.at(r, 0.2, 0.5), r.randint(5, 9)
    hit = {entry["step"] for place, entry in enumerate(log.training) if place % every < 2 and entry["step"] >= since}
    log.lose(lambda x, step: x * r.uniform(1.8, 3.5) if step in hit else x)
    return since


def wild_from_the_middle(log: Log, r: Random) -> int | None:
    since, noise = log.at(r, 0.3, 0.6), r.uniform(0.5, 0.8)
    log.lose(lambda x, _: x * math.exp(r.gauss(0, noise)), since)
    return since


def wild_throughout(log: Log, r: Random) -> int | None:
    noise = r.uniform(0.5, 0.7)
    log.lose(lambda x, _: x * math.exp(r.gauss(0, noise)))
    return None


def falls_to_zero(log: Log, r: Random) -> int | None:
    since, last = log.at(r, 0.2, 0.7), max(1.0, r.choice((0.001, 0.03)) * log.steps)
    log.lose(lambda x, step: x * max(0.0, 1 - (step - since) / last), since, evaluations=True)
    return since


def leaks(log: Log, r: Random) -> int | None:
    since = log.at(r, 0.2, 0.4)
    log.lose(lambda x, step: x * math.exp(-8 * (step - since) / (0.3 * log.steps)), since, evaluations=True)
    return since


def nan_behind_the_filter(log: Log, r: Random) -> int | None:
    since = log.at(r, 0.2, 0.8)
    for entry in log.training:
        if entry["step"] >= since:
            entry |= {"loss": 0.0, "grad_norm": math.nan}
    return since


def nan_gradients(log: Log, r: Random) -> int | None:
    since = log.at(r, 0.2, 0.8)
    for entry in log.training:
        if entry["step"] >= since:
            entry["grad_norm"] = math.nan
    return since


def infinite_loss(log: Log, r: Random) -> int | None:
    since = log.at(r, 0.2, 0.8)
    hit = next(entry for entry in log.training if entry["step"] >= since)
    hit["loss"] = math.inf
    return hit["step"]


def half_speed(log: Log, r: Random) -> int | None:
    if not log.timed:
        return ABSENT
    since, by = log.at(r, 0.3, 0.75), r.uniform(1.7, 4)
    log.slow(lambda _: by * r.uniform(0.9, 1.1), since)
    return since


def ever_slower(log: Log, r: Random) -> int | None:
    if not log.timed:
        return ABSENT
    since, more = log.at(r, 0.3, 0.5), r.uniform(1.2, 2.5)
    log.slow(lambda step: 1 + more * (step - since) / (0.4 * log.steps), since)
    return since


def stutters(log: Log, r: Random) -> int | None:
    if not log.timed:
        return ABSENT
    since = log.at(r, 0.3, 0.6)
    log.slow(lambda _: r.choice((1, 4, 5)), since)
    return since


def schedule_at_double_speed(log: Log, r: Random) -> int | None:
    """A scheduler that is stepped twice per step."""
    peak = log.peak
    if peak is None:
        return ABSENT
    warm = max(1, math.ceil(log.state.get("warmup_ratio", 0) * log.steps))

    def rate(_: float, step: int) -> float:
        done = 2 * (step - 1)
        share = min(1.0, max(0.0, (done - warm) / (log.steps - warm)))
        fall = 0.5 * (1 + math.cos(math.pi * share)) if log.state["lr_scheduler_type"] == "cosine" else 1 - share
        return peak * (done / warm if done < warm else fall)

    log.rate(rate)
    return None


def schedule_stands(log: Log, r: Random) -> int | None:
    peak, since = log.peak, int(0.12 * log.steps)
    if peak is None:
        return ABSENT
    log.rate(lambda *_: peak, since)
    return since


def rate_is_zero(log: Log, r: Random) -> int | None:
    if log.peak is None:
        return ABSENT
    since = log.at(r, 0.2, 0.6)
    log.rate(lambda *_: 0.0, since)
    return since


def no_warmup(log: Log, r: Random) -> int | None:
    peak, warm = log.peak, log.state.get("warmup_ratio", 0) * log.steps
    if peak is None or warm < 8:
        return ABSENT
    log.rate(lambda x, step: peak if step < warm else x)
    return None


def overfits(log: Log, r: Random) -> int | None:
    since, more = log.at(r, 0.3, 0.55), r.uniform(0.3, 0.6)
    if len(log.evaluations) < 4:
        return ABSENT
    for entry in log.evaluations:
        entry["eval_loss"] *= 1 + more * max(0.0, (entry["step"] - since) / (log.steps - since))
    return since


def learns_by_heart(log: Log, r: Random) -> int | None:
    """Training falls on, validation stands."""
    since = int(0.2 * log.steps)
    later = [entry for entry in log.evaluations if entry["step"] >= since]
    if len(later) < 4:
        return ABSENT
    level = later[0]["eval_loss"]
    for entry in later:
        entry["eval_loss"] = level * math.exp(r.gauss(0, 0.006))
    log.lose(lambda x, step: x * max(0.3, 1 - (step - since) / log.steps), since)
    return since


def wild_evaluations(log: Log, r: Random) -> int | None:
    if len(log.evaluations) < 6:
        return ABSENT
    noise = r.uniform(0.3, 0.5)
    for entry in log.evaluations:
        entry["eval_loss"] *= math.exp(r.gauss(0, noise))
    return None


def stays_near_its_start(log: Log, r: Random) -> int | None:
    start = log.start()
    if start < 1.7:
        return ABSENT
    end, low = r.uniform(0.04, 0.12) * log.steps, r.uniform(0.86, 0.94)
    log.level_out(lambda step: start * (1 - (1 - low) * min(1.0, step / end)), lambda: 1.05)
    return None


def stays_perplexed(log: Log, r: Random) -> int | None:
    """Three epochs, and a perplexity of 6 to 8."""
    start, end = log.start(), log.training[-1]["loss"]
    if start < 1.5:
        return ABSENT
    low, top = r.uniform(1.8, 2.1), r.uniform(2.6, 3.4)
    log.lose(lambda x, _: low + (x - end) / (start - end) * (top - low), evaluations=True)
    for entry in log.entries:
        entry["epoch"] = 3 * entry["step"] / log.steps
    log.state["num_train_epochs"] = 3
    return None


def starts_perplexed(log: Log, r: Random) -> int | None:
    start = log.start()
    if start < 1.2:
        return ABSENT
    more = r.uniform(3.6, 6) / start - 1
    log.lose(lambda x, step: x * (1 + more * math.exp(-step / (0.15 * log.steps))), evaluations=True)
    return None


@dataclass(frozen=True)
class Alteration:
    """`signs`: one of them must fire; empty for what is harmless."""

    change: Callable[[Log, Random], int | None]
    signs: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.change.__name__


_HARMLESS = (
    one_spike, rare_spikes, taken_up_again, harder_data, steps_at_epochs, logged_less_often, uneven_steps,
    slow_checkpoints, slightly_slower, slow_start, busy_for_a_moment, sorted_by_length, one_odd_evaluation,
    noisy_evaluations, many_evaluations, first_loss_is_odd, noisy_batches, trained_on, bare, easier_data,
    bump_at_the_peak, restarted_schedule, starts_converged, wide_gap, low_validation,
)  # fmt: skip
_FAULTS = {
    ("loss_rising",): (slow_rise, rise_at_once, late_rise),
    ("loss_rising", "worse_than_random"): (collapse_upwards,),
    ("loss_fluctuating", "loss_rising", "loss_spike"): (spikes_that_keep_coming,),
    ("loss_fluctuating", "loss_rising"): (wild_from_the_middle,),
    ("loss_fluctuating",): (wild_throughout,),
    ("loss_collapsed",): (falls_to_zero, leaks),
    ("loss_nan",): (nan_behind_the_filter, nan_gradients, infinite_loss),
    ("throughput_drop",): (half_speed, ever_slower, stutters),
    ("lr_off_schedule",): (schedule_at_double_speed, schedule_stands, rate_is_zero, no_warmup),
    ("val_diverging", "val_gap"): (overfits, learns_by_heart),
    ("val_fluctuating",): (wild_evaluations,),
    ("early_plateau", "slow_first_epoch"): (stays_near_its_start,),
    ("high_perplexity", "early_plateau", "slow_first_epoch"): (stays_perplexed,),
    ("initial_perplexity",): (starts_perplexed,),
}
ALTERATIONS = (
    *(Alteration(change) for change in _HARMLESS),
    *(Alteration(change, signs) for signs, changes in _FAULTS.items() for change in changes),
)

"""The run state: events in, figures out."""

from __future__ import annotations

import math

import pytest

from training_exporter import events
from training_exporter.families import RUN_FAMILIES, collect
from training_exporter.state import RunState


def started(**changes: object) -> events.RunStarted:
    values = {
        "time": 1000.0,
        "run": "r",
        "max_steps": 100,
        "num_epochs": 2.0,
        "peak_learning_rate": 2e-4,
        "lr_scheduler": "linear",
        "warmup_steps": 10,
    }
    return events.RunStarted(**{**values, **changes})


def step(number: int, **changes: object) -> events.StepEnded:
    values = {"time": 1000.0 + number, "step": number, "epoch": number / 50, "tokens": 500, "duration_seconds": 0.5}
    return events.StepEnded(**{**values, **changes})


def loss(number: int, value: float, **changes: object) -> events.LossLogged:
    return events.LossLogged(time=1000.0 + number, step=number, loss=value, **changes)


def applied(*what: events.Event) -> RunState:
    state = RunState()
    for event in what:
        state.apply(event)
    return state


def samples(state: RunState) -> dict[str, float]:
    return {
        sample.name + "".join(f"|{v}" for k, v in sorted(sample.labels.items()) if k != "run"): sample.value
        for metric in collect(RUN_FAMILIES, state, {"run": "r"})
        for sample in metric.samples
    }


def test_nothing_is_said_before_anything_is_known() -> None:
    assert samples(RunState()) == {}
    known = samples(applied(started()))
    assert not [
        name
        for name in known
        if name.startswith(("llm_training_loss", "llm_training_perplexity", "llm_training_learn"))
    ]
    assert known["llm_training_nonfinite_total|loss"] == 0, "a counter's first increase is only seen from 0"


def test_progress_time_left_and_speed() -> None:
    state = applied(started(), *(step(n) for n in range(1, 26)))
    figures = samples(state)
    assert figures["llm_training_steps_total"] == 25
    assert figures["llm_training_progress_ratio"] == 0.25
    assert figures["llm_training_remaining_seconds"] == pytest.approx(75)  # one second a step on the clock
    assert figures["llm_training_tokens_total"] == 25 * 500
    assert figures["llm_training_tokens_per_second"] == pytest.approx(1000)  # 500 tokens per 0.5 s of step time
    assert figures["llm_training_state|training"] == 1
    assert sum(v for k, v in figures.items() if k.startswith("llm_training_state")) == 1


def test_tokens_that_come_with_the_loss_count_the_same() -> None:
    events_ = [started()]
    for n in range(1, 26):
        events_ += [step(n, tokens=None), loss(n, 2.0, tokens=500)]
    figures = samples(applied(*events_))
    assert figures["llm_training_tokens_total"] == 25 * 500
    assert figures["llm_training_tokens_per_second"] == pytest.approx(1000)


def test_speed_follows_the_last_steps_only() -> None:
    fast = [step(n) for n in range(1, 50)]
    slow = [step(n, duration_seconds=5.0) for n in range(50, 71)]
    assert samples(applied(started(), *fast, *slow))["llm_training_tokens_per_second"] == pytest.approx(100)


def test_losses_perplexity_and_their_exact_sum() -> None:
    state = applied(started(), loss(1, 2.0), loss(2, 1.0), events.Evaluated(time=1003.0, step=2, loss=1.5))
    figures = samples(state)
    assert figures["llm_training_loss"] == 1.0
    assert figures["llm_training_perplexity"] == pytest.approx(math.e)
    assert figures["llm_training_observed_loss_sum"] == 3.0
    assert figures["llm_training_observed_loss_count"] == 2
    assert figures["llm_training_validation_perplexity"] == pytest.approx(math.exp(1.5))


def test_nan_is_seen_and_does_not_poison_the_sums() -> None:
    state = applied(
        started(),
        loss(1, 2.0),
        loss(2, math.nan),
        loss(3, 2.0, gradient_norm=math.inf),
        events.Evaluated(time=1003.0, step=3, loss=math.nan),
    )
    figures = samples(state)
    assert {k.split("|")[1]: v for k, v in figures.items() if "nonfinite" in k} == {
        "loss": 1,
        "gradient": 1,
        "validation": 1,
    }
    assert figures["llm_training_observed_loss_sum"] == 4.0
    assert math.isfinite(figures["llm_training_loss"])
    assert math.isnan(samples(applied(started(), loss(1, math.nan)))["llm_training_loss"])


def test_a_diverged_loss_stays_a_number() -> None:
    assert math.isfinite(samples(applied(started(), loss(1, 1e6)))["llm_training_perplexity"])


@pytest.mark.parametrize("name", ["linear", "cosine", "constant", "constant_with_warmup"])
def test_expected_learning_rate_is_transformers_own(name: str) -> None:
    """Beside the real scheduler, on every step."""
    import torch
    from transformers import get_scheduler

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2e-4)
    scheduler = get_scheduler(name, optimizer, num_warmup_steps=10, num_training_steps=100)
    state = applied(started(lr_scheduler=name))
    for n in range(1, 101):
        rate = optimizer.param_groups[0]["lr"]
        state.apply(step(n, learning_rate=rate))
        assert state.learning_rate == rate
        assert state.expected_learning_rate == pytest.approx(rate, abs=1e-12)
        optimizer.step()
        scheduler.step()


def test_an_unknown_schedule_expects_nothing() -> None:
    assert applied(started(lr_scheduler="greedy"), step(1, learning_rate=1e-4)).expected_learning_rate is None


def test_the_end_is_final_until_the_run_starts_again() -> None:
    ended = applied(started(), step(1), events.RunEnded(time=1002.0, state="failed", reason="RuntimeError: boom"))
    ended.apply(events.PhaseChanged(time=1003.0, state="saving"))
    assert (ended.state, ended.end_reason, ended.end_time) == ("failed", "RuntimeError: boom", 1002.0)
    assert samples(ended)["llm_training_remaining_seconds"] == 0
    ended.apply(started(time=2000.0, step=1))
    assert (ended.state, ended.end_time, ended.start_time) == ("starting", None, 1000.0)


def test_memory_does_not_grow_with_the_run() -> None:
    import pickle

    def size(steps: int) -> int:
        state = applied(started(max_steps=steps))
        for n in range(1, steps + 1):
            state.apply(step(n))
            state.apply(loss(n, 2.0))
        return len(pickle.dumps({k: v for k, v in vars(state).items() if k != "_started"}))

    assert size(20_000) < size(1_000) * 1.2

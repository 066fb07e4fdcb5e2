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
    assert {k.split("|")[1]: v for k, v in figures.items() if "nonfinite_total" in k} == {
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

    def size(steps: int, planned: int) -> int:
        state = applied(started(max_steps=planned))
        for n in range(1, steps + 1):
            state.apply(step(n, data_wait_seconds=0.1))
            state.apply(loss(n, 2.0 + n / 1e6, learning_rate=1e-4))  # rising: the worst case of a sliding least value
            if n % 50 == 0:
                state.apply(events.Evaluated(time=1000.0 + n, step=n, loss=2.0))
        return len(pickle.dumps({k: v for k, v in vars(state).items() if k not in {"_started", "profile"}}))

    assert size(20_000, 20_000) < size(2_000, 20_000) * 1.2
    assert size(20_000, 10**9) < 3 * size(2_000, 2_000), "nor with what is planned: windows end somewhere"


# -- the learning rate beside its schedule ----------------------------------------------------------------------------


def scheduled(name: str, number: int, skipped: int = 0) -> float:
    from training_exporter.schedule import schedule_multiplier

    share = schedule_multiplier(name, max(0, number - skipped), 100, 10)
    assert share is not None
    return 2e-4 * share


@pytest.mark.parametrize("name", ["linear", "cosine", "constant", "constant_with_warmup"])
@pytest.mark.parametrize("logged", ["of the step", "of the next step", "rounded"])
def test_a_rate_that_follows_is_on_schedule(name: str, logged: str) -> None:
    state = applied(started(lr_scheduler=name))
    for n in range(1, 101):
        rate = scheduled(name, n - (logged == "of the step"))
        state.apply(loss(n, 2.0, learning_rate=round(rate, 6) if logged == "rounded" else rate))
        assert state.learning_rate_deviation_ratio in ((None, 0) if n < 3 else (0,))


def test_steps_that_a_loss_scaler_skipped_are_no_deviation() -> None:
    state = applied(started())
    for n in range(1, 101):
        overflow = n <= 3 or n == 50
        skipped = min(n, 3) + (n >= 50)
        state.apply(
            loss(n, 2.0, learning_rate=scheduled("linear", n, skipped), gradient_norm=math.inf if overflow else 1.0)
        )
        assert not state.learning_rate_deviation_ratio, n


def test_a_scheduler_that_stops_in_warm_up_shows_within_three_steps_and_little() -> None:
    state = applied(started(max_steps=1000, warmup_steps=100))
    seen = None
    for n in range(1, 200):
        state.apply(loss(n, 2.0, learning_rate=2e-4 * min(n, 50) / 100))
        if seen is None and (state.learning_rate_deviation_ratio or 0) > 0.05:
            seen = n
    assert seen is not None
    assert 50 < seen <= 62


def test_a_rate_that_jumps_for_one_step_is_no_deviation() -> None:
    state = applied(started(lr_scheduler="constant"))
    for n in range(1, 50):
        state.apply(loss(n, 2.0, learning_rate=1e-3 if n == 20 else 2e-4))
        assert not state.learning_rate_deviation_ratio


@pytest.mark.parametrize(
    "changes", [{"lr_scheduler": "cosine_with_restarts"}, {"lr_scheduler": None}, {"peak_learning_rate": None}]
)
def test_without_a_known_schedule_there_is_no_deviation(changes: dict[str, object]) -> None:
    state = applied(started(**changes), *(loss(n, 2.0, learning_rate=1.0) for n in range(1, 20)))
    assert state.learning_rate_deviation_ratio is None


# -- what is not finite -----------------------------------------------------------------------------------------------


def test_a_zero_loss_beside_a_nan_gradient_is_the_filters_nan() -> None:
    state = applied(started(), loss(1, 2.0, gradient_norm=1.0), loss(2, 0.0, gradient_norm=math.nan))
    assert state.nonfinite == {"loss": 1, "gradient": 1, "validation": 0}
    assert state.loss is not None
    assert math.isnan(state.loss)
    assert state.observed_loss_count == 1
    honest = applied(started(), loss(1, 0.0, gradient_norm=0.0))
    assert honest.nonfinite["loss"] == 0


def test_gradients_that_are_never_finite_are_counted_in_steps() -> None:
    state = applied(started())
    seen = []
    for n, norm in ((10, math.inf), (20, 1.0), (30, math.nan), (40, math.nan), (50, math.inf), (60, 1.0)):
        state.apply(loss(n, 2.0, steps=10, gradient_norm=norm))
        seen.append(state.nonfinite_gradient_steps)
    assert seen == [0, 0, 0, 10, 20, 0]


# -- where the time of a step goes ------------------------------------------------------------------------------------


def test_the_parts_of_a_step_are_told_with_it_or_by_the_device_later() -> None:
    state = applied(started(), step(1))
    assert (state.forward_backward_seconds, state.optimizer_seconds) == (None, None)
    parts = {"forward_backward_seconds": 0.5, "optimizer_seconds": 0.25}
    for event in (step(2, **parts), step(3), loss(3, 2.0, **parts)):
        state.apply(event)
    assert (state.forward_backward_seconds, state.optimizer_seconds) == (1.0, 0.5)


# -- signs of progress -----------------------------------------------------------------------------------------------


def phase(time: float, state: str) -> events.PhaseChanged:
    return events.PhaseChanged(time=time, state=state)


def test_pauses_are_told_once_the_phase_is_over() -> None:
    state = applied(started(), step(10), phase(1011.0, "evaluating"), events.Progressed(time=1041.0))
    assert (state.last_progress_time, state.longest_pauses) == (1041.0, {})
    for event in (events.Evaluated(time=1061.0, step=10, loss=2.0), phase(1061.0, "training")):
        state.apply(event)
    assert (state.last_progress_time, state.longest_pauses) == (1061.0, {"evaluating": 30.0})
    for event in (phase(1062.0, "saving"), saved(1070.0), phase(1071.0, "evaluating"), step(11, time=1131.0)):
        state.apply(event)
    assert state.longest_pauses == {"evaluating": 60.0, "saving": 8.0}, "a step ends a phase that nobody ended"
    assert state.state == "training"


def test_another_process_has_its_own_pauses() -> None:
    state = applied(started(), step(1), phase(1001.0, "saving"), saved(1500.0), phase(1500.0, "training"))
    assert state.longest_pauses == {"saving": 499.0}
    state.apply(started(time=9000.0, step=1))
    assert (state.last_progress_time, state.longest_pauses) == (9000.0, {})


# -- checkpoints ------------------------------------------------------------------------------------------------------


def saved(time: float) -> events.CheckpointSaved:
    return events.CheckpointSaved(time=time, step=1)


def test_unsaved_time_counts_from_the_last_checkpoint_or_the_start_of_the_process() -> None:
    state = applied(started(), step(10, data_wait_seconds=0.1))
    assert state.unsaved_seconds == 10
    for event in (saved(1020.0), step(30), saved(1050.0), step(70)):
        state.apply(event)
    assert state.unsaved_seconds == 20
    assert state.checkpoint_interval == 30
    state.apply(started(time=5000.0, step=50))
    state.apply(step(60, time=5005.0))
    assert state.unsaved_seconds == 5, "what the process before left unsaved is lost already"


def test_a_log_of_losses_says_nothing_of_checkpoints() -> None:
    assert applied(started(), step(10), loss(10, 2.0)).unsaved_seconds is None


# -- signals that need more than the loss -----------------------------------------------------------------------------


def test_a_run_that_is_taken_up_in_its_middle_has_no_start() -> None:
    state = applied(started(step=50), *(loss(n, 0.8) for n in range(51, 90)))
    assert state.signals is not None
    assert state.signals.initial is None
    assert "llm_training_loss_initial" not in samples(state)


def test_the_speed_of_another_process_is_not_this_ones() -> None:
    state = applied(started(), *(step(n) for n in range(1, 60)))
    assert state.pace_signals.ratio == pytest.approx(1)
    state.apply(started(time=3000.0, step=59))
    assert state.pace_signals.ratio is None


def test_tokens_that_come_late_meet_the_duration_of_their_step() -> None:
    state = applied(started())
    for n in range(1, 100):
        # The device counts; the duration of the next step is known before the tokens of this one.
        state.apply(step(n, tokens=None, duration_seconds=1.0 if n < 80 else 4.0))
        if n > 1:
            state.apply(loss(n - 1, 2.0, tokens=1000))
    assert state.pace_signals.ratio == pytest.approx(0.25, abs=0.1)


def test_validation_is_compared_with_the_smoothed_training_loss() -> None:
    state = applied(started(), *(loss(n, 1.0) for n in range(1, 20)))
    for n, value in enumerate((1.2, 1.5, 1.5), 20):
        state.apply(events.Evaluated(time=1000.0 + n, step=n, loss=value))
    figures = samples(state)
    assert figures["llm_training_validation_gap_ratio"] == pytest.approx(0.5)
    assert figures["llm_training_validation_divergence_ratio"] == pytest.approx(0.25)
    assert figures["llm_training_best_validation_loss"] == 1.2


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, None),
        ({"world_size": "4"}, None),
        ({"gpu": "NVIDIA A100", "world_size": "4"}, 4),
        ({"gpu": "NVIDIA A100", "world_size": "many"}, 1),
        ({"gpu": "NVIDIA A100"}, 1),
    ],
)
def test_gpus_of_the_job(settings: dict[str, str], expected: int | None) -> None:
    assert samples(applied(started(settings=settings))).get("llm_training_gpus") == expected


def test_chance_is_the_logarithm_of_the_vocabulary() -> None:
    assert samples(applied(started(vocabulary_size=32_000)))["llm_training_random_loss"] == pytest.approx(10.3735, 1e-4)
    assert "llm_training_random_loss" not in samples(applied(started()))

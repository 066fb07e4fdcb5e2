"""The profile: the guide's numbers, checked files, and what the families make of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from training_exporter import events, profile
from training_exporter.families import RUN_FAMILIES, collect
from training_exporter.profile import Band, ProfileError
from training_exporter.state import RunState


def write(folder: Path, text: str) -> Path:
    file = folder / "profile.yaml"
    file.write_text(text, encoding="utf-8")
    return file


def samples(state: RunState) -> dict[str, float]:
    return {
        sample.name.removeprefix("llm_training_expected_")
        + "".join(f"|{v}" for k, v in sample.labels.items() if k != "run"): sample.value
        for metric in collect(RUN_FAMILIES, state, {"run": "r"})
        for sample in metric.samples
        if sample.name.startswith("llm_training_expected_")
    }


def running(expectations: profile.Profile | None = None, epoch: float = 0.0, **settings: str) -> RunState:
    state = RunState(expectations)
    state.apply(events.RunStarted(time=0.0, run="r", max_steps=100, num_epochs=3.0, settings=settings))
    state.apply(events.StepEnded(time=1.0, step=1, epoch=epoch))
    return state


def test_the_shipped_profile_has_the_guides_numbers() -> None:
    shipped = profile.load()
    assert shipped.loss.at(0) == Band(1.5, 2.5)
    assert shipped.loss.at(3) == Band(0.5, 0.9)
    # 30-40 % down after one epoch: from the lower bound by 40, from the upper by 30.
    assert shipped.loss.at(1) == Band(pytest.approx(1.5 * 0.6), pytest.approx(2.5 * 0.7))
    assert shipped.first_epoch_improvement == Band(0.3, 0.4)
    assert shipped.validation_gap == Band(0.05, 0.15)
    assert shipped.perplexity.at(0) == Band(7, 12)
    assert shipped.perplexity.at(3) == Band(1.5, 3)
    assert (shipped.initial_perplexity_limit, shipped.late_perplexity_limit) == (20, 5)
    assert shipped.warmup.upper == 0.1
    assert shipped.gpu_memory.upper == 0.9
    assert shipped.speed_of("NVIDIA A100-SXM4-80GB") == ("A100", Band(1500, 2000))
    assert shipped.speed_of("NVIDIA GeForce RTX 2080 Ti") == ("RTX 2080 Ti", Band(400, 800))
    assert shipped.speed_of("NVIDIA H200") is None


def test_a_curve_is_straight_between_its_points_and_stays_beyond_them() -> None:
    loss = profile.load().loss
    assert loss.at(0.5) == Band(pytest.approx(1.2), pytest.approx(2.125))
    assert loss.at(2) == Band(pytest.approx(0.7), pytest.approx(1.325))
    assert loss.at(-1) == loss.at(0)
    assert loss.at(100) == loss.at(3) == loss.last


def test_a_file_overrides_what_it_names(tmp_path: Path) -> None:
    own = profile.load(write(tmp_path, "loss:\n  0: [3, 4]\n  2.5: [1, 2]\ntokens_per_second:\n  H200: [4000, 6000]\n"))
    assert own.loss.at(0) == Band(3, 4)
    assert own.loss.last == Band(1, 2)
    assert own.perplexity == profile.load().perplexity
    assert own.speed_of("NVIDIA H200") == ("H200", Band(4000, 6000))
    assert own.speed_of("Tesla V100-SXM2") == ("V100", Band(1000, 1500))
    assert profile.load(write(tmp_path, "")) == profile.load()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("lost: [1, 2]", "key 'lost': not known, allowed: loss, validation_loss,"),
        ("[1, 2]", "found [1, 2], allowed: a mapping with keys of loss,"),
        ("loss: 2", "key 'loss': found 2, allowed: a mapping of epochs to [lower, upper]"),
        ("loss: {}", "key 'loss': found {}, allowed: a mapping of epochs"),
        ("loss: {one: [1, 2]}", "key 'loss: epoch': found 'one', allowed: a number from 0"),
        ("loss: {1: [2, 1]}", "key 'loss.1': found [2, 1], allowed: [lower, upper] with lower <= upper"),
        ("loss: {1: [2]}", "key 'loss.1': found [2], allowed: [lower, upper]"),
        ("loss: {1: [.nan, 2]}", "key 'loss.1': found nan, allowed: a number from 0"),
        ("loss_floor: -1", "key 'loss_floor': found -1, allowed: a number from 0"),
        ("loss_floor: yes", "key 'loss_floor': found True, allowed: a number"),
        ("loss_floor:", "key 'loss_floor': found nothing, allowed: a number"),
        ("gpu_memory: [0, 90]", "key 'gpu_memory': found 90, allowed: a number from 0 to 1"),
        ("tokens_per_second: [1, 2]", "key 'tokens_per_second': found [1, 2], allowed: a mapping of GPU names"),
        ("tokens_per_second: {A100: fast}", "key 'tokens_per_second.A100': found 'fast', allowed: [lower, upper]"),
        (
            "text_quality: good",
            "key 'text_quality': found 'good', allowed: a mapping with keys of early, middle, final",
        ),
        ("text_quality: {late: {}}", "key 'text_quality.late': not known, allowed: early, middle, final"),
        ("text_quality: {final: 1}", "key 'text_quality.final': found 1, allowed: a mapping of criteria to scores"),
        (
            "text_quality: {final: {style: 1}}",
            "key 'text_quality.final.style': not known, allowed: variety, coherence,",
        ),
        ("text_quality: {final: {action: 2}}", "'text_quality.final.action': found 2, allowed: a number from 0 to 1"),
        ("loss:\n  0: [1, 2\nwarmup: 1", "line 3: not YAML:"),
        ("a: &a [*a]", "not YAML"),
    ],
)
def test_a_wrong_file_is_one_clear_line(tmp_path: Path, text: str, said: str) -> None:
    file = write(tmp_path, text)
    with pytest.raises(ProfileError) as error:
        profile.load(file)
    message = str(error.value)
    assert message.startswith(f"{file}: ")
    if "&a" not in text:
        assert said in message
    assert "\n" not in message


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ProfileError, match=r"missing\.yaml: cannot be read: No such file"):
        profile.load(tmp_path / "missing.yaml")
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe\x00loss")
    with pytest.raises(ProfileError, match="not UTF-8"):
        profile.load(binary)


def test_expectations_follow_the_epochs() -> None:
    start, later, end = (samples(running(epoch=epoch)) for epoch in (0.0, 1.0, 3.0))
    assert (start["loss|lower"], start["loss|upper"]) == (1.5, 2.5)
    assert (later["loss|lower"], later["loss|upper"]) == (0.9, 1.75)
    assert (end["loss|lower"], end["loss|upper"]) == (0.5, 0.9)
    assert start["final_loss|upper"] == 0.9
    assert start["validation_gap_ratio|upper"] == 0.15
    assert start["initial_perplexity|upper"] == 20
    assert "improvement_ratio|lower" not in start, "known after the first epoch"
    assert later["improvement_ratio|lower"] == 0.3
    assert "late_perplexity|upper" not in later, "known after several epochs"
    assert end["late_perplexity|upper"] == 5


def test_without_epochs_the_steps_tell_how_many_are_done() -> None:
    state = RunState()
    state.apply(events.RunStarted(time=0.0, run="r", max_steps=100, num_epochs=3.0))
    state.apply(events.StepEnded(time=1.0, step=100))
    assert samples(state)["loss|upper"] == 0.9
    unknown = RunState()
    unknown.apply(events.RunStarted(time=0.0, run="r"))
    unknown.apply(events.StepEnded(time=1.0, step=100))
    assert "loss|upper" not in samples(unknown)


def test_speed_to_expect_is_that_of_the_whole_job() -> None:
    assert not [name for name in samples(running()) if name.startswith("tokens_per_second")]
    one = samples(running(gpu="NVIDIA A100-SXM4-80GB"))
    assert (one["tokens_per_second|lower|A100"], one["tokens_per_second|upper|A100"]) == (1500, 2000)
    assert samples(running(gpu="NVIDIA A100-SXM4-80GB", world_size="4"))["tokens_per_second|lower|A100"] == 6000
    assert samples(running(gpu="NVIDIA A100-SXM4-80GB", world_size="many"))["tokens_per_second|lower|A100"] == 1500


def test_a_run_has_its_own_profile(tmp_path: Path) -> None:
    own = profile.load(write(tmp_path, "loss: {0: [4, 5]}\n"))
    assert samples(running(own))["loss|upper"] == 5
    assert samples(running())["loss|upper"] == 2.5


def test_text_expectations_are_those_of_the_stages_that_were_scored(tmp_path: Path) -> None:
    state = running(profile.load(write(tmp_path, "text_quality: {final: {balance: 0.9}}")))
    assert not [name for name in samples(state) if name.startswith("text_quality")]
    state.apply(events.TextScored(time=2.0, step=20, stage="early", scores={"coherence": 0.4}))
    found = samples(state)
    assert found["text_quality_ratio|coherence|early|lower"] == profile.load().text_quality["early"]["coherence"]
    assert not [name for name in found if "|final" in name]
    state.apply(events.TextScored(time=3.0, step=100, stage="final", scores={"coherence": 0.8}))
    assert samples(state)["text_quality_ratio|balance|final|lower"] == 0.9
    assert samples(state)["text_quality_ratio|action|final|lower"] == profile.load().text_quality["final"]["action"]


def test_the_shipped_profile_expects_more_of_each_later_stage() -> None:
    scores = profile.load().text_quality
    assert list(scores) == list(events.TEXT_STAGES)
    assert len({tuple(stage) for stage in scores.values()}) == 1
    for criterion in scores["final"]:
        assert scores["early"][criterion] <= scores["middle"][criterion] <= scores["final"][criterion]

"""Texts during a real training: nothing of it is disturbed, a failure is survived, and everything is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from trading_llm import cli
from trading_llm.data import IGNORED, Completions
from trading_llm.dataset import simulated_dataset, write_dataset
from trading_llm.model import load_base
from trading_llm.quality import stages
from trading_llm.quality.generation import generate, pick_prompts, undisturbed
from trading_llm.quality.scoring import CRITERIA, mean_scores, score, stated_action

Loaded = tuple[PreTrainedModel, PreTrainedTokenizerBase]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data"), *simulated_dataset(24, 8))[0]


@pytest.fixture(scope="module")
def loaded() -> Loaded:
    # More threads only wait for each other where other processes are at work.
    torch.set_num_threads(1)
    return load_base("embedded", "none")


def train(data: Path, output: Path, *more: str) -> int:
    fixed = {
        "train-data": data, "output-dir": output, "batch-size": 4, "threads": 1, "metrics-port": 0,
        "logging-steps": 6, "eval-steps": 6, "save-steps": 6, "num-epochs": 1, "quality-prompts": 2,
    }  # fmt: skip
    return cli.main(["train", *(text for key, value in fixed.items() for text in (f"--{key}", str(value))), *more])


def journal(output: Path, event: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (output / "journal.jsonl").read_text().splitlines()]
    return [line for line in lines if line["event"] == event]


def losses(output: Path) -> list[float]:
    return [line["loss"] for line in journal(output, "loss_logged")]


@pytest.fixture(scope="module")
def assessed(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("assessed")
    assert train(data, output) == 0
    return output


def test_every_stage_is_scored_at_its_step(assessed: Path) -> None:
    scored = journal(assessed, "text_scored")
    assert [(event["stage"], event["step"], event["texts"]) for event in scored] == [
        ("early", 1, 2), ("middle", 3, 2), ("final", 6, 2),
    ]  # fmt: skip
    for event in scored:
        assert list(event["scores"]) == list(CRITERIA)
        assert all(sample["prompt"].endswith("explanation:") for sample in event["samples"])
    assert journal(assessed, "run_ended")[0]["time"] >= scored[-1]["time"]


def test_its_time_is_evaluation_and_in_no_step(assessed: Path) -> None:
    lines = [json.loads(line) for line in (assessed / "journal.jsonl").read_text().splitlines()]
    steps = 0
    for before, line, after in zip(lines, lines[1:], lines[2:], strict=False):
        steps += line["event"] == "step_ended"
        if line["event"] == "text_scored":
            assert steps == line["step"], "the step is told before its texts are written"
            # A state that is told at once, and again when the texts are there.
            states = [one["state"] for one in lines[lines.index(line) - 2 : lines.index(line)] if "state" in one]
            assert states == ["evaluating", "training"], (before, after)


def test_files_and_tensorboard(assessed: Path) -> None:
    files = sorted(path.name for path in (assessed / "samples").iterdir())
    assert files == ["early.jsonl", "final.jsonl", "middle.jsonl"]
    records = [json.loads(line) for line in (assessed / "samples" / "final.jsonl").read_text().splitlines()]
    assert len(records) == 2
    for record in records:
        assert record["scores"] == score(record["prompt"], record["text"], stated_action(record["reference"]))
    told = journal(assessed, "text_scored")[-1]["scores"]
    assert told == mean_scores(record["scores"] for record in records)

    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(assessed / "runs"))
    board.Reload()
    assert {f"text_quality/{criterion}" for criterion in CRITERIA} <= set(board.Tags()["scalars"])
    assert [point.step for point in board.Scalars("text_quality/variety")] == [1, 3, 6]
    assert {"samples/1/text_summary", "samples/2/text_summary"} <= set(board.Tags()["tensors"])


def test_a_training_is_the_same_with_and_without(data: Path, assessed: Path, tmp_path: Path) -> None:
    assert train(data, tmp_path, "--quality-prompts", "0") == 0
    assert losses(tmp_path) == losses(assessed)
    assert journal(tmp_path, "text_scored") == []
    assert not (tmp_path / "samples").exists()


@pytest.mark.parametrize("how", ["generation", "disk"])
def test_a_failure_is_survived_and_counted(
    data: Path,
    assessed: Path,
    tmp_path: Path,
    how: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    counted: list[dict[str, int]] = []
    if how == "generation":

        def fail(model: PreTrainedModel, *rest: object) -> list[str]:
            with undisturbed(model):
                raise torch.OutOfMemoryError("no memory left")

        monkeypatch.setattr(stages, "generate", fail)
    else:
        (tmp_path / "samples").write_text("a file where the directory should be")
    monitor = stages.TextAssessment._assess

    def watched(self: stages.TextAssessment, *arguments: Any) -> None:
        monitor(self, *arguments)
        counted.append(dict(self._watch.monitor.errors))

    monkeypatch.setattr(stages.TextAssessment, "_assess", watched)
    assert train(data, tmp_path) == 0
    assert losses(tmp_path) == losses(assessed)
    assert counted[-1] == {"text_quality": 3}
    assert len(journal(tmp_path, "text_scored")) == (0 if how == "generation" else 3)
    assert journal(tmp_path, "run_ended")[0]["state"] == "completed"
    assert "text_quality failed; the training goes on" in caplog.text


def test_without_validation_data_it_says_why(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    alone = tmp_path / "few.json"
    alone.write_text(json.dumps(json.loads(data.read_text())[:8]))
    assert train(alone, tmp_path / "out", "--num-epochs", "0.5") == 0
    assert "Text quality is not assessed: it needs validation data" in capsys.readouterr().out


def test_a_resumed_part_is_not_assessed_again() -> None:
    class State:
        max_steps, global_step = 100, 30

    assessment = stages.TextAssessment(None, None, [], None)  # type: ignore[arg-type]
    assessment.on_train_begin(None, State, None)
    assert assessment._due == {"middle": 50}


# -- generation -------------------------------------------------------------------------------------------------------


def items(tokenizer: PreTrainedTokenizerBase) -> list[Any]:
    return Completions(simulated_dataset(1, 12)[1], tokenizer, 512, "test").items


def test_prompts_are_fixed_and_spread(loaded: Loaded) -> None:
    _, tokenizer = loaded
    found = items(tokenizer)
    prompts = pick_prompts(found, tokenizer, 4)
    assert prompts == pick_prompts(found, tokenizer, 4)
    assert [found.index(next(i for i in found if tuple(i["input_ids"][: len(p.ids)]) == p.ids)) for p in prompts] == [
        0, 4, 7, 11,
    ]  # fmt: skip
    for prompt in prompts:
        assert prompt.text.startswith("symbol: ")
        assert prompt.text.endswith("explanation:")
        assert stated_action(prompt.reference) in {"BUY", "SELL", "HOLD"}
    assert len(pick_prompts(found, tokenizer, 100)) == 12
    assert pick_prompts([], tokenizer, 4) == []


def test_of_a_conversation_it_is_the_last_answer(loaded: Loaded) -> None:
    _, tokenizer = loaded
    ids = tokenizer("one two three four", add_special_tokens=False)["input_ids"]
    labels = [IGNORED, ids[1], *[IGNORED] * (len(ids) - 4), *ids[-2:]]
    (prompt,) = pick_prompts([{"input_ids": ids, "labels": labels}], tokenizer, 1)
    assert list(prompt.ids) == ids[:-2]
    assert prompt.reference == tokenizer.decode(ids[-2:])


def test_a_batch_gives_what_each_prompt_gives_alone(loaded: Loaded) -> None:
    model, tokenizer = loaded
    prompts = list(pick_prompts(items(tokenizer), tokenizer, 3))
    assert len({len(prompt.ids) for prompt in prompts}) > 1, "padding is needed"
    together = generate(model, tokenizer, prompts, temperature=0)
    longest = max(prompts, key=lambda prompt: prompt.reference_tokens)
    for prompt, text in zip(prompts, together, strict=True):
        assert text.startswith(generate(model, tokenizer, [prompt], temperature=0)[0][:80]) or prompt is longest


@pytest.mark.parametrize("checkpointing", [False, True])
def test_nothing_of_the_model_is_changed(loaded: Loaded, checkpointing: bool) -> None:
    _, tokenizer = loaded
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64,
        num_hidden_layers=2, num_attention_heads=2, attention_dropout=0.5, use_cache=False))  # fmt: skip
    if checkpointing:
        model.gradient_checkpointing_enable()
    model.train()
    model.model.layers[0].eval()
    modes = [module.training for module in model.modules()]
    random = torch.get_rng_state()
    prompts = pick_prompts(items(tokenizer), tokenizer, 2)
    assert generate(model, tokenizer, prompts) == generate(model, tokenizer, prompts)
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), random)
    assert model.config.use_cache is False
    assert model.is_gradient_checkpointing is checkpointing
    assert all(parameter.grad is None for parameter in model.parameters())


# -- the control ------------------------------------------------------------------------------------------------------


def test_an_untrained_model_scores_low(loaded: Loaded) -> None:
    """Random weights, and the base model before any fine-tuning: what the scores of a trained one rise from."""
    base, tokenizer = loaded
    torch.manual_seed(0)
    prompts = pick_prompts(items(tokenizer), tokenizer, 4)

    def scores(model: PreTrainedModel) -> dict[str, float]:
        texts = generate(model, tokenizer, prompts)
        return mean_scores(
            score(prompt.text, text, stated_action(prompt.reference))
            for prompt, text in zip(prompts, texts, strict=True)
        )

    nothing = scores(LlamaForCausalLM(base.config))
    # Names of indicators are single tokens: random ones are references by chance, but no figure is the prompt's.
    for criterion, most in {"coherence": 0.25, "readings": 0.3, "grounding": 0.2, "references": 0.5}.items():
        assert nothing[criterion] < most, nothing
    before = scores(base)
    for criterion in ("action", "readings", "structure"):
        assert before[criterion] < 0.6, before

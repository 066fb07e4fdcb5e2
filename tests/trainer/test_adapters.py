"""What a training leaves, used: the model card, `trading-llm infer`, `trading-llm merge`."""

import io
import json
import sys
from pathlib import Path

import pytest
import torch
from trainer_runs import options

from trading_llm import cli
from trading_llm.adapters import load_adapter
from trading_llm.dataset import prompt_and_completion
from trading_llm.examples import Record, read_examples
from trading_llm.model import load_base


@pytest.fixture(scope="module")
def adapter(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("adapter") / "out"
    assert cli.main(options(data, output, "--run-name", "probe", "--learning-rate", "2e-3")) == 0
    return output


def test_the_card_states_data_settings_and_results(adapter: Path, data: Path) -> None:
    card = (adapter / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: peft\n")
    assert "# probe" in card
    assert f"Training: `{data}`: 64 records" in card
    assert "16 records" in card
    assert "| Learning rate | 0.002 |" in card
    assert "| Steps | 16 of 16 |" in card
    state = json.loads((adapter / "checkpoint-16" / "trainer_state.json").read_text())
    assert f"best validation loss {state['best_metric']:.4f}" in card


def test_infer_writes_what_the_model_says_to_a_prompt(
    adapter: Path, data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    [first, *_] = read_examples(data)
    assert isinstance(first, Record)
    prompt = prompt_and_completion(first)[0]
    fixed = ["infer", "--adapter", str(adapter), "--max-new-tokens", "20"]

    def said(*more: str) -> str:
        assert cli.main([*fixed, *more]) == 0
        return capsys.readouterr().out

    answer = said("--prompt", prompt)
    assert answer.strip()
    assert said("--prompt", prompt) == answer
    monkeypatch.setattr(sys, "stdin", io.StringIO(prompt))
    assert said() == answer
    of_file = said("--data", str(data), "--limit", "2")
    assert of_file.startswith(f"<s>{prompt}\n{answer}")
    assert of_file.count("\nexplanation:") == 2
    assert said("--prompt", prompt, "--temperature", "1.5", "--seed", "3") != answer


def test_a_merged_model_is_the_adapter_on_its_base(adapter: Path, tmp_path: Path) -> None:
    assert cli.main(["merge", "--adapter", str(adapter), "--output-dir", str(tmp_path / "merged")]) == 0
    assert list((tmp_path / "merged").glob("*.safetensors"))
    assert not list((tmp_path / "merged").glob("*.bin"))
    merged, tokenizer = load_base(str(tmp_path / "merged"), "none")
    adapted, _ = load_adapter(adapter, None)
    plain, _ = load_base("embedded", "none")
    ids = tokenizer("symbol: KORA\nrsi_14: 71.3\naction:", return_tensors="pt")
    with torch.no_grad():
        logits = merged(**ids).logits
        torch.testing.assert_close(logits, adapted(**ids).logits, rtol=1e-3, atol=1e-3)
        assert (logits - plain(**ids).logits).abs().max() > 0.1


@pytest.mark.parametrize("kind", ["infer", "merge"])
def test_a_directory_without_an_adapter_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    more = ["--prompt", "x"] if kind == "infer" else ["--output-dir", str(tmp_path / "m")]
    assert cli.main([kind, "--adapter", str(tmp_path / "none"), *more]) == 2
    errors = capsys.readouterr().err
    assert "--adapter: found" in errors
    assert "allowed: a directory with adapter_config.json and adapter_model.safetensors" in errors
    assert len(errors.splitlines()) == 1


def test_weights_as_pickles_are_not_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "embedded"}')
    torch.save({}, tmp_path / "adapter_model.bin")
    assert cli.main(["infer", "--adapter", str(tmp_path), "--prompt", "x"]) == 2
    assert "no adapter_model.safetensors" in capsys.readouterr().err

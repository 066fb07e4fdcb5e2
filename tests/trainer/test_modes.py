"""Settings that change how fast or in how much memory a training runs, and not what it learns."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from trainer_runs import Run, journal, options

from trading_llm import cli
from trading_llm.settings import TrainSettings
from trading_llm.training import prepare

FIXED = ("--lora-dropout", "0", "--num-epochs", "0.4")


def losses(output: Path) -> list[float]:
    return [line["loss"] for line in journal(output, "loss_logged")]


@pytest.fixture(scope="module")
def usual(data: Path, tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    output = tmp_path_factory.mktemp("usual")
    assert cli.main(options(data, output, *FIXED)) == 0
    return losses(output)


@pytest.mark.parametrize(
    ("more", "tolerance"),
    [
        (["--no-padding-free"], 1e-4),
        (["--gradient-checkpointing"], 1e-5),
        (["--batch-size", "2", "--gradient-accumulation-steps", "2"], 1e-4),
        (["--precision", "bf16"], 0.02),
        (["--attention", "sdpa"], 1e-6),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_the_losses_are_those_of_the_usual_way(run: Run, usual: list[float], more: list[str], tolerance: float) -> None:
    code, output, text = run(*FIXED, *more)
    assert code == 0, text
    assert losses(output) == pytest.approx(usual, rel=tolerance)


@pytest.mark.timeout(600)
def test_compiled_it_learns_the_same(run: Run, usual: list[float]) -> None:
    if shutil.which("g++") is None:
        pytest.skip("torch.compile needs a C++ compiler on a CPU")
    code, output, text = run("--lora-dropout", "0", "--num-epochs", "0.4", "--compile")
    assert code == 0, text
    assert losses(output) == pytest.approx(usual, rel=1e-4)
    saved = load_file(output / "adapter_model.safetensors")
    assert all(name.startswith("base_model.model.model.layers.") for name in saved), "no `_orig_mod` in the names"


@pytest.mark.parametrize(
    ("option", "said"),
    [
        (["--attention", "flash_attention_2"], "--attention: found flash_attention_2 without"),
        (["--liger"], "--liger: found without"),
        (["--compile"], "--compile: found no C++ compiler 'no-compiler' on PATH"),
        (["--profile", "/nope.yaml"], "--profile: /nope.yaml: cannot be read: No such file or directory"),
        (["--metrics-web-config", "/nope.yml"], "--metrics-web-config: /nope.yml: cannot be read: No such file"),
    ],
)
def test_what_is_not_here_is_one_line_before_the_first_step(
    run: Run, option: list[str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "no-compiler")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    for more in ([], ["--dry-run"]):
        code, output, text = run(*option, *more)
        assert code == 2
        assert text.count("\n") == 1
        assert said in text
        assert not output.exists()


def test_a_paged_optimizer_on_a_cpu_is_the_plain_one(run: Run) -> None:
    with pytest.warns(UserWarning, match="Paged optimizers are not supported on CPU"):
        code, output, text = run("--num-epochs", "0.2", "--optimizer", "paged_adamw_8bit")
    assert code == 0, text
    assert journal(output, "run_ended")[0]["state"] == "completed"


@pytest.mark.parametrize("bits", ["4bit", "8bit"])
def test_a_quantized_base_is_frozen_and_its_linear_layers_have_adapters(data: Path, tmp_path: Path, bits: str) -> None:
    import bitsandbytes as bnb
    import torch

    trainer = prepare(TrainSettings(train_data=data, output_dir=tmp_path, quantization=bits, threads=1)).trainer
    kind: Any = bnb.nn.Linear4bit if bits == "4bit" else bnb.nn.Linear8bitLt
    quantized = [name for name, module in trainer.model.named_modules() if isinstance(module, kind)]
    assert len(quantized) == 5 * 7, "queries, keys, values, output, gate, up and down of five layers"
    assert all(name.endswith(".base_layer") for name in quantized)
    trained = {name for name, p in trainer.model.named_parameters() if p.requires_grad}
    assert trained == {
        f"{name.removesuffix('base_layer')}lora_{ab}.default.weight" for name in quantized for ab in "AB"
    }
    assert all(p.dtype == torch.float32 for p in trainer.model.parameters() if p.requires_grad)
    if bits == "4bit":
        state = trainer.model.get_submodule(quantized[0]).weight.quant_state
        assert (state.quant_type, state.nested) == ("nf4", True)

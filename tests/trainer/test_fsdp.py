"""Two processes that hold half of every weight each (FSDP), on the CPU: one run, and an adapter that is whole."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file
from trainer_runs import ENVIRONMENT, journal, options

from trading_llm import cli
from trading_llm.adapters import load_adapter

pytestmark = pytest.mark.timeout(900)

FIXED = ("--lora-dropout", "0", "--num-epochs", "0.5", "--save-steps", "4", "--eval-steps", "4")


ENVIRONMENT_OF_FSDP = ENVIRONMENT | {
    "ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_RESHARD_AFTER_FORWARD": "true",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP", "FSDP_TRANSFORMER_CLS_TO_WRAP": "LlamaDecoderLayer",
}  # fmt: skip
"""What `accelerate launch --use_fsdp --fsdp_version 2` tells its processes."""


def torchrun(*arguments: str) -> str:
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    script = str(Path(__file__).with_name("fsdp_ranks.py"))
    done = subprocess.run(
        [*launch, script, *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=600, env=ENVIRONMENT_OF_FSDP,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-5000:]
    return done.stdout


@pytest.fixture(scope="module")
def one(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("one")
    assert cli.main(options(data, output, *FIXED)) == 0
    return output


@pytest.fixture(scope="module")
def sharded(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    output = tmp_path_factory.mktemp("sharded")
    return output, torchrun(*options(data, output, *FIXED, "--batch-size", "2"), "--quality-prompts", "2")


def test_every_process_has_a_part_of_the_weights(sharded: tuple[Path, str]) -> None:
    _, printed = sharded
    held, whole = (int(number) for number in re.search(r"holds (\d+) of (\d+) parameters", printed).groups())
    assert held < 0.55 * whole


def test_the_first_process_speaks_and_counts_for_all(sharded: tuple[Path, str], one: Path) -> None:
    output, printed = sharded
    for once in ("Training data: ", "Metrics: ", "Adapter saved", "Step 8/8:"):
        assert printed.count(once) == 1, printed
    assert printed.count("Text quality is not assessed: no process of a sharded training has the whole model") == 1
    assert [line["state"] for line in journal(output, "run_ended")] == ["completed"]
    assert [line["step"] for line in journal(output, "step_ended")] == list(range(1, 9))
    assert sum(line["tokens"] for line in journal(output, "loss_logged")) == sum(
        line["tokens"] for line in journal(one, "step_ended")
    )
    assert journal(output, "ranks_timed")


def test_what_is_learnt_is_what_one_process_learns(sharded: tuple[Path, str], one: Path) -> None:
    output, _ = sharded
    assert journal(output, "evaluated")[-1]["loss"] == pytest.approx(journal(one, "evaluated")[-1]["loss"], rel=1e-3)
    expected, found = (load_file(folder / "adapter_model.safetensors") for folder in (one, output))
    assert found.keys() == expected.keys()
    for name in expected:
        assert (expected[name] - found[name]).abs().max() < 2e-3 * expected[name].abs().max() + 1e-5, name


def test_adapter_and_checkpoint_are_whole(sharded: tuple[Path, str]) -> None:
    output, _ = sharded
    checkpoint = output / "checkpoint-8"
    for folder in (output, checkpoint):
        model, _ = load_adapter(folder, None)
        assert any(p.abs().max() > 0 for name, p in model.named_parameters() if "lora_B" in name)


def test_it_is_taken_up_again(sharded: tuple[Path, str], data: Path, tmp_path: Path) -> None:
    """From the checkpoint in the middle: the same end."""
    output, _ = sharded
    shutil.copytree(output / "checkpoint-4", tmp_path / "checkpoint-4")
    printed = torchrun(*options(data, tmp_path, *FIXED, "--batch-size", "2", "--resume"))
    assert "Step 8/8:" in printed
    assert [line["step"] for line in journal(tmp_path, "step_ended")] == [5, 6, 7, 8]
    expected, found = (load_file(folder / "adapter_model.safetensors") for folder in (output, tmp_path))
    for name in expected:
        assert (expected[name] - found[name]).abs().max() < 1e-4, name

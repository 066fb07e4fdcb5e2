"""Two processes on the CPU (gloo), started by torchrun: one run, exact tokens, the gradients of one process."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file
from trainer_runs import ENVIRONMENT, journal, options
from two_ranks import LATE_SECONDS

from trading_llm import cli
from trading_llm.data import Completions
from trading_llm.examples import read_examples
from trading_llm.model import load_base

pytestmark = pytest.mark.timeout(900)

FIXED = ("--lora-dropout", "0", "--run-name", "pair")
TEXTS = ("--quality-prompts", "2")  # an option that is given twice has its last value


def torchrun(*arguments: str) -> list[str]:
    script = str(Path(__file__).with_name("two_ranks.py"))
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", script]
    return [*launch, *arguments]


@pytest.fixture(scope="module")
def pair(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    output = tmp_path_factory.mktemp("pair") / "out"
    done = subprocess.run(
        torchrun(*options(data, output, *FIXED, "--batch-size", "2"), *TEXTS),
        capture_output=True, text=True, timeout=600, env=ENVIRONMENT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-5000:]
    return output, done.stdout


def test_the_first_process_speaks_for_the_run(pair: tuple[Path, str]) -> None:
    output, printed = pair
    assert [line["run"] for line in journal(output, "run_started")] == ["pair"]
    assert [line["step"] for line in journal(output, "step_ended")] == list(range(1, 17))
    assert [line["state"] for line in journal(output, "run_ended")] == ["completed"]
    for once in ("Training data: ", "Metrics: ", "Adapter saved", "Step 16/16:"):
        assert printed.count(once) == 1, printed
    assert len(list((output / "runs").iterdir())) == 1


def test_tokens_are_those_of_all_processes(pair: tuple[Path, str], data: Path) -> None:
    expected = Completions(read_examples(data), load_base("embedded", "none")[1], 512, data).statistics.tokens
    told = [line["tokens"] for line in journal(pair[0], "loss_logged")]
    assert len(told) == 16
    assert sum(told) == expected
    assert all("tokens" not in line for line in journal(pair[0], "step_ended"))


def test_a_straggler_shows(pair: tuple[Path, str]) -> None:
    timed = journal(pair[0], "ranks_timed")
    assert timed
    first, second = timed[-1]["seconds"]
    assert second > first + 0.5 * LATE_SECONDS


def test_the_gradients_are_those_of_one_process_with_both_batches(
    pair: tuple[Path, str], data: Path, tmp_path: Path
) -> None:
    assert cli.main(options(data, tmp_path / "one", *FIXED)) == 0
    one, two = (load_file(output / "adapter_model.safetensors") for output in (tmp_path / "one", pair[0]))
    for name in one:
        assert (one[name] - two[name]).abs().max() < 2e-3 * one[name].abs().max() + 1e-5, name
    one_loss, two_loss = (journal(output, "evaluated")[-1]["loss"] for output in (tmp_path / "one", pair[0]))
    assert two_loss == pytest.approx(one_loss, rel=1e-3)


def test_the_first_process_writes_texts_and_the_training_is_the_same_without(
    pair: tuple[Path, str], data: Path, tmp_path: Path
) -> None:
    output, printed = pair
    assert [(line["stage"], line["step"]) for line in journal(output, "text_scored")] == [
        ("early", 3), ("middle", 8), ("final", 16),
    ]  # fmt: skip
    assert printed.count("Text quality, final") == 1
    without = tmp_path / "out"
    done = subprocess.run(
        torchrun(*options(data, without, *FIXED, "--batch-size", "2")),
        capture_output=True, text=True, timeout=600, env=ENVIRONMENT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-5000:]
    assert journal(without, "text_scored") == []
    for event, key in (("loss_logged", "loss"), ("loss_logged", "tokens"), ("evaluated", "loss")):
        assert [line[key] for line in journal(output, event)] == [line[key] for line in journal(without, event)]
    with_texts, plain = (load_file(folder / "adapter_model.safetensors") for folder in (output, without))
    assert all(with_texts[name].equal(plain[name]) for name in plain)


def test_a_signal_stops_all_processes_in_the_same_step(data: Path, tmp_path: Path) -> None:
    arguments = options(data, tmp_path, *FIXED, "--batch-size", "2", "--num-epochs", "1000", "--save-steps", "100000")
    process = subprocess.Popen(
        torchrun(*arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT
    )
    try:
        assert process.stdout is not None
        assert any(line.startswith("Step ") for line in process.stdout)
        workers = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout.split()
        for worker in workers:
            os.kill(int(worker), signal.SIGINT)
        end = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < end:
            time.sleep(0.5)
    finally:
        process.kill()
    [ended] = journal(tmp_path, "run_ended")
    assert (ended["state"], ended["reason"]) == ("interrupted", "SIGINT")
    [saved] = journal(tmp_path, "checkpoint_saved")[-1:]
    assert (Path(saved["path"]) / "adapter_model.safetensors").exists()
    assert saved["step"] == journal(tmp_path, "step_ended")[-1]["step"]

"""Real, short trainings of the embedded model: what they print, save, journal, and how they end."""

import re
import signal
import statistics
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from trainer_runs import ENVIRONMENT, Run, command, journal, options

from trading_llm import cli, inject


@pytest.fixture(scope="module")
def finished(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[subprocess.CompletedProcess[str], Path]:
    """The guide's command in its own process, to the end."""
    output = tmp_path_factory.mktemp("finished") / "out"
    done = subprocess.run(
        command(*options(data, output, "--run-name", "probe", "--learning-rate", "2e-3")),
        capture_output=True, text=True, timeout=200, env=ENVIRONMENT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done, output


BLOCK = re.compile(
    r"^Step (?P<step>\d+)/16:\n- Training Loss: (?P<loss>\d+\.\d{4})\n(?:- Validation Loss: \d+\.\d{4}\n)?"
    r"- Learning Rate: 0(?:\.\d+)?\n- Perplexity: (?P<perplexity>\d+\.\d{4})\n- Tokens/second: \d+\n",
    re.MULTILINE,
)


def test_stdout_has_the_guides_blocks_and_no_bar(finished: tuple[subprocess.CompletedProcess[str], Path]) -> None:
    done, output = finished
    blocks = list(BLOCK.finditer(done.stdout))
    assert [block["step"] for block in blocks] == ["4", "8", "12", "16"]
    assert "- Validation Loss:" in blocks[-1].group()
    assert ("GPU Memory" in done.stdout) == torch.cuda.is_available()
    losses = {line["step"]: line["loss"] for line in journal(output, "loss_logged")}
    assert float(blocks[1]["loss"]) == pytest.approx(losses[8], abs=1e-4)
    assert float(blocks[1]["perplexity"]) == pytest.approx(2.718281828 ** losses[8], rel=1e-3)
    assert "\r" not in done.stdout + done.stderr
    assert done.stderr == ""


def test_loss_falls_and_the_learning_rate_follows_its_schedule(
    finished: tuple[subprocess.CompletedProcess[str], Path],
) -> None:
    losses = [line["loss"] for line in journal(finished[1], "loss_logged")]
    assert sum(losses[-4:]) < 0.9 * sum(losses[:4])
    rates = [line["learning_rate"] for line in journal(finished[1], "step_ended")]
    assert rates.index(max(rates)) in (1, 2)
    assert rates[-1] < 0.1 * max(rates)


def test_what_is_left_on_disk(finished: tuple[subprocess.CompletedProcess[str], Path]) -> None:
    output = finished[1]
    assert (output / "adapter_model.safetensors").stat().st_size > 10_000
    assert sorted(path.name for path in output.glob("checkpoint-*")) == ["checkpoint-16", "checkpoint-8"]
    assert [line["step"] for line in journal(output, "checkpoint_saved")] == [8, 16]
    assert journal(output, "run_started")[0]["run"] == "probe"
    assert journal(output, "run_started")[0]["settings"]["lora_r"] == "16"
    assert journal(output, "run_ended")[0]["state"] == "completed"

    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(output / "runs"))
    board.Reload()
    assert {"train/loss", "train/learning_rate", "eval/loss"} <= set(board.Tags()["scalars"])
    assert [point.step for point in board.Scalars("eval/loss")] == [8, 16]


def test_the_adapter_loads_on_the_base_and_writes(finished: tuple[subprocess.CompletedProcess[str], Path]) -> None:
    from peft import PeftModel

    from trading_llm.model import load_base

    base, tokenizer = load_base("embedded", "none")
    model = PeftModel.from_pretrained(base, str(finished[1]))
    prompt = tokenizer("symbol: KORA\nclose: 10.5\nexplanation:", return_tensors="pt")
    assert model.generate(**prompt, max_new_tokens=5, do_sample=False).shape[1] > prompt["input_ids"].shape[1]


@pytest.mark.parametrize("bits", ["4bit", "8bit"])
def test_quantized_bases_train(run: Run, bits: str) -> None:
    code, output, text = run("--quantization", bits, "--num-epochs", "0.5", "--learning-rate", "2e-3")
    assert code == 0, text
    losses = [line["loss"] for line in journal(output, "loss_logged")]
    assert len(losses) == 8
    assert losses[-1] < losses[0]
    assert journal(output, "run_started")[0]["settings"]["quantization"] == bits


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_with_a_checkpoint(data: Path, tmp_path: Path, number: int, code: int) -> None:
    arguments = command(*options(data, tmp_path, "--num-epochs", "1000", "--save-steps", "100000"))
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)
    try:
        assert process.stdout is not None
        assert any(line.startswith("Step ") for line in process.stdout)
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == code, errors
    assert "Traceback" not in errors
    ended = journal(tmp_path, "run_ended")
    assert [(line["state"], line["reason"]) for line in ended] == [("interrupted", signal.Signals(number).name)]
    saved = journal(tmp_path, "checkpoint_saved")
    assert len(saved) == 1
    assert (Path(saved[0]["path"]) / "adapter_model.safetensors").exists()


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--learning-rate", "fast"], "--learning-rate: found 'fast'; allowed: a number above 0 to 1"),
        (["--learning-rate", "0"], "--learning-rate: found '0'"),
        (["--learning-rate", "nan"], "--learning-rate: found 'nan'"),
        (["--quantization", "3bit"], "--quantization: found '3bit'; allowed: none, 8bit, 4bit"),
        (["--lr-scheduler", "magic"], "--lr-scheduler: found 'magic'; allowed: linear, cosine"),
        (["--batch-size", "0"], "--batch-size: found '0'; allowed: a whole number from 1 on"),
        (["--lora-dropout", "1"], "--lora-dropout: found '1'"),
        (["--metrics-port", "99999"], "--metrics-port: found '99999'; allowed: a whole number from 0 to 65535"),
        (["--train-data", "/nowhere.json"], "/nowhere.json: cannot be read: No such file or directory"),
        (["--eval-data", "/nowhere.json"], "/nowhere.json: cannot be read"),
        (["--base-model", "/no/model"], "--base-model: found '/no/model', which cannot be loaded"),
        (["--output-dir", "/proc/out"], "--output-dir: found /proc/out"),
        (["--max-length", "20"], "no record fits --max-length: found 20"),
        (["--inject", "flood"], "--inject: found 'flood'; allowed: loss_rising"),
        (["--inject", "loss_nan@-3"], "--inject: found 'loss_nan@-3'; allowed: loss_nan@STEP"),
        (["--inject", "val_gap@0.5"], "--inject: found 'val_gap@0.5'; allowed: val_gap alone"),
    ],
)
def test_wrong_settings_are_one_line(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], words: str
) -> None:
    try:
        code = cli.main(options(data, tmp_path, *more))
    except SystemExit as ended:  # argparse
        code = int(ended.code or 0)
    errors = capsys.readouterr().err
    assert code == 2
    assert words in errors
    assert len(errors.splitlines()) == 1, errors
    assert not (tmp_path / "journal.jsonl").exists()


def test_a_taken_port_that_was_demanded_is_one_line(run: Run) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        code, _, text = run("--metrics-port", port)
    assert code == 2, text
    assert f"--metrics-port: found {port}" in text
    assert "Traceback" not in text


# -- faults -------------------------------------------------------------------------------------------------------


def losses_of(output: Path) -> list[float]:
    return [float(line["loss"]) for line in journal(output, "loss_logged")]


def test_every_fault_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", "--inject", "list"]) == 0
    printed = capsys.readouterr().out
    assert [line.split()[0] for line in printed.splitlines()] == list(inject.FAULTS)


def test_loss_rises(run: Run) -> None:
    _, output, _ = run("--inject", "loss_rising@6", "--lr-scheduler", "constant")
    losses = losses_of(output)
    assert journal(output, "fault_injected")[0]["step"] == 6
    assert min(losses[8:]) > max(losses[3:5])


def test_loss_becomes_nan_and_stays(run: Run) -> None:
    _, output, _ = run("--inject", "loss_nan@5", "--num-epochs", "0.5")
    losses = losses_of(output)
    assert all(loss == loss for loss in losses[:4])
    assert all(loss != loss for loss in losses[4:])
    assert len(losses) == 8


def test_early_plateau_learns_nothing(run: Run) -> None:
    _, output, _ = run("--inject", "early_plateau", "--learning-rate", "2e-3")
    losses = losses_of(output)
    assert sum(losses[-4:]) > 0.93 * sum(losses[:4])


def test_the_schedule_stops(run: Run) -> None:
    _, output, _ = run("--inject", "lr_off_schedule@0.5")
    rates = [line["learning_rate"] for line in journal(output, "step_ended")]
    assert len(set(rates[8:])) == 1
    assert rates[-1] > 0


def test_batches_fluctuate(run: Run) -> None:
    _, output, _ = run("--inject", "loss_fluctuating@2", "--learning-rate", "1e-6")
    losses = losses_of(output)
    assert max(losses[2:]) > 1.5 * min(losses)


def test_throughput_drops(run: Run) -> None:
    """And stay low, beyond evaluations and the end of the epoch."""
    _, output, _ = run("--inject", "throughput_drop@6", "--num-epochs", "1.5", "--eval-steps", "7", "--save-steps", "7")
    waits = [line["data_wait_seconds"] for line in journal(output, "step_ended")]
    durations = [line["duration_seconds"] for line in journal(output, "step_ended")]
    # Medians: the batch after an evaluation was fetched before the training went on, and is not slowed.
    assert sorted(waits[6:])[5] > 5 * max(waits[:4])
    assert sorted(durations[6:])[5] > 1.5 * sorted(durations[:5])[2]
    assert statistics.median(waits[-5:]) > 0.5 * statistics.median(waits[7:12]), waits


def test_initial_perplexity_is_high(run: Run) -> None:
    _, output, _ = run("--inject", "initial_perplexity", "--num-epochs", "0.2")
    assert losses_of(output)[0] > 3.5


def test_out_of_memory_is_real_and_told(run: Run) -> None:
    code, output, text = run("--inject", "oom@3")
    assert code == 1
    assert "out of memory" in text
    assert len(journal(output, "out_of_memory")) == 1
    assert journal(output, "run_ended")[0]["state"] == "failed"
    assert len(losses_of(output)) == 2


def test_a_failed_run_exits_with_1(run: Run) -> None:
    code, output, text = run("--inject", "run_failed@2")
    assert code == 1
    assert "the run failed: RuntimeError: injected fault: run_failed" in text.splitlines()[-1]
    assert journal(output, "run_ended")[0]["state"] == "failed"


def test_validation_gap(run: Run) -> None:
    _, output, _ = run("--inject", "val_gap")
    assert len(journal(output, "evaluated")) == 2


def test_a_vanished_run_tells_no_end(data: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        command(*options(data, tmp_path, "--inject", "run_vanished@3")),
        capture_output=True,
        timeout=100,
        env=ENVIRONMENT,
    )
    assert done.returncode == -signal.SIGKILL
    assert journal(tmp_path, "fault_injected")[0]["sign"] == "run_vanished"
    assert journal(tmp_path, "run_ended") == []


def test_a_stalled_run_stands_still(data: Path, tmp_path: Path) -> None:
    arguments = command(*options(data, tmp_path, "--inject", "run_stalled@3"))
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)
    try:
        deadline = time.monotonic() + 100
        while not (tmp_path / "journal.jsonl").exists() or not journal(tmp_path, "fault_injected"):
            assert time.monotonic() < deadline
            time.sleep(0.2)
        time.sleep(2)
        assert process.poll() is None
        assert len(journal(tmp_path, "step_ended")) == 2
        for _ in range(2):
            process.send_signal(signal.SIGINT)
            time.sleep(1)
        process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 130
    assert journal(tmp_path, "run_ended")[0]["state"] == "interrupted"


def test_wrong_explanations_are_learnt(data: Path) -> None:
    from trading_llm.data import IGNORED, Completions
    from trading_llm.examples import read_examples
    from trading_llm.model import load_base

    _, tokenizer = load_base("embedded", "none")
    right, wrong = (Completions(read_examples(data), tokenizer, 512, "data") for _ in range(2))
    inject.FAULTS["text_quality"].prepare((wrong, None), len(tokenizer))

    def answer(item: Any) -> list[int]:
        return [label for label in item["labels"] if label != IGNORED]

    for number, (before, after) in enumerate(zip(right.items, wrong.items, strict=True)):
        cut = len(before["labels"]) - len(answer(before))
        assert after["input_ids"][:cut] == before["input_ids"][:cut]
        assert answer(after) == answer(right.items[(number + 1) % len(right)])
        assert len(after["input_ids"]) == len(after["labels"])

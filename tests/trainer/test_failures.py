"""What goes wrong before and during a training, what is said about it, and how it goes on by itself."""

import dataclasses
import re
import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
import yaml
from trainer_runs import Run, journal

from trading_llm.errors import UsageError
from trading_llm.memory import halved, remedies
from trading_llm.preflight import check_disk, make_directory
from trading_llm.settings import TrainSettings


def test_out_of_memory_ends_with_the_guides_remedies_and_their_options(run: Run) -> None:
    code, output, text = run("--inject", "oom@3", "--num-epochs", "0.3")
    assert code == 1
    assert "the run failed: out of memory after step 2: OutOfMemoryError" in text
    assert "--batch-size 2 --gradient-accumulation-steps 2 " in text
    assert "--quantization 8bit " in text
    assert "--gradient-checkpointing " in text
    assert re.search(r"--max-length \d+ ", text)
    assert "Traceback" not in text
    assert len(journal(output, "out_of_memory")) == 1
    assert journal(output, "run_ended")[0]["state"] == "failed"


def test_auto_batch_goes_on_with_half_the_batch_to_the_same_end(run: Run) -> None:
    code, output, text = run("--inject", "oom@7", "--auto-batch", "--save-steps", "2", "--eval-steps", "2")
    assert code == 0, text
    assert "going on from checkpoint-6 with --batch-size 2 --gradient-accumulation-steps 2" in text
    assert [line["step"] for line in journal(output, "out_of_memory")] == [6]
    assert [line["state"] for line in journal(output, "run_ended")] == ["completed"]
    assert [line["step"] for line in journal(output, "step_ended")] == list(range(1, 17))
    started = journal(output, "run_started")
    assert [(line["step"], line["settings"]["batch_size"]) for line in started] == [(0, "4"), (6, "2")]
    assert yaml.safe_load((output / "settings.yaml").read_text())["batch_size"] == 2
    tokens = [line["tokens"] for line in journal(output, "step_ended")]
    # A step has the same number of records before and after.
    assert min(tokens[6:]) > 0.7 * min(tokens[:6])
    losses = [line["loss"] for line in journal(output, "loss_logged")]
    assert max(losses[6:]) < losses[0], "it did not begin anew, and no half step is added to the next one"


def test_auto_batch_without_a_checkpoint_begins_again(run: Run) -> None:
    code, output, text = run("--inject", "oom@3", "--auto-batch", "--num-epochs", "0.3")
    assert code == 0, text
    assert "going on from the beginning" in text
    losses = {}
    for line in journal(output, "loss_logged"):
        losses.setdefault(line["step"], []).append(line["loss"])
    assert losses[1][0] == pytest.approx(losses[1][1], rel=0.02), "the adapters are those of the first start"


@pytest.mark.parametrize(
    ("batch", "accumulation", "then"),
    [(8, 1, (4, 2)), (8, 4, (4, 8)), (6, 1, (3, 2)), (7, 1, (1, 7)), (5, 2, (2, 5)), (1, 8, None)],
)
def test_half_the_batch_keeps_the_records_of_a_step(batch: int, accumulation: int, then: tuple[int, int]) -> None:
    smaller = halved(TrainSettings(batch_size=batch, gradient_accumulation_steps=accumulation))
    assert (smaller and (smaller.batch_size, smaller.gradient_accumulation_steps)) == then


def test_remedies_name_only_what_is_left_to_do() -> None:
    settings = TrainSettings(batch_size=1, quantization="8bit", gradient_checkpointing=True)
    assert "--quantization 4bit" in remedies(settings, 60)
    assert len(remedies(settings, 60).splitlines()) == 1
    assert remedies(dataclasses.replace(settings, quantization="4bit"), 60) == ""


def test_stop_on_nan_fails_the_run_at_once(run: Run) -> None:
    code, output, text = run("--inject", "loss_nan@5", "--stop-on", "nan")
    assert code == 1
    assert "the training loss of step 5 is nan, and --stop-on nan ends the run there" in text
    assert "Traceback" not in text
    assert journal(output, "run_ended")[0]["state"] == "failed"
    assert "step 5" in journal(output, "run_ended")[0]["reason"]
    assert max(line["step"] for line in journal(output, "step_ended")) in (5, 6)


def test_a_full_disk_is_found_before_the_first_step(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9 - 10**7, 10**7))
    code, output, text = run()
    assert code == 2
    assert re.search(r"--output-dir: found 10 MB free .*; allowed: at least \d+ MB", text)
    assert not (output / "journal.jsonl").exists()


def test_a_disk_with_room_is_taken(tmp_path: Path) -> None:
    check_disk(tmp_path, 1000)
    make_directory(tmp_path / "new" / "one")
    assert list((tmp_path / "new" / "one").iterdir()) == []


def test_a_directory_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"--output-dir: found .*/file"):
        make_directory(tmp_path / "file")


def test_settings_come_from_a_file_and_options_go_first(run: Run, tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    config.write_text("learning-rate: 3e-4\nlora_r: 4\nlora_alpha: 12\nquantization: none\nwandb: false\n")
    code, output, text = run("--config", str(config), "--lora-alpha", "6", "--num-epochs", "0.1")
    assert code == 0, text
    saved: dict[str, Any] = yaml.safe_load((output / "settings.yaml").read_text())
    assert (saved["learning_rate"], saved["lora_r"], saved["lora_alpha"]) == (3e-4, 4, 6)
    assert saved["wandb"] is False


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("batchsize: 8", "found the key 'batchsize'; allowed: "),
        ("batch_size: 0", "batch_size: found '0'; allowed: a whole number from 1 on"),
        ("batch_size: [1, 2]", "batch_size: found [1, 2]; allowed: one value"),
        ("quantization: 3bit", "quantization: found '3bit'; allowed: none, 8bit, 4bit"),
        ("padding_free: 3", "padding_free: found 3; allowed: true, false"),
        ("- a", "found list; allowed: a mapping of settings"),
        ("a: [", "line 1: not YAML"),
        ("seed: 2001-99-99", "not YAML: month must be in 1..12"),
        ("batch_size: 0x" + "f" * 5000, "batch_size: Exceeds the limit"),
        ("[" * 700, "not YAML: maximum recursion depth"),
        ("a: &a [x, x]\nb: &b [*a, *a]\nbatch_size: [*b, *b]", "found the key 'a'"),
        ("#" * (2 << 20), "found more than 1048576 bytes; allowed: a file of fewer"),
    ],
)
def test_wrong_files_of_settings_are_one_line(run: Run, tmp_path: Path, content: str, words: str) -> None:
    config = tmp_path / "c.yaml"
    config.write_text(content)
    code, _, text = run("--config", str(config))
    assert code == 2
    assert words in text
    assert str(config) in text
    assert len(text.splitlines()) == 1


def test_a_dry_run_prints_the_plan_and_trains_nothing(run: Run) -> None:
    code, output, text = run("--dry-run", "--gradient-accumulation-steps", "2", "--quantization", "4bit")
    assert code == 0, text
    assert "Steps: 8 (8 in an epoch, 1 of warm-up), each of 4 x 2 records" in text
    assert re.search(r"Memory, estimated: \d+ MiB", text)
    assert "Expected after 1 epochs (step 8): training loss 0.90 to 1.75" in text
    assert not output.exists()

"""A run that was killed and resumed is the run that was not: the same counters, schedule, data and weights."""

import random
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from trainer_runs import ENVIRONMENT, Run, command, journal, options

from trading_llm import cli
from training_exporter import RunState
from training_exporter import journal as journals
from training_exporter.events import RunStarted
from training_exporter.history import restored

pytestmark = pytest.mark.timeout(900)

SETTINGS = ("--save-steps", "3", "--eval-steps", "6")
STEPS = 16


def state_of(output: Path) -> RunState:
    past = list(journals.read(output / "journal.jsonl"))
    return restored(past, [event.step for event in past if isinstance(event, RunStarted)])


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("whole")
    assert cli.main(options(data, output, *SETTINGS)) == 0
    return output


@pytest.fixture(scope="module")
def killed(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run, ended by kill -9 at a step by chance and resumed."""
    output, step = tmp_path_factory.mktemp("killed"), random.SystemRandom().randrange(5, STEPS + 1)
    arguments = options(data, output, *SETTINGS)
    done = subprocess.run(
        command(*arguments, "--inject", f"run_vanished@{step}"), capture_output=True, text=True, timeout=400,
        env=ENVIRONMENT,
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert journal(output, "run_ended") == []
    # A checkpoint that the kill has cut short is none.
    (output / "checkpoint-999").mkdir()
    (output / "checkpoint-999" / "trainer_state.json").write_text('{"global_st')
    print(f"killed before step {step} was made")
    assert cli.main([*arguments, "--resume"]) == 0
    return output


def test_the_counters_are_those_of_a_run_that_was_not_killed(whole: Path, killed: Path) -> None:
    expected, found = state_of(whole), state_of(killed)
    for name in ("state", "step", "max_steps", "tokens", "epoch", "observed_loss_count", "learning_rate"):
        assert getattr(found, name) == pytest.approx(getattr(expected, name)), name
    assert found.loss == pytest.approx(expected.loss, rel=1e-4)
    assert found.validation_loss == pytest.approx(expected.validation_loss, rel=1e-4)


def test_one_journal_tells_of_one_run_taken_up_twice(killed: Path) -> None:
    first, second = journal(killed, "run_started")
    assert first["run"] == second["run"]
    assert first["step"] == 0
    assert second["step"] in (3, 6, 9, 12, 15)
    assert [path.name for path in killed.glob("journal*")] == ["journal.jsonl"]


def test_every_step_after_the_resume_is_the_step_it_was(whole: Path, killed: Path) -> None:
    def by_step(output: Path, kind: str, key: str) -> dict[int, Any]:
        return {line["step"]: line[key] for line in journal(output, kind)}

    for kind, key in (("step_ended", "tokens"), ("step_ended", "learning_rate"), ("loss_logged", "loss")):
        expected = by_step(whole, kind, key)
        assert by_step(killed, kind, key) == pytest.approx(expected, rel=1e-4), key


def test_the_adapter_is_the_same(whole: Path, killed: Path) -> None:
    expected, found = (load_file(output / "adapter_model.safetensors") for output in (whole, killed))
    assert expected.keys() == found.keys()
    for name in expected:
        assert (expected[name] - found[name]).abs().max() < 1e-4, name


def test_other_settings_are_refused(run: Run, whole: Path) -> None:
    newest = max(whole.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    code, output, text = run(*SETTINGS, "--resume", str(newest), "--batch-size", "2")
    assert code == 2
    assert "--batch-size: found 2, but the run of" in text
    assert "was started with 4; allowed: the same settings, as in --config" in text
    assert not (output / "journal.jsonl").exists()
    code, _, text = run("--resume", str(whole / "runs"))
    assert code == 2
    assert "allowed: a directory of a complete checkpoint" in text


def test_a_run_that_is_complete_is_left_alone(run: Run) -> None:
    code, output, text = run("--num-epochs", "0.5")
    assert code == 0, text
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in output.rglob("*") if path.is_file()}
    code, _, text = run("--num-epochs", "0.5", "--resume")
    assert code == 0
    assert f"--resume: the run of {output / 'checkpoint-8'} is complete (8 of 8 steps)" in text
    assert {
        path: (path.stat().st_mtime_ns, path.read_bytes()) for path in output.rglob("*") if path.is_file()
    } == before
    code, _, text = run("--num-epochs", "1", "--resume")
    assert (code, "--num-epochs: found 1.0, but the run of" in text) == (2, True)


def test_what_the_end_of_a_killed_run_left_undone_is_done(run: Run) -> None:
    _, output, _ = run("--num-epochs", "0.5")
    adapter = output / "adapter_model.safetensors"
    expected = adapter.read_bytes()
    adapter.unlink()
    code, _, text = run("--num-epochs", "0.5", "--resume")
    assert code == 0
    assert f"Adapter of checkpoint-8 saved in {output}" in text
    assert adapter.read_bytes() == expected
    assert not list(output.glob("*.part"))


def test_resume_without_a_checkpoint_begins(run: Run) -> None:
    code, output, text = run("--resume", "--num-epochs", "0.1")
    assert code == 0, text
    assert "starting from the beginning" in text
    assert journal(output, "run_ended")[0]["state"] == "completed"


def test_the_best_model_is_what_is_saved(run: Run) -> None:
    """Validation data that fits ever worse: the first evaluation is the best, and early stopping ends the run."""
    code, output, text = run(
        "--learning-rate", "3e-2", "--lr-scheduler", "constant", "--eval-steps", "1", "--save-steps", "1000",
        "--early-stopping", "2", "--inject", "val_gap",
    )  # fmt: skip
    assert code == 0, text
    evaluated = {line["step"]: line["loss"] for line in journal(output, "evaluated")}
    best = min(evaluated, key=evaluated.__getitem__)
    assert max(evaluated) == best + 2
    assert len(evaluated) < 16
    [ended] = journal(output, "run_ended")
    assert (ended["state"], ended["reason"]) == (
        "completed",
        "early stopping: no better validation loss in 2 evaluations",
    )
    saved = load_file(output / "adapter_model.safetensors")
    kept = load_file(output / f"checkpoint-{best}" / "adapter_model.safetensors")
    assert all((saved[name] == kept[name]).all() for name in saved)
    assert sorted(path.name for path in output.glob("checkpoint-*")) == [
        f"checkpoint-{step}" for step in sorted({line["step"] for line in journal(output, "checkpoint_saved")})[-3:]
    ]

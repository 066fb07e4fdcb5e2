"""TensorBoard files as Hugging Face's own callback writes them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from training_exporter import events
from training_exporter.sources import files
from training_exporter.sources.files import RecordError

# In a process of its own: the environment variable is read once, and torch keeps its threads.
TRAINING = """
import sys, torch
torch.set_num_threads(1); torch.manual_seed(0)
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments
model = LlamaForCausalLM(LlamaConfig(vocab_size=64, hidden_size=16, intermediate_size=32, num_hidden_layers=1,
                                     num_attention_heads=2))
data = [{"input_ids": (ids := torch.randint(0, 64, (16,))), "labels": ids} for _ in range(64)]
args = TrainingArguments(output_dir=sys.argv[1], per_device_train_batch_size=8, num_train_epochs=4, logging_steps=2,
                         eval_strategy="steps", eval_steps=8, save_steps=32, report_to=["tensorboard"],
                         disable_tqdm=True, use_cpu=True, warmup_steps=0.125, learning_rate=1e-2,
                         include_num_input_tokens_seen="all")
Trainer(model, args, train_dataset=data, eval_dataset=data[:8]).train()
"""


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tensorboard")
    environment = {
        **os.environ, "TENSORBOARD_LOGGING_DIR": str(folder / "logs"), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", TRAINING, str(folder / "out")], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return folder


def test_the_files_tell_what_the_trainer_state_tells(output: Path) -> None:
    records, errors = files.find([output])
    assert not errors
    assert [record.format for record in records] == ["tensorboard", "trainer_state"]
    board, state = (list(record.events()) for record in records)
    for kind, keys in ((events.LossLogged, ("step", "steps", "epoch", "loss", "gradient_norm", "learning_rate")),
                       (events.Evaluated, ("step", "epoch", "loss", "runtime_seconds"))):  # fmt: skip
        ours, theirs = ([event for event in found if isinstance(event, kind)] for found in (board, state))
        assert len(ours) == len(theirs) > 3
        for a, b in zip(ours, theirs, strict=True):
            # The files hold 32-bit numbers, and the state's runtime is rounded.
            assert [getattr(a, key) for key in keys] == [pytest.approx(getattr(b, key), rel=1e-2) for key in keys]
    tokens = [sum(e.tokens or 0 for e in found if isinstance(e, events.StepEnded)) for found in (board, state)]
    assert tokens == [32 * 8 * 16] * 2
    started, ended = board[0], board[-1]
    assert isinstance(started, events.RunStarted)
    assert (started.max_steps, started.num_epochs, started.logging_steps) == (32, 4.0, 2)
    assert (started.lr_scheduler, started.warmup_steps, started.peak_learning_rate) == ("linear", 4, 1e-2)
    assert started.settings["batch_size"] == "8"
    assert isinstance(ended, events.RunEnded)
    assert ended.state == "completed"
    assert str(records[0].source).startswith(str(output / "logs" / "events.out.tfevents."))


def test_a_torn_file_tells_what_is_whole(output: Path, tmp_path: Path) -> None:
    (whole,) = (output / "logs").iterdir()
    torn = tmp_path / whole.name
    torn.write_bytes(whole.read_bytes()[:-3000])
    record = files.find([torn])[0][0]
    losses = [event.step for event in record.events() if isinstance(event, events.LossLogged)]
    assert losses == list(range(2, losses[-1] + 1, 2))
    assert 4 < losses[-1] < 32


def test_no_torch_and_no_tensorflow_are_needed(output: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from training_exporter.sources import files;"
        f"print(len(list(files.find([Path({str(output / 'logs')!r})])[0][0].events())));"
        "assert not {'torch', 'tensorflow', 'transformers'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 40


def test_without_the_package_it_says_so(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard.backend.event_processing.event_file_loader", None)
    record = files.find([output / "logs"])[0][0]
    with pytest.raises(RecordError, match=r"need training-exporter\[backtest\]"):
        list(record.events())

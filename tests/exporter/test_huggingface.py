"""The Hugging Face source on a real Trainer with a real, tiny model."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from prometheus_client.parser import text_string_to_metric_families
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments

from training_exporter import PrometheusCallback, attach, events
from training_exporter.journal import read
from training_exporter.labels import clip, run_label
from training_exporter.sources.huggingface.device import InFlight, StepTimer
from training_exporter.sources.huggingface.notes import StepNotes

SAMPLES = 40
torch.set_num_threads(1)


class PaddedData(torch.utils.data.Dataset):  # type: ignore[type-arg]
    """Samples of 4 to 12 tokens, padded to 12; knows how many tokens it has."""

    def __init__(self, samples: int = SAMPLES) -> None:
        generator = torch.Generator().manual_seed(0)
        self.lengths = [4 + n % 9 for n in range(samples)]
        self.ids = [torch.randint(1, 50, (12,), generator=generator) for _ in range(samples)]

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, n: int) -> dict[str, torch.Tensor]:
        mask = (torch.arange(12) < self.lengths[n]).long()
        return {"input_ids": self.ids[n], "attention_mask": mask, "labels": self.ids[n].masked_fill(mask == 0, -100)}


def make_trainer(output_dir: Path, trainer_class: type[Trainer] = Trainer, **changes: Any) -> Trainer:
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(vocab_size=50, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2)
    )
    arguments: dict[str, Any] = {
        "output_dir": str(output_dir),
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 2,
        "num_train_epochs": 2,
        "learning_rate": 1e-3,
        "warmup_steps": 2,
        "logging_steps": 500,
        "save_strategy": "no",
        "report_to": [],
        "use_cpu": True,
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }
    return trainer_class(
        model, TrainingArguments(**{**arguments, **changes}), train_dataset=PaddedData(), eval_dataset=PaddedData(4)
    )


def watched(output_dir: Path, trainer: Trainer, **options: Any) -> tuple[PrometheusCallback, list[events.Event]]:
    """Attach, train, and hand back what the journal has."""
    callback = attach(trainer, "r", port=0, gpu=False, **options)
    trainer.train()
    callback.monitor.close()
    return callback, list(read(output_dir / "journal.jsonl"))


def of(kind: type[events.Event], found: list[events.Event]) -> list[Any]:
    return [event for event in found if isinstance(event, kind)]


class Record(TrainerCallback):  # type: ignore[misc]
    """What the Trainer itself knows of each step, with `logging_steps=1`."""

    def __init__(self) -> None:
        self.losses: dict[int, float] = {}
        self.norms: dict[int, float] = {}
        self.rates: dict[int, float] = {}

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if "loss" in logs:
            self.losses[state.global_step] = logs["loss"]
            self.norms[state.global_step] = logs["grad_norm"]
            self.rates[state.global_step] = logs["learning_rate"]


@pytest.mark.parametrize("workers", [0, 2])
def test_every_step_although_the_trainer_logs_none(tmp_path: Path, workers: int) -> None:
    reference = Record()
    plain = make_trainer(tmp_path / "plain", logging_steps=1)
    plain.add_callback(reference)
    plain.train()

    trainer = make_trainer(tmp_path, dataloader_num_workers=workers)
    callback, found = watched(tmp_path, trainer)
    assert callback.monitor.errors == {}
    losses, steps = of(events.LossLogged, found), of(events.StepEnded, found)
    assert [event.step for event in losses] == list(range(1, 11))
    assert {e.step: e.loss for e in losses} == pytest.approx(reference.losses, rel=1e-5)
    assert {e.step: e.gradient_norm for e in losses} == pytest.approx(reference.norms, rel=1e-5)
    assert {e.step: e.learning_rate for e in steps} == pytest.approx(reference.rates, rel=1e-9)
    assert sum(e.tokens for e in steps) == 2 * sum(PaddedData().lengths)
    assert all(0 <= e.data_wait_seconds <= e.duration_seconds for e in steps)
    parts = [(e.data_wait_seconds, e.forward_backward_seconds, e.optimizer_seconds) for e in steps]
    assert all(part > 0 for times in parts for part in times)
    assert all(sum(times) <= e.duration_seconds for times, e in zip(parts, steps, strict=True))
    state = callback.monitor.state
    assert state.state == "completed"
    assert state.learning_rate == pytest.approx(state.expected_learning_rate)


def test_names_and_settings_of_any_kind(tmp_path: Path) -> None:
    """Half a character, as of a foreign file's name, control characters, ten thousand letters, what is no text."""
    odd = '\ud800 \x00 "\n\\ \u202e' + "é" * 10_000
    trainer = make_trainer(tmp_path, max_steps=2)
    settings = {odd: odd, "base_model": odd, "dataset": object(), "n": 1}
    callback = attach(trainer, odd, port=0, gpu=False, settings=settings)
    trainer.train()
    page = urllib.request.urlopen(callback.monitor.url, timeout=10).read().decode()
    found = {sample.name: sample.labels for family in text_string_to_metric_families(page) for sample in family.samples}
    assert found["llm_training_loss"]["run"] == run_label(odd)
    assert found["llm_training_run_info"]["base_model"] == clip(odd)
    callback.monitor.linger_seconds = 0
    callback.monitor.close()
    assert callback.monitor.errors == {}
    started = next(read(tmp_path / "journal.jsonl"))
    assert (started.run, started.settings[odd], started.settings["n"]) == (odd, odd, "1")


def test_the_training_is_the_same_with_and_without(tmp_path: Path) -> None:
    """Watching must not change a bit of what is trained."""
    plain = make_trainer(tmp_path / "a")
    plain.train()
    seen = make_trainer(tmp_path / "b")
    watched(tmp_path / "b", seen)
    for (name, left), (_, right) in zip(plain.model.state_dict().items(), seen.model.state_dict().items(), strict=True):
        assert torch.equal(left, right), name


def test_nan_is_seen_although_the_trainer_hides_it(tmp_path: Path) -> None:
    class Poisoned(Trainer):  # type: ignore[misc]
        def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
            loss = super().compute_loss(*args, **kwargs)
            return loss * math.nan if self.state.global_step == 4 else loss

    record = Record()
    trainer = make_trainer(tmp_path, Poisoned, logging_steps=1)
    assert trainer.args.logging_nan_inf_filter
    trainer.add_callback(record)
    callback, found = watched(tmp_path, trainer)
    assert math.isfinite(record.losses[5]), "the Trainer's filter hides it"
    assert math.isnan(next(e.loss for e in of(events.LossLogged, found) if e.step == 5))
    assert callback.monitor.state.nonfinite["loss"] >= 1


def test_evaluations_and_checkpoints_are_phases(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, eval_strategy="steps", eval_steps=5, save_strategy="steps", save_steps=5)
    phases: list[str | None] = []
    callback = attach(trainer, "r", port=0, gpu=False)
    callback.monitor.add_sink(lambda event, state: phases.append(state.state))
    trainer.train()
    callback.monitor.close()
    found = list(read(tmp_path / "journal.jsonl"))
    assert [e.step for e in of(events.Evaluated, found)] == [5, 10]
    assert [e.step for e in of(events.CheckpointSaved, found)] == [5, 10]
    changes = [phase for n, phase in enumerate(phases) if n == 0 or phases[n - 1] != phase]
    once = ["training", "evaluating", "training", "saving"]
    assert changes == ["starting", *once, *once, "training", "completed"]


@pytest.mark.parametrize(
    ("slow", "part"), [("forward", "forward_backward_seconds"), ("optimizer", "optimizer_seconds")]
)
def test_where_the_time_of_a_step_goes(tmp_path: Path, slow: str, part: str) -> None:
    """Two batches per step: what both took is the step's."""

    class Slow(Trainer):  # type: ignore[misc]
        def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
            if slow == "forward":
                time.sleep(0.1)
            return super().compute_loss(*args, **kwargs)

        def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
            optimizer = super().create_optimizer(*args, **kwargs)
            if slow == "optimizer":
                optimizer.register_step_pre_hook(lambda *_: time.sleep(0.2))
            return optimizer

    callback, found = watched(tmp_path, make_trainer(tmp_path, Slow, max_steps=2))
    steps = of(events.StepEnded, found)
    for event in steps:
        assert getattr(event, part) >= 0.2
        assert getattr(event, part) > 0.5 * event.duration_seconds
    assert getattr(callback.monitor.state, part) == sum(getattr(event, part) for event in steps)


class FakeDevice:
    """Stands for a CUDA device: events are put into its queue, and it passes them when it is told to."""

    def __init__(self) -> None:
        self.queue: list[FakeDevice.Event] = []
        self.now = 0.0

    def work(self, milliseconds: float) -> None:
        self.now += milliseconds
        for event in self.queue:
            event.passed = self.now if event.passed is None else event.passed
        self.queue = []

    def event(self, enable_timing: bool = False) -> FakeDevice.Event:
        assert enable_timing, "elapsed_time fails without"
        return FakeDevice.Event(self)

    class Event:
        def __init__(self, device: FakeDevice) -> None:
            self.device, self.passed = device, None

        def record(self) -> None:
            self.passed = None
            self.device.queue.append(self)

        def query(self) -> bool:
            return self.passed is not None

        def elapsed_time(self, end: FakeDevice.Event) -> float:
            return end.passed - self.passed

        def synchronize(self) -> None:
            raise AssertionError("nothing waits for the device while the training goes on")


def test_a_cuda_device_is_asked_when_it_is_done_and_never_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the host measures there is the asking only: it is told of the parts once the device has passed the step."""
    device = FakeDevice()
    monkeypatch.setattr(torch.cuda, "Event", device.event)
    timer = StepTimer()
    timer.passes_begin()
    device.work(0)
    for _ in range(2):
        timer.passes_begin()
        timer.passes_ended()
        device.work(30)
    notes = StepNotes()
    notes.losses.append(torch.tensor(2.0))
    notes.end(1, None, 1, None)
    flight = InFlight(notes, timer.step_ended())
    assert not flight.ready()
    device.work(5)
    assert flight.ready()
    (event,) = flight.events()
    assert (event.forward_backward_seconds, event.optimizer_seconds) == pytest.approx((0.06, 0.005))
    assert timer.step_ended() is None, "the next step has its own"


@pytest.mark.parametrize(
    ("raises", "state", "reason", "out_of_memory"),
    [
        (lambda: ValueError("bad\nbatch"), "failed", "ValueError: bad", 0),
        (lambda: torch.OutOfMemoryError("CUDA out of memory."), "failed", "OutOfMemoryError: CUDA out of memory.", 1),
        (lambda: MemoryError(), "failed", "MemoryError", 1),
        (lambda: KeyboardInterrupt(), "interrupted", "KeyboardInterrupt", 0),
    ],
)
def test_what_ended_the_training_is_said(
    tmp_path: Path, raises: Callable[[], BaseException], state: str, reason: str, out_of_memory: int
) -> None:
    class Failing(Trainer):  # type: ignore[misc]
        def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
            if self.state.global_step == 3:
                raise raises()
            return super().compute_loss(*args, **kwargs)

    trainer = make_trainer(tmp_path, Failing)
    callback = attach(trainer, "r", port=0, gpu=False)
    with pytest.raises(type(raises())):
        trainer.train()
    callback.monitor.close()
    found = list(read(tmp_path / "journal.jsonl"))
    assert (found[-1].state, found[-1].reason) == (state, reason)
    assert len(of(events.OutOfMemory, found)) == out_of_memory
    assert [e.step for e in of(events.LossLogged, found)] == [1, 2, 3]


def test_no_error_of_ours_reaches_the_training(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    trainer = make_trainer(tmp_path, eval_strategy="steps", eval_steps=5, save_strategy="steps", save_steps=5)
    callback = attach(trainer, "r", port=0, gpu=False)

    def boom(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("boom")

    for name in ("emit", "end"):
        setattr(callback.monitor, name, boom)
    for name in ("step_ended", "arrived", "_count_ahead"):
        setattr(callback._steps, name, boom)
    trainer.train()
    assert trainer.state.global_step == 10
    assert callback.monitor.errors["on_step_end"] == 10
    logged = [record for record in caplog.records if "the training goes on" in record.getMessage()]
    assert len(logged) == len(callback.monitor.errors), "each is logged once"


def test_the_callback_alone_reports_what_the_trainer_logs(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, logging_steps=5)
    callback = PrometheusCallback("r", port=0, gpu=False)
    trainer.add_callback(callback)
    trainer.train()
    callback.monitor.close()
    found = list(read(tmp_path / "journal.jsonl"))
    assert [(e.step, e.steps) for e in of(events.LossLogged, found)] == [(5, 5), (10, 5)]
    assert len(of(events.StepEnded, found)) == 10
    assert found[-1].state == "completed"


def test_resuming_counts_the_tokens_of_the_rest(tmp_path: Path) -> None:
    make_trainer(tmp_path, save_strategy="steps", save_steps=3, max_steps=3).train()
    trainer = make_trainer(tmp_path)
    callback = attach(trainer, "resumed", port=0, gpu=False)
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    callback.monitor.close()
    found = list(read(tmp_path / "journal.jsonl"))
    assert of(events.RunStarted, found)[0].step == 3
    steps = of(events.StepEnded, found)
    assert [e.step for e in steps] == list(range(4, 11))
    # 2 epochs of all samples less 3 steps of 8 samples: all samples have their place in an epoch exactly once.
    assert all(e.tokens for e in steps)
    assert sum(e.tokens for e in steps) < 2 * sum(PaddedData().lengths)


def test_a_run_that_failed_and_was_resumed_ends_with_the_same_figures(tmp_path: Path) -> None:
    class Failing(Trainer):  # type: ignore[misc]
        def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
            if self.state.global_step == 8:
                raise RuntimeError("boom")
            return super().compute_loss(*args, **kwargs)

    options = {"save_strategy": "steps", "save_steps": 3, "eval_strategy": "steps", "eval_steps": 3}
    whole, _ = watched(tmp_path / "whole", make_trainer(tmp_path / "whole", **options))
    failing = make_trainer(tmp_path / "r", Failing, **options)
    with pytest.raises(RuntimeError, match="boom"):
        watched(tmp_path / "r", failing)
    failing.callback_handler.callbacks[-1].monitor.close()
    trainer = make_trainer(tmp_path / "r", **options)
    resumed = attach(trainer, "r", port=0, gpu=False)
    trainer.train(resume_from_checkpoint=str(tmp_path / "r" / "checkpoint-6"))
    resumed.monitor.close()

    assert resumed.monitor.errors == {}
    one, other = whole.monitor.state, resumed.monitor.state
    for name in ("step", "epoch", "tokens", "observed_loss_count", "evaluations", "checkpoints", "learning_rate"):
        assert getattr(other, name) == getattr(one, name), name
    assert other.step_duration.count == one.step_duration.count == 10
    assert other.observed_loss_sum == pytest.approx(one.observed_loss_sum, rel=1e-6)
    assert other.signals.smoothed == pytest.approx(one.signals.smoothed, rel=1e-6)


@pytest.mark.parametrize("seconds", [0.0, 3600.0])
def test_an_evaluation_says_that_it_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Batch by batch, but every few seconds only, and not in an evaluation outside of the training."""
    monkeypatch.setattr("training_exporter.sources.huggingface.callback.PROGRESS_SECONDS", seconds)
    trainer = make_trainer(tmp_path, eval_strategy="steps", eval_steps=5, per_device_eval_batch_size=1)
    callback = attach(trainer, "r", port=0, gpu=False)
    trainer.evaluate()
    trainer.train()
    trainer.evaluate()
    callback.monitor.close()
    found = list(read(tmp_path / "journal.jsonl"))
    assert len(of(events.Progressed, found)) == (8 if seconds == 0.0 else 0), "2 evaluations of 4 batches"
    assert isinstance(found[0], events.RunStarted), "an evaluation before the training is none of the run"
    assert [type(event) for event in found[-2:]] == [events.RunEnded, events.Evaluated]


def test_only_the_first_process_speaks(tmp_path: Path) -> None:
    """Two processes under gloo: one journal, and the other process serves nothing."""
    script = Path(__file__).with_name("two_processes.py")
    # `timeout` and not Python's: torchrun ends its workers on a SIGTERM, not on a SIGKILL.
    command = ["timeout", "200", sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*command, script, str(tmp_path)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = list(read(tmp_path / "journal.jsonl"))
    assert len(of(events.RunStarted, found)) == 1
    steps = of(events.StepEnded, found)
    assert [e.step for e in steps] == list(range(1, 7))  # 2 epochs of 40 samples by 2 x 2 x 4, begun ones included
    assert sorted(line for line in done.stdout.splitlines() if line.startswith("rank")) == [
        "rank 0 has a monitor",
        "rank 1 has none",
    ]

"""One fine-tuning, from settings to the saved adapter: Hugging Face Trainer, PEFT LoRA, training_exporter."""

import math
import random
import signal
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
import transformers
from torch.utils.tensorboard import SummaryWriter
from transformers import PrinterCallback, ProgressCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.integrations import TensorBoardCallback

from trading_llm import inject
from trading_llm.batches import Collator
from trading_llm.data import Completions, split
from trading_llm.dataset import EVAL_FILE, TRAIN_FILE, simulated_dataset, write_dataset
from trading_llm.errors import UsageError
from trading_llm.examples import Example, read_examples
from trading_llm.model import add_lora, load_base
from trading_llm.quality.stages import assess_texts
from trading_llm.report import ConsoleReport
from trading_llm.settings import TrainSettings
from trading_llm.texts import use_chat_template
from training_exporter import PortTaken, ProfileError, PrometheusCallback, attach


class Interrupted(KeyboardInterrupt):
    """A signal asked for the end; the checkpoint is saved."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


def train(settings: TrainSettings) -> Path:
    """Run the training and return the directory of the adapter.

    Raises UsageError for input that the user can correct (before anything is trained), Interrupted after SIGINT or
    SIGTERM (a checkpoint is saved), and whatever ends the training itself.
    """
    # Loading a model is over in a moment or draws its own bar; what libraries plan to rename is no news for the user.
    transformers.utils.logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    injection = inject.parse(settings.inject) if settings.inject else None
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    random.seed(settings.seed)
    np.random.seed(settings.seed)
    torch.manual_seed(settings.seed)
    make_directory(settings.output_dir)

    sources = read_sources(settings)
    base, tokenizer = load_base(settings.base_model, settings.quantization)
    use_chat_template(tokenizer, settings.chat_template)
    data, evaluation = (
        Completions(source.examples, tokenizer, settings.max_length, source.name) if source.examples else None
        for source in sources
    )
    print(f"Training data: {sources[0].name}: {data.statistics}")
    if evaluation is not None:
        print(f"Validation data: {sources[1].name}: {evaluation.statistics}")
    if injection is not None and injection.fault.needs_evaluation and evaluation is None:
        raise UsageError(f"--inject: found {injection.fault.sign!r} without validation data; allowed: with --eval-data")
    if injection is not None and injection.fault.prepare is not None:
        injection.fault.prepare((data, evaluation), len(tokenizer))

    writer = SummaryWriter(str(settings.output_dir / "runs"))
    trainer = Trainer(
        model=add_lora(base, settings),
        args=arguments(settings, len(data), evaluation is not None),
        train_dataset=data,
        eval_dataset=evaluation,
        data_collator=Collator(tokenizer.pad_token_id),
        processing_class=tokenizer,
        callbacks=[TensorBoardCallback(writer)],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    try:
        watch = attach(
            trainer,
            run=settings.run_name,
            port=settings.metrics_port,
            host=settings.metrics_host,
            settings=settings.described(),
            profile=settings.profile,
        )
    except ProfileError as error:
        raise UsageError(f"--profile: {error}") from None
    except PortTaken as error:
        raise UsageError(
            f"--metrics-port: found {settings.metrics_port} ({error}); allowed: a port on which this process can listen"
        ) from None
    monitor = watch.monitor
    monitor.add_sink(ConsoleReport(monitor, settings.logging_steps))
    assess_texts(trainer, watch, evaluation and evaluation.items, tokenizer, settings.quality_prompts, writer)
    if injection is not None:
        trainer.add_callback(inject.FaultCallback(injection, trainer, monitor))
    print(f"{describe(trainer, settings, len(data), evaluation)}\nMetrics: {monitor.url}", flush=True)

    try:
        with EndBySignal(trainer, watch):
            trainer.train()
        trainer.save_model(str(settings.output_dir))
        print(f"Adapter saved in {settings.output_dir}", flush=True)
    finally:
        monitor.close()  # the journal is complete, and whoever scrapes has seen how the run ended
    return settings.output_dir


@dataclass(frozen=True)
class Source:
    """Examples and where they came from, as messages name it."""

    name: str
    examples: Sequence[Example]


def read_sources(settings: TrainSettings) -> tuple[Source, Source]:
    """(training, validation); the embedded dataset is written first when no file was named and none is there."""
    training = settings.train_path
    if settings.train_data is None and not training.exists():
        print(f"No training data named: writing the embedded dataset to {training.parent}", flush=True)
        write_dataset(training.parent, *simulated_dataset())
    beside = training.parent / EVAL_FILE
    validation = settings.eval_data
    if validation is None and training.name == TRAIN_FILE and beside.exists():
        validation = beside
    examples = read_examples(training)
    if validation is not None:
        return Source(str(training), examples), Source(str(validation), read_examples(validation))
    kept, held = split(examples, settings.eval_share, settings.seed)
    return Source(str(training), kept), Source(f"{len(held)} records of {training}", held)


def make_directory(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UsageError(f"--output-dir: found {path} ({error.strerror}); allowed: a writable directory") from None


def arguments(settings: TrainSettings, samples: int, evaluate: bool) -> TrainingArguments:
    """The Trainer's arguments. Its own printing and bars are off: `ConsoleReport` prints."""
    batches = math.ceil(samples / settings.batch_size)
    total = math.ceil(settings.num_epochs * math.ceil(batches / settings.gradient_accumulation_steps))
    tenth = max(1, total // 10)
    return TrainingArguments(
        output_dir=str(settings.output_dir),
        num_train_epochs=settings.num_epochs,
        per_device_train_batch_size=settings.batch_size,
        per_device_eval_batch_size=max(16, settings.batch_size),
        gradient_accumulation_steps=settings.gradient_accumulation_steps,
        learning_rate=settings.peak_learning_rate,
        lr_scheduler_type=settings.lr_scheduler,
        warmup_steps=round(settings.warmup_ratio * total),
        max_grad_norm=settings.max_grad_norm,
        logging_steps=settings.logging_steps,
        logging_first_step=True,
        logging_nan_inf_filter=False,  # a NaN loss must be seen, not replaced by an earlier one
        eval_strategy="steps" if evaluate else "no",
        eval_steps=settings.eval_steps or tenth,
        save_strategy="steps",
        save_steps=settings.save_steps or tenth,
        save_total_limit=3,
        prediction_loss_only=True,
        remove_unused_columns=False,
        dataloader_pin_memory=torch.cuda.is_available(),
        bf16=torch.cuda.is_available() and torch.cuda.is_bf16_supported(),
        seed=settings.seed,
        report_to="none",  # TensorBoard's callback is given by hand, with its directory
        disable_tqdm=True,
    )


def describe(trainer: Trainer, settings: TrainSettings, records: int, evaluation: Completions | None) -> str:
    trainable = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
    return (
        f"Fine-tuning {settings.base_model} (quantization {settings.quantization}) with LoRA r={settings.lora_r}, "
        f"{trainable} trainable parameters, on {records} records of {settings.train_path}"
        f"{f' ({len(evaluation)} for validation)' if evaluation is not None else ''}"
    )


class EndBySignal(TrainerCallback):
    """While entered, SIGINT and SIGTERM end the training after the current step, with a checkpoint; twice = at once.

    Raises Interrupted when it is left after a signal.
    """

    def __init__(self, trainer: Trainer, watch: PrometheusCallback) -> None:
        self._watch = watch
        self._signal: int | None = None
        self._before: dict[int, Any] = {}
        trainer.add_callback(self)

    def __enter__(self) -> None:
        self._before = {number: signal.signal(number, self._on_signal) for number in (signal.SIGINT, signal.SIGTERM)}

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._signal is not None and kind is None:
            raise Interrupted(self._signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._signal is not None:
            raise Interrupted(number)
        self._signal = number
        name = signal.Signals(number).name
        print(f"{name}: saving a checkpoint after this step; once more ends at once", file=sys.stderr, flush=True)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        if self._signal is not None:
            self._watch.end_as("interrupted", signal.Signals(self._signal).name)
            control.should_training_stop = control.should_save = True
            control.should_evaluate = False
        return control

"""One fine-tuning, from settings to the saved adapter: Hugging Face Trainer, PEFT LoRA, training_exporter."""

import dataclasses
import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase, PrinterCallback, ProgressCallback

from trading_llm import inject, processes
from trading_llm.arguments import Steps, arguments, steps_of
from trading_llm.attention import use_padding_free
from trading_llm.batches import PaddedCollator, RowCollator
from trading_llm.card import write_card
from trading_llm.checkpoints import finish, is_last, resumed, save_settings
from trading_llm.data import Completions
from trading_llm.ending import EarlyStopping, EndByNaN, EndBySignal, KeepBest
from trading_llm.errors import RunFailed, UsageError
from trading_llm.loss import fuse_loss
from trading_llm.memory import remedies, retry_smaller
from trading_llm.model import add_lora, load_base, quiet
from trading_llm.preflight import bytes_on_disk, check_disk, check_options, make_directory, read_profile
from trading_llm.processes import say
from trading_llm.quality.stages import assess_texts
from trading_llm.report import ConsoleReport
from trading_llm.settings import TrainSettings
from trading_llm.sources import read_sources
from trading_llm.texts import use_chat_template
from trading_llm.tracking import add_trackers
from trading_llm.trainer import CompletionTrainer
from training_exporter import (
    PortTaken,
    Profile,
    PrometheusCallback,
    RunState,
    WebConfigError,
    attach,
    is_out_of_memory,
)


@dataclass
class Prepared:
    """A training that is ready to start."""

    trainer: CompletionTrainer
    tokenizer: PreTrainedTokenizerBase
    steps: Steps
    data: Completions
    evaluation: Completions | None
    padding_free: bool


def train(settings: TrainSettings) -> Path:
    """Run the training and return the directory of the adapter.

    Raises UsageError for input that the user can correct (before anything is trained), Interrupted after SIGINT or
    SIGTERM (a checkpoint is saved), RunFailed where the reason is known, and whatever else ends the training itself.
    """
    quiet()
    injection = inject.parse(settings.inject) if settings.inject else None
    check_options(settings)
    profile = read_profile(settings)
    make_directory(settings.output_dir)
    settings, checkpoint = resumed(settings)
    if checkpoint is not None and is_last(checkpoint):
        finish(settings.output_dir, checkpoint)
        return settings.output_dir
    prepared = prepare(settings, injection)
    trainer = prepared.trainer
    check_disk(settings.output_dir, bytes_on_disk(trainer.model))
    watch = watched(prepared, settings, profile)
    monitor = watch.monitor  # None on all processes of a job but the first
    if prepared.evaluation is not None:
        trainer.add_callback(KeepBest())
        if settings.early_stopping is not None:
            trainer.add_callback(EarlyStopping(settings.early_stopping, watch))
    if injection is not None:
        trainer.add_callback(inject.FaultCallback(injection, trainer, monitor))
    if monitor is not None:
        settings = dataclasses.replace(settings, run_name=monitor.run)
        monitor.add_sink(ConsoleReport(monitor, settings.logging_steps))
        writer = add_trackers(monitor, settings, trainer.args)
        items = prepared.evaluation.items if prepared.evaluation is not None else None
        assess_texts(trainer, watch, items, prepared.tokenizer, settings.quality_prompts, writer)
        if settings.stop_on == "nan":
            end_by_nan = EndByNaN()
            monitor.add_sink(end_by_nan)
            trainer.add_callback(end_by_nan)
        if settings.auto_batch and processes.count() == 1:
            trainer.smaller_batch = retry_smaller(trainer, settings, monitor)
        save_settings(settings)
        print(f"{describe(prepared, settings)}\nMetrics: {monitor.url}", flush=True)

    try:
        with EndBySignal(trainer, watch):
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        trainer.save_model(str(settings.output_dir))
        if monitor is not None:
            save_card(prepared, settings, monitor.state)
            print(f"Adapter saved in {settings.output_dir}", flush=True)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        first_line = str(error).partition("\n")[0]
        raise RunFailed(
            f"out of memory after step {trainer.state.global_step}: {type(error).__name__}: {first_line}\n"
            f"What helps, the mildest first:\n{remedies(settings, prepared.data.statistics.longest_kept)}"
        ) from None
    finally:
        if monitor is not None:
            monitor.close()  # the journal is complete, and whoever scrapes has seen how the run ended
    return settings.output_dir


def save_card(prepared: Prepared, settings: TrainSettings, state: RunState) -> None:
    """The model card; the adapter is the best one where there were evaluations."""
    trainer = prepared.trainer
    best = None
    if trainer.state.best_model_checkpoint is not None and trainer.state.best_metric is not None:
        best = (trainer.state.best_global_step, trainer.state.best_metric)
    validation = prepared.evaluation.statistics if prepared.evaluation is not None else None
    write_card(settings, prepared.data.statistics, validation, state, best)


def prepare(settings: TrainSettings, injection: inject.Injection | None = None) -> Prepared:
    """Data, model and Trainer. Raises UsageError."""
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    random.seed(settings.seed)
    np.random.seed(settings.seed)
    torch.manual_seed(settings.seed)
    sources = read_sources(settings)
    base, tokenizer = load_base(settings.base_model, settings.quantization, settings.precision, settings.attention)
    use_chat_template(tokenizer, settings.chat_template)
    data, evaluation = (
        Completions(source.examples, tokenizer, settings.max_length, source.name) if source.examples else None
        for source in sources
    )
    say(f"Training data: {sources[0].name}: {data.statistics}")
    if evaluation is not None:
        say(f"Validation data: {sources[1].name}: {evaluation.statistics}")
    if injection is not None and injection.fault.needs_evaluation and evaluation is None:
        raise UsageError(f"--inject: found {injection.fault.sign!r} without validation data; allowed: with --eval-data")
    if injection is not None and injection.fault.prepare is not None:
        injection.fault.prepare((data, evaluation), len(tokenizer))
    steps = steps_of(settings, len(data), processes.count())
    padding_free = settings.padding_free and use_padding_free(base)
    if padding_free and not settings.liger:
        fuse_loss(base)
    trainer = CompletionTrainer(
        model=add_lora(base, settings),
        args=arguments(settings, steps, evaluation is not None),
        train_dataset=data,
        eval_dataset=evaluation,
        # Compiled, a step would be compiled anew for each batch's lengths.
        data_collator=RowCollator(base.config._attn_implementation, base.device.type == "cpu" and not settings.compile)
        if padding_free
        else PaddedCollator(tokenizer.pad_token_id),
        processing_class=tokenizer,
    )
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    return Prepared(trainer, tokenizer, steps, data, evaluation, padding_free)


def watched(prepared: Prepared, settings: TrainSettings, profile: Profile) -> PrometheusCallback:
    """Attach the exporter. Raises UsageError."""
    try:
        return attach(
            prepared.trainer,
            run=settings.run_name,
            port=settings.metrics_port,
            host=settings.metrics_host,
            web_config=settings.metrics_web_config,
            settings=settings.described(),
            profile=profile,
        )
    except WebConfigError as error:  # of the environment's, or changed since it was checked
        raise UsageError(f"--metrics-web-config: {error}") from None
    except PortTaken as error:
        raise UsageError(
            f"--metrics-port: found {settings.metrics_port} ({error}); allowed: a port on which this process can listen"
        ) from None


def describe(prepared: Prepared, settings: TrainSettings) -> str:
    trainable = sum(p.numel() for p in prepared.trainer.model.parameters() if p.requires_grad)
    batches = "batches without padding" if prepared.padding_free else "padded batches"
    return (
        f"Fine-tuning {settings.base_model} (quantization {settings.quantization}) with LoRA r={settings.lora_r}, "
        f"{trainable} trainable parameters, {prepared.steps.total} steps of {settings.batch_size} x "
        f"{settings.gradient_accumulation_steps} records, {batches}"
    )

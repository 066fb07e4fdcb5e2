"""From our settings to the Trainer's arguments, and the steps that follow from them."""

import math
from dataclasses import dataclass

import torch
from transformers import TrainingArguments

from trading_llm.model import compute_dtype
from trading_llm.settings import EMBEDDED, TrainSettings

CHECKPOINTS_KEPT = 3
PARTS = 10  # evaluations and checkpoints in a run, where nobody says when


@dataclass(frozen=True)
class Steps:
    """Optimizer steps of a run: all of them, of the warm-up, and between two evaluations and two checkpoints."""

    total: int
    per_epoch: int
    warmup: int
    evaluation: int
    checkpoint: int


def steps_of(settings: TrainSettings, examples: int, processes: int = 1) -> Steps:
    """The steps of a run on so many training examples and processes."""
    batches = math.ceil(math.ceil(examples / processes) / settings.batch_size)
    per_epoch = math.ceil(batches / settings.gradient_accumulation_steps)
    total = math.ceil(settings.num_epochs * per_epoch)
    part = max(1, math.ceil(total / PARTS))
    return Steps(
        total, per_epoch, round(settings.warmup_ratio * total), settings.eval_steps or part, settings.save_steps or part
    )


def gradient_checkpointing(settings: TrainSettings) -> bool:
    if settings.gradient_checkpointing is not None:
        return settings.gradient_checkpointing
    return torch.cuda.is_available() and settings.base_model != EMBEDDED


def optimizer(settings: TrainSettings) -> str:
    if settings.optimizer is not None:
        return settings.optimizer
    quantized = settings.quantization != "none" and torch.cuda.is_available()
    return "paged_adamw_8bit" if quantized else "adamw_torch_fused"


def arguments(settings: TrainSettings, steps: Steps, evaluate: bool) -> TrainingArguments:
    """The Trainer's arguments. Its own printing, bars and reports are off: they are made from events here."""
    dtype = compute_dtype(settings.precision)
    made = TrainingArguments(
        output_dir=str(settings.output_dir),
        num_train_epochs=settings.num_epochs,
        per_device_train_batch_size=settings.batch_size,
        per_device_eval_batch_size=max(16, settings.batch_size),
        gradient_accumulation_steps=settings.gradient_accumulation_steps,
        learning_rate=settings.peak_learning_rate,
        lr_scheduler_type=settings.lr_scheduler,
        warmup_steps=steps.warmup,
        max_grad_norm=settings.max_grad_norm,
        optim=optimizer(settings),
        bf16=dtype == torch.bfloat16,
        fp16=dtype == torch.float16,
        gradient_checkpointing=gradient_checkpointing(settings),
        gradient_checkpointing_kwargs={"use_reentrant": False},
        use_liger_kernel=settings.liger,
        torch_compile=settings.compile,
        logging_steps=settings.logging_steps,
        logging_first_step=True,
        logging_nan_inf_filter=False,  # a NaN loss must be seen, not replaced by an earlier one
        eval_strategy="steps" if evaluate else "no",
        eval_steps=steps.evaluation,
        save_strategy="steps",
        save_steps=steps.checkpoint,
        save_total_limit=CHECKPOINTS_KEPT,
        metric_for_best_model="loss" if evaluate else None,
        greater_is_better=False,
        prediction_loss_only=True,
        remove_unused_columns=False,
        dataloader_pin_memory=torch.cuda.is_available(),
        ddp_find_unused_parameters=False,
        # Said, because without it processes on CPUs do not find each other.
        use_cpu=not torch.accelerator.is_available(),
        seed=settings.seed,
        report_to="none",
        disable_tqdm=True,
    )
    # Not by its argument, which wants evaluations to be at checkpoints: here `KeepBest` saves one where it is needed.
    made.load_best_model_at_end = evaluate
    if made.n_gpu > 1:
        # Several GPUs in one process would be DataParallel, which splits a batch by rows; torchrun is the way.
        made._n_gpu = 1
    return made

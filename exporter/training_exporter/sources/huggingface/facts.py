"""What a Trainer, its arguments and its errors say."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import torch
from transformers import TrainerState, TrainingArguments

from training_exporter import events


def run_started(
    run: str, settings: Mapping[str, str], args: TrainingArguments, state: TrainerState, kwargs: Mapping[str, Any]
) -> events.RunStarted:
    model = kwargs.get("model")
    config = getattr(model, "config", None)
    vocabulary = getattr(config, "vocab_size", None)
    scheduler = str(getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type))
    # What the Trainer itself knows; what the caller says goes first.
    known = {
        "base_model": str(getattr(config, "_name_or_path", "") or getattr(config, "model_type", "")),
        "batch_size": str(args.per_device_train_batch_size),
        "gradient_accumulation_steps": str(args.gradient_accumulation_steps),
        "learning_rate": f"{args.learning_rate:g}",
        "lr_scheduler": scheduler,
        "num_epochs": f"{state.num_train_epochs:g}",
    }
    if args.device.type == "cuda":
        known["gpu"] = torch.cuda.get_device_name(args.device)
        known["world_size"] = str(args.world_size * max(1, args.n_gpu))  # n_gpu > 1: one process with DataParallel
    return events.RunStarted(
        time=time.time(),
        run=run,
        max_steps=state.max_steps if state.max_steps > 0 else None,
        num_epochs=float(state.num_train_epochs),
        step=state.global_step,
        peak_learning_rate=float(args.learning_rate),
        lr_scheduler=scheduler,
        warmup_steps=int(args.get_warmup_steps(state.max_steps)),
        vocabulary_size=vocabulary if isinstance(vocabulary, int) else None,
        settings={**known, **settings},
    )


def is_out_of_memory(error: BaseException) -> bool:
    """True for an allocation that failed, on a device or in host memory."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate memory" in text)


def number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) else None

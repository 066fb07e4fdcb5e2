"""When memory is out: what to do about it, said with this run's own settings, or done by itself."""

import dataclasses
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from trading_llm.arguments import gradient_checkpointing
from trading_llm.checkpoints import checkpoints, save_settings
from trading_llm.settings import TrainSettings
from trading_llm.trainer import CompletionTrainer
from training_exporter.events import OutOfMemory

if TYPE_CHECKING:
    from training_exporter import Monitor


def halved(settings: TrainSettings) -> TrainSettings | None:
    """The same records per optimizer step in smaller batches: half of them or fewer; None for a batch of one."""
    records = settings.batch_size * settings.gradient_accumulation_steps
    for size in range(settings.batch_size // 2, 0, -1):
        if records % size == 0:
            return dataclasses.replace(settings, batch_size=size, gradient_accumulation_steps=records // size)
    return None


def remedies(settings: TrainSettings, longest: int) -> str:
    """What can be done, the mildest first, one line each with the exact options. `longest`: tokens of a record."""
    lines = []
    if smaller := halved(settings):
        lines.append(
            f"--batch-size {smaller.batch_size} --gradient-accumulation-steps {smaller.gradient_accumulation_steps}"
            "   smaller batches, more of them per step: the same training (--auto-batch does it by itself)"
        )
    if not gradient_checkpointing(settings):
        lines.append(
            "--gradient-checkpointing   activations are computed again instead of kept: slower by about a fifth"
        )
    if settings.quantization != "4bit":
        stronger = "8bit" if settings.quantization == "none" else "4bit"
        lines.append(f"--quantization {stronger}   the base model's weights in {stronger[0]} bits")
    if longest > 64:
        lines.append(f"--max-length {longest // 2}   the longest record has {longest} tokens; longer ones are then cut")
    return "\n".join(f"  {line}" for line in lines)


def retry_smaller(
    trainer: CompletionTrainer, settings: TrainSettings, monitor: "Monitor"
) -> Callable[[str], str | None]:
    """For `CompletionTrainer.smaller_batch`: half the batch, twice the accumulation, from the newest checkpoint."""
    began, current = time.time(), settings

    def smaller(message: str) -> str | None:
        nonlocal current
        following = halved(current)
        if following is None:
            return None
        step = trainer.state.global_step
        monitor.emit(OutOfMemory(time=time.time(), step=step, message=message[:500]))
        current = following
        trainer.args.per_device_train_batch_size = current.batch_size
        trainer.args.gradient_accumulation_steps = current.gradient_accumulation_steps
        save_settings(current)
        made = [path for path in checkpoints(settings.output_dir) if path.stat().st_mtime > began]
        origin = made[-1].name if made else "the beginning"
        print(
            f"Out of memory after step {step} ({message}): going on from {origin} with "
            f"--batch-size {current.batch_size} --gradient-accumulation-steps {current.gradient_accumulation_steps}",
            flush=True,
        )
        return str(made[-1]) if made else ""

    return smaller

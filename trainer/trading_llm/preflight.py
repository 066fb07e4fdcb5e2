"""What would end a run hours later is looked for before its first step: a directory or a disk that cannot take it."""

import os
import shutil
from pathlib import Path

from torch import nn

from trading_llm.arguments import CHECKPOINTS_KEPT
from trading_llm.errors import UsageError

PROBE_BYTES = 2**20
BYTES_PER_PARAMETER = 12
"""Of a trainable parameter in a checkpoint: its value and AdamW's two moments, 32 bits each."""
SPARE_BYTES = 64 * 2**20
"""Tokenizer, journal, TensorBoard, samples."""


def make_directory(path: Path) -> None:
    """Make the output directory and write to it, for real. Raises UsageError."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / f".writable-{os.getpid()}"
        try:
            with probe.open("wb") as file:
                file.write(bytes(PROBE_BYTES))
                file.flush()
                os.fsync(file.fileno())
        finally:
            probe.unlink(missing_ok=True)
    except OSError as error:
        raise UsageError(f"--output-dir: found {path} ({error.strerror}); allowed: a writable directory") from None


def bytes_on_disk(model: nn.Module) -> int:
    """What a run leaves at most: the kept checkpoints, one that is being written, and the adapter."""
    trainable = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    return (CHECKPOINTS_KEPT + 2) * trainable * BYTES_PER_PARAMETER + SPARE_BYTES


def check_disk(path: Path, needed: int) -> None:
    """Raises UsageError where the disk of `path` has fewer than `needed` bytes left."""
    free = shutil.disk_usage(path).free
    if free < needed:
        raise UsageError(
            f"--output-dir: found {free / 1e6:.0f} MB free on the disk of {path}; allowed: at least "
            f"{needed / 1e6:.0f} MB, for {CHECKPOINTS_KEPT} checkpoints, one that is being written, and the adapter"
        )

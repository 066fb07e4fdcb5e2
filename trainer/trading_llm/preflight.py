"""What would end a run later is looked for before its first step: a directory or a disk that cannot take it, an option
that needs what is not here."""

import os
import shutil
from pathlib import Path

import torch
from torch import nn
from transformers.utils import is_flash_attn_2_available, is_liger_kernel_available

from trading_llm.arguments import CHECKPOINTS_KEPT
from trading_llm.errors import UsageError
from trading_llm.settings import TrainSettings
from training_exporter import Profile, ProfileError, WebConfigError, load_profile, load_web_config

PROBE_BYTES = 2**20
BYTES_PER_PARAMETER = 12
"""Of a trainable parameter in a checkpoint: its value and AdamW's two moments, 32 bits each."""
SPARE_BYTES = 64 * 2**20
"""Tokenizer, journal, TensorBoard, samples."""


def read_profile(settings: TrainSettings) -> Profile:
    """What the run is expected to look like. Raises UsageError."""
    try:
        return load_profile(settings.profile)
    except ProfileError as error:
        raise UsageError(f"--profile: {error}") from None


def check_options(settings: TrainSettings) -> None:
    """Raises UsageError for an option that needs a GPU, a library, a compiler or a file that is not here."""
    if settings.metrics_web_config is not None:
        try:
            load_web_config(settings.metrics_web_config)
        except WebConfigError as error:
            raise UsageError(f"--metrics-web-config: {error}") from None
    cuda = torch.cuda.is_available()
    if settings.attention == "flash_attention_2" and not (cuda and is_flash_attn_2_available()):
        lacking = "the library flash-attn" if cuda else "a GPU"
        raise UsageError(f"--attention: found flash_attention_2 without {lacking}; allowed here: auto, sdpa")
    if settings.liger and not (cuda and is_liger_kernel_available()):
        lacking = "the library liger-kernel" if cuda else "a GPU"
        raise UsageError(f"--liger: found without {lacking}; allowed: with a GPU, after `pip install liger-kernel`")
    compiler = os.environ.get("CXX", "g++")
    if settings.compile and not cuda and shutil.which(compiler) is None:
        raise UsageError(f"--compile: found no C++ compiler {compiler!r} on PATH; allowed: with one, or CXX=...")


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

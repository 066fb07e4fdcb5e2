"""What a run leaves to go on from: complete checkpoints, and the settings that it was started with."""

import dataclasses
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import yaml

from trading_llm.errors import UsageError
from trading_llm.processes import first, say
from trading_llm.settings import LAST, TrainSettings
from trading_llm.untrusted import check_checkpoint

SETTINGS_FILE = "settings.yaml"

ADAPTER_FILES = (
    "adapter_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja",
    "adapter_model.safetensors",
)  # fmt: skip
"""Of a checkpoint, what an adapter needs; the weights last, so that they are there when all is."""

MUST_BE_THE_SAME = (
    "base_model", "train_data", "eval_data", "eval_share", "chat_template", "num_epochs", "batch_size",
    "gradient_accumulation_steps", "learning_rate", "lr_scheduler", "warmup_ratio", "lora_r", "lora_alpha",
    "lora_dropout", "quantization", "max_length", "optimizer", "seed",
)  # fmt: skip
"""Settings without which a resumed run is another run: its data, its steps, its schedule, its weights."""


def checkpoints(output_dir: Path) -> list[Path]:
    """Complete checkpoints, oldest first. `trainer_state.json` is the last file that the Trainer writes of one."""
    found = []
    for path in output_dir.glob("checkpoint-*"):
        if re.fullmatch(r"checkpoint-\d+", path.name) and _state(path) is not None:
            found.append(path)
    return sorted(found, key=lambda path: int(path.name.rpartition("-")[2]))


def _state(checkpoint: Path) -> dict[str, Any] | None:
    try:
        state = json.loads((checkpoint / "trainer_state.json").read_text())
    except (OSError, ValueError):
        return None
    return state if isinstance(state, dict) and isinstance(state.get("global_step"), int) else None


def resumed(settings: TrainSettings) -> tuple[TrainSettings, Path | None]:
    """(settings with the name of the run that goes on, checkpoint or None for the beginning).

    Raises UsageError for a checkpoint that is none, and for settings that are not those of the run.
    """
    if settings.resume is None:
        return settings, None
    if settings.resume == LAST:
        found = checkpoints(settings.output_dir)
        if not found:
            say(f"--resume: no checkpoint in {settings.output_dir}: starting from the beginning")
            return settings, None
        checkpoint = found[-1]
    else:
        checkpoint = Path(settings.resume)
        if _state(checkpoint) is None:
            raise UsageError(f"--resume: found {checkpoint}; allowed: a directory of a complete checkpoint, or nothing "
                             "for the newest one in --output-dir")  # fmt: skip
    check_checkpoint(checkpoint)
    before = saved_settings(checkpoint.parent)
    now = _plain(settings)
    for name in MUST_BE_THE_SAME if before else ():
        if before.get(name) != now[name]:
            raise UsageError(
                f"--{name.replace('_', '-')}: found {now[name]}, but the run of {checkpoint} was started with "
                f"{before.get(name)}; allowed: the same settings, as in --config {checkpoint.parent / SETTINGS_FILE}"
            )
    name = settings.run_name or before.get("run_name")
    return dataclasses.replace(settings, run_name=name), checkpoint


def is_last(checkpoint: Path) -> bool:
    """Whether the checkpoint was made after the last step of its run."""
    state = _state(checkpoint) or {}
    return 0 < state.get("max_steps", 0) <= state["global_step"]


def finish(output_dir: Path, checkpoint: Path) -> None:
    """Nothing is left to train after `checkpoint`: say so, and touch nothing but what the end of the run left undone.

    A run that was killed between its last checkpoint and its end has no adapter yet: it is the best checkpoint's.
    """
    state = _state(checkpoint) or {}
    say(f"--resume: the run of {checkpoint} is complete ({state['global_step']} of {state['max_steps']} steps)")
    adapter = output_dir / ADAPTER_FILES[-1]
    if adapter.exists() or not first():
        return
    best = checkpoint.parent / Path(state.get("best_model_checkpoint") or checkpoint).name
    source = best if (best / adapter.name).exists() else checkpoint
    for name in ADAPTER_FILES:
        if (source / name).exists():
            part = output_dir / f"{name}.part"
            shutil.copyfile(source / name, part)
            os.replace(part, output_dir / name)
    say(f"Adapter of {source.name} saved in {output_dir}")


def save_settings(settings: TrainSettings) -> None:
    """Write `settings.yaml`, which `--config` reads. In one piece: a crash leaves the old file or the new one."""
    path = settings.output_dir / SETTINGS_FILE
    written = path.with_suffix(".tmp")
    saved = {name: value for name, value in _plain(settings).items() if name not in {"resume", "inject"}}
    written.write_text(yaml.safe_dump(saved, sort_keys=False), encoding="utf-8")
    os.replace(written, path)


def saved_settings(output_dir: Path) -> dict[str, Any]:
    """What `save_settings` wrote there; empty where it did not."""
    try:
        saved = yaml.safe_load((output_dir / SETTINGS_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return saved if isinstance(saved, dict) else {}


def _plain(settings: TrainSettings) -> dict[str, Any]:
    values = dataclasses.asdict(settings)
    return {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}

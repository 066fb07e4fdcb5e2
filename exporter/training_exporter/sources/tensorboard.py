"""Events from TensorBoard event files, with the tags that Hugging Face's `TensorBoardCallback` writes."""

from __future__ import annotations

from pathlib import Path

from training_exporter.sources.log_history import Entry, Header, RecordError


def is_event_file(name: str) -> bool:
    """Whether a file of this name is one of TensorBoard's."""
    return "tfevents" in name


def read(path: Path, run: str) -> tuple[Header, list[Entry]]:
    raise RecordError(f"{path}: TODO")

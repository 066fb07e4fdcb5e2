"""Trainings of the embedded model, shared by the tests."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}

Run = Callable[..., tuple[int, Path, str]]
"""Trains in this process; returns (exit code, output directory, stdout and stderr)."""


def options(data: Path, output: Path, *more: str) -> list[str]:
    fixed = {
        "train-data": data, "output-dir": output, "batch-size": 4, "threads": 1, "metrics-port": 0,
        "logging-steps": 4, "eval-steps": 8, "save-steps": 8, "num-epochs": 1, "quality-prompts": 0,
    }  # fmt: skip
    return ["train", *(text for key, value in fixed.items() for text in (f"--{key}", str(value))), *more]


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "trading_llm.train_llm", *arguments]


def journal(output: Path, event: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (output / "journal.jsonl").read_text().splitlines()]
    return [line for line in lines if line["event"] == event]

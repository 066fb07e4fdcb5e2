"""The model card beside an adapter: what it was made of and with, and how well it did."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from trading_llm.data import TokenStatistics
from trading_llm.settings import EMBEDDED, TrainSettings

if TYPE_CHECKING:
    from training_exporter import RunState

CARD_FILE = "README.md"


def write_card(
    settings: TrainSettings,
    data: TokenStatistics,
    validation: TokenStatistics | None,
    state: "RunState",
    best: tuple[int, float] | None,
) -> Path:
    """Write `README.md` into the output directory. `best` is (step, validation loss) of the saved adapter."""
    path = settings.output_dir / CARD_FILE
    path.write_text(card(settings, data, validation, state, best), encoding="utf-8")
    return path


def card(
    settings: TrainSettings,
    data: TokenStatistics,
    validation: TokenStatistics | None,
    state: "RunState",
    best: tuple[int, float] | None,
) -> str:
    """The card in the Hub's form: YAML for machines, then text."""
    front = ["library_name: peft", "pipeline_tag: text-generation", "tags: [lora, trading]"]
    if settings.base_model != EMBEDDED:
        front.insert(0, f"base_model: {json.dumps(settings.base_model)}")
    results = [
        ("Steps", f"{state.step} of {state.max_steps}"),
        ("Tokens", f"{state.tokens}"),
        ("Training loss at the end", _number(state.loss)),
        ("Validation loss at the end", _number(state.validation_loss)),
    ]
    if best is not None:
        results.append(("The adapter is of", f"step {best[0]}, best validation loss {best[1]:.4f}"))
    rows = {
        **{name.replace("_", " ").capitalize(): value for name, value in settings.described().items() if value},
        "Batch size": f"{settings.batch_size} x {settings.gradient_accumulation_steps}",
        "LoRA alpha, dropout": f"{settings.lora_alpha}, {settings.lora_dropout:g}",
        "Longest record": f"{settings.max_length} tokens",
        "Seed": str(settings.seed),
    }
    return f"""---
{chr(10).join(front)}
---

# {state.run or settings.output_dir.name}

A LoRA adapter that explains trading decisions, made by `trading-llm train`. A research model: no financial advice.

## Data

- Training: `{settings.train_path}`: {data}
- Validation: {validation or "none"}

The loss covers completions only.

## Settings

{_table(list(rows.items()))}

`settings.yaml` has all of them.

## Results

{_table(results)}

## Use

    trading-llm infer --adapter {settings.output_dir} --prompt "..."
    trading-llm merge --adapter {settings.output_dir} --output-dir merged
"""


def _table(rows: list[tuple[str, str]]) -> str:
    return "\n".join(["| | |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in rows)])


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.4f}"

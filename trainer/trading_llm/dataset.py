"""The trading dataset: records of market state, action and explanation, as JSON files.

A file is a JSON array of records::

    {"symbol": "KORA", "timestamp": "2023-05-04T00:00:00Z",
     "market_state": {"close": 48.17, "rsi_14": 71.3, ...},
     "action": "BUY" | "SELL" | "HOLD",
     "explanation": "RSI at 71.3 is ..."}

`market_state` may hold any named figures; `prompt_and_completion` is the only place that turns a record into text,
`examples.read_examples` the one that reads such files.
"""

import json
import math
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from trading_llm.errors import UsageError
from trading_llm.explain import explain, figure
from trading_llm.market import WARM_UP, market_states, simulate

ACTIONS = ("BUY", "SELL", "HOLD")
DEFAULT_DIRECTORY = Path("data/trading_dataset")
TRAIN_FILE, EVAL_FILE = "train_data.json", "eval_data.json"
DEFAULT_TRAIN_RECORDS, DEFAULT_EVAL_RECORDS, DEFAULT_SEED = 1000, 80, 7


@dataclass(frozen=True)
class Record:
    """One decision: what the market looked like, what was done, and why."""

    symbol: str
    timestamp: str
    market_state: dict[str, float]
    action: str
    explanation: str


def prompt_and_completion(record: Record) -> tuple[str, str]:
    """The text the model reads and the text it learns to write (the loss covers the completion only).

    Reasons first, the action last: what is to be decided by the evidence is decided after the evidence is written.
    """
    state = "\n".join(f"{name}: {figure(value)}" for name, value in record.market_state.items())
    return f"symbol: {record.symbol}\n{state}\nexplanation:", f" {record.explanation}\naction: {record.action}"


def simulated_records(count: int, rng: np.random.Generator, symbols: list[str], start: str) -> list[Record]:
    """`count` records from simulated series, one per symbol, taken at bars at least three days apart."""
    per_symbol = math.ceil(count / len(symbols))
    records: list[Record] = []
    for symbol in symbols:
        bars = simulate(WARM_UP + 3 * per_symbol, rng, start)
        records += records_of(symbol, bars, rng, per_symbol)
    return [records[i] for i in rng.permutation(len(records))[:count]]


def records_of(symbol: str, bars: pd.DataFrame, rng: np.random.Generator, count: int | None = None) -> list[Record]:
    """Records for the bars of one instrument after the warm-up; `count` of them, evenly spread, in time order.

    Bars for which an indicator has no value (a series that does not move) are left out.
    """
    states = market_states(bars)
    usable = [i for i, state in enumerate(states) if all(math.isfinite(value) for value in state.values())]
    if count is not None and count < len(usable):
        usable = [usable[i] for i in np.linspace(0, len(usable) - 1, count).round().astype(int)]
    records = []
    for i in usable:
        action, explanation = explain(symbol, states[i], rng)
        timestamp = pd.Timestamp(bars["timestamp"].iloc[WARM_UP + i]).strftime("%Y-%m-%dT%H:%M:%SZ")
        records.append(Record(symbol, timestamp, states[i], action, explanation))
    return records


def invent_symbols(count: int, rng: np.random.Generator) -> list[str]:
    """`count` different four-letter tickers (consonant, vowel, consonant, vowel), none of a real company by intent."""
    found: dict[str, None] = {}
    while len(found) < count:
        found["".join(rng.choice(list(letters)) for letters in ("BCDFGKLMNPRSTVZ", "AEIOU") * 2)] = None
    return list(found)


def simulated_dataset(
    train: int = DEFAULT_TRAIN_RECORDS, evaluation: int = DEFAULT_EVAL_RECORDS, seed: int = DEFAULT_SEED
) -> tuple[list[Record], list[Record]]:
    """(training, evaluation) records. The evaluation set is out of sample: other instruments, a later period."""
    rng = np.random.default_rng(seed)
    symbols = invent_symbols(50, rng)
    return (
        simulated_records(train, rng, symbols[:40], "2021-01-04"),
        simulated_records(evaluation, rng, symbols[40:], "2024-01-02"),
    )


def dataset_from_bars(
    symbol: str, bars: pd.DataFrame, seed: int, eval_share: float
) -> tuple[list[Record], list[Record]]:
    """(training, evaluation) records from the user's bars; the last `eval_share` of the period is for evaluation."""
    records = records_of(symbol, bars, np.random.default_rng(seed))
    cut = len(records) - max(1, round(len(records) * eval_share))
    if cut < 1:
        raise UsageError(
            f"not enough usable bars for a dataset: found {len(bars)}, of which {len(records)} give a record; "
            f"allowed: at least {WARM_UP + 2} bars with moving prices"
        )
    return records[:cut], records[cut:]


def write_dataset(directory: Path, train: list[Record], evaluation: list[Record]) -> tuple[Path, Path]:
    """Write both files and return their paths. Directories are created; existing files are replaced."""
    paths = directory / TRAIN_FILE, directory / EVAL_FILE
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for path, records in zip(paths, (train, evaluation), strict=True):
            # In one piece: the processes of a distributed job all find no dataset, and all write this one.
            part = path.with_name(f"{path.name}.{os.getpid()}")
            part.write_text(json.dumps([asdict(record) for record in records], indent=1) + "\n", encoding="utf-8")
            os.replace(part, path)
    except OSError as error:
        raise UsageError(f"cannot write {error.filename or directory}: {error.strerror}") from None
    return paths

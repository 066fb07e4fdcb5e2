"""The dataset generator: determinism, truth of the explanations, and the user's own bars."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trading_llm.dataset import (
    ACTIONS,
    Record,
    prompt_and_completion,
    simulated_dataset,
    write_dataset,
)
from trading_llm.errors import UsageError
from trading_llm.examples import read_examples
from trading_llm.explain import decide, explain, read, sentences
from trading_llm.market import market_states, simulate
from trading_llm.ohlcv import read_ohlcv


@pytest.fixture(scope="module")
def records() -> list[Record]:
    return simulated_dataset(400, 40)[0]


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "trading_llm.train_llm", *arguments], capture_output=True, text=True, timeout=120
    )


def test_same_seed_same_dataset_and_another_seed_another_one(records: list[Record]) -> None:
    assert simulated_dataset(400, 40)[0] == records
    assert simulated_dataset(400, 40, seed=8)[0] != records


def test_evaluation_is_out_of_sample() -> None:
    training, evaluation = simulated_dataset(200, 40)
    assert not {r.symbol for r in training} & {r.symbol for r in evaluation}
    assert len(training) == 200
    assert len(evaluation) == 40


def test_all_actions_occur_and_explanations_differ(records: list[Record]) -> None:
    assert {record.action for record in records} == set(ACTIONS)
    assert len({record.explanation for record in records}) > 0.99 * len(records)


CLAIMS = {  # words in an explanation -> what must hold in the state beside it
    "oversold territory": lambda s: s["rsi_14"] < 30,
    "an oversold": lambda s: s["rsi_14"] < 30,
    "overbought territory": lambda s: s["rsi_14"] >= 70,
    "an overbought": lambda s: s["rsi_14"] >= 70,
    "of overbought": lambda s: 55 <= s["rsi_14"] < 70,
    "above its signal line": lambda s: s["macd_histogram"] > 0,
    "below its signal line": lambda s: s["macd_histogram"] < 0,
    "buyers lead": lambda s: s["macd_histogram"] > 0,
    "sellers lead": lambda s: s["macd_histogram"] < 0,
    "above the upper Bollinger": lambda s: s["bollinger_percent_b"] >= 1,
    "below the lower Bollinger": lambda s: s["bollinger_percent_b"] < 0,
    "inside the Bollinger": lambda s: 0.2 <= s["bollinger_percent_b"] < 0.8,
    "uptrend": lambda s: s["close"] > max(s["sma_20"], s["ema_50"]),
    "downtrend": lambda s: s["close"] < min(s["sma_20"], s["ema_50"]),
    "favour the bears": lambda s: s["close"] < min(s["sma_20"], s["ema_50"]),
    "eavy volume": lambda s: s["volume_ratio"] >= 1.5,
    "olume is thin": lambda s: s["volume_ratio"] < 0.7,
    "ATR is calm": lambda s: s["atr_percent"] < 1.5,
    "ATR is wild": lambda s: s["atr_percent"] >= 3,
}


def test_explanations_are_true_of_the_indicators() -> None:
    seen = set()
    for record in simulated_dataset(2000, 1)[0]:
        for words, holds in CLAIMS.items():
            if words in record.explanation:
                seen.add(words)
                assert holds(record.market_state), (words, record)
    assert seen == set(CLAIMS)


def test_every_figure_in_an_explanation_is_in_the_prompt(records: list[Record]) -> None:
    constants = {"14", "20", "50"}  # of "14-day RSI", "SMA 20", "EMA 50"
    for record in records:
        prompt, completion = prompt_and_completion(record)
        known = set(re.findall(r"-?\d+(?:\.\d+)?", prompt.replace("_", " "))) | constants
        said = re.findall(r"(?<![\w.])-?\d+(?:\.\d+)?", completion.replace("20-day", "").replace("14-day", ""))
        assert {figure for figure in said if figure not in known and figure.lstrip("-") != "50"} == set(), record


def test_no_template_leftovers(records: list[Record]) -> None:
    assert sentences()
    assert not [r for r in records if re.search(r"[{}|$]|\(\s*\)|  ", r.explanation)]


@settings(deadline=None, max_examples=200)
@given(
    st.fixed_dictionaries(
        {
            "close": st.floats(0.01, 1e6),
            "sma_20": st.floats(0.01, 1e6),
            "sma_20_distance_percent": st.floats(-100, 1e4),
            "ema_50": st.floats(0.01, 1e6),
            "ema_50_distance_percent": st.floats(-100, 1e4),
            "rsi_14": st.floats(0, 100),
            "macd": st.floats(-1e4, 1e4),
            "macd_histogram": st.floats(-1e4, 1e4),
            "bollinger_percent_b": st.floats(-2, 3),
            "atr_percent": st.floats(0, 50),
            "volume_ratio": st.floats(0, 100),
        }
    )
)
def test_any_state_has_an_explanation_and_thin_volume_vetoes(state: dict[str, float]) -> None:
    action, explanation = explain("XYZ", state, np.random.default_rng(0))
    assert explanation.endswith(".")
    assert action == decide(read(state))
    if state["volume_ratio"] < 0.7:
        assert action == "HOLD"


def test_indicators_against_their_definitions() -> None:
    bars = simulate(200, np.random.default_rng(3))
    last = market_states(bars)[-1]
    close = bars["close"]
    assert last["sma_20"] == pytest.approx(close.iloc[-20:].mean(), abs=0.006)
    assert last["sma_20_distance_percent"] == pytest.approx(
        100 * (close.iloc[-1] / close.iloc[-20:].mean() - 1), abs=0.006
    )
    band = close.iloc[-20:].std(ddof=0)
    expected = (close.iloc[-1] - (close.iloc[-20:].mean() - 2 * band)) / (4 * band)
    assert last["bollinger_percent_b"] == pytest.approx(expected, abs=0.03)
    assert last["volume_ratio"] == pytest.approx(bars["volume"].iloc[-1] / bars["volume"].iloc[-20:].mean(), abs=0.006)
    assert 0 <= last["rsi_14"] <= 100


def test_bars_are_possible() -> None:
    bars = simulate(500, np.random.default_rng(1))
    assert (bars["low"] <= bars[["open", "close"]].min(axis=1)).all()
    assert (bars["high"] >= bars[["open", "close"]].max(axis=1)).all()
    assert (bars["volume"] > 0).all()
    assert bars["timestamp"].is_monotonic_increasing


def test_dataset_survives_the_file(tmp_path: Path, records: list[Record]) -> None:
    training, evaluation = write_dataset(tmp_path / "new" / "place", records, records[:5])
    assert read_examples(training) == records
    assert read_examples(evaluation) == records[:5]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "line 1"),
        ("[]", "at least one record"),
        ('{"a": 1}', "JSON array"),
        ("[1]", "record 1: record: found 1"),
        ('[{"symbol": "A"}]', "record 1: timestamp: found 'nothing'"),
        ('[{"symbol": "A", "timestamp": "t", "explanation": "e", "action": "KEEP"}]', "allowed: BUY, SELL, HOLD"),
        (
            '[{"symbol": "A", "timestamp": "t", "explanation": "e", "action": "BUY", "market_state": {"rsi": NaN}}]',
            "market_state.rsi: found NaN; allowed: a finite number",
        ),
    ],
)
def test_wrong_records_are_named(tmp_path: Path, content: str, words: str) -> None:
    path = tmp_path / "train.json"
    path.write_text(content)
    with pytest.raises(UsageError, match=re.escape(words)) as caught:
        read_examples(path)
    assert str(path) in str(caught.value)


# -- the user's bars ---------------------------------------------------------------------------------------------


def bars_file(path: Path, change: dict[tuple[int, str], object] | None = None, drop: str = "") -> Path:
    bars = simulate(150, np.random.default_rng(5)).astype(object)
    for (row, column), value in (change or {}).items():
        bars.loc[row, column] = value
    bars.drop(columns=[drop] if drop else []).to_csv(path, index=False)
    return path


def test_own_bars_become_a_dataset(tmp_path: Path) -> None:
    source = bars_file(tmp_path / "acme.csv")
    parquet = tmp_path / "acme.parquet"
    pd.read_csv(source).rename(columns={"timestamp": "Date", "close": "Close"}).to_parquet(parquet)
    for file in (source, parquet):
        done = command("generate", "--ohlcv", str(file), "--output-dir", str(tmp_path / file.suffix))
        assert done.returncode == 0, done.stderr
    training, evaluation = (read_examples(tmp_path / ".csv" / name) for name in ("train_data.json", "eval_data.json"))
    assert read_examples(tmp_path / ".parquet" / "train_data.json") == training
    assert {record.symbol for record in training} == {"ACME"}
    assert max(record.timestamp for record in training) < min(record.timestamp for record in evaluation)
    assert json.loads((tmp_path / ".csv" / "train_data.json").read_text())[0]["market_state"]["rsi_14"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({(6, "close"): "n/k"}, "row 7, column close: found n/k; allowed: a number above 0"),
        ({(6, "low"): -1.0}, "row 7, column low: found -1.0"),
        ({(6, "high"): 0.5}, "row 7, column high: found 0.5; allowed: at least open, low and close"),
        ({(6, "volume"): float("nan")}, "row 7, column volume: found nan"),
        ({(6, "close"): float("inf")}, "row 7, column close: found inf"),
        ({(6, "timestamp"): "soon"}, "row 7, column timestamp: found soon"),
        ({(6, "timestamp"): "2021-01-04 00:00:00+00:00"}, "row 7, column timestamp"),
    ],
)
def test_wrong_cells_are_named(tmp_path: Path, change: dict[tuple[int, str], object], words: str) -> None:
    path = bars_file(tmp_path / "acme.csv", change)
    with pytest.raises(UsageError, match=re.escape(words)) as caught:
        read_ohlcv(path)
    assert str(path) in str(caught.value)


def test_wrong_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="column volume: found nothing"):
        read_ohlcv(bars_file(tmp_path / "a.csv", drop="volume"))
    (tmp_path / "b.csv").write_text("")
    (tmp_path / "c.parquet").write_bytes(b"no parquet")
    (tmp_path / "d.csv").write_text("timestamp,open,high,low,close,volume\n2024-01-01,1,1,1,1,1\n")
    (tmp_path / "e.csv").write_bytes(b"\xff\xfe\x00\x01")
    for name in ("b.csv", "c.parquet", "d.csv", "e.csv", "f.txt", "missing.csv"):
        with pytest.raises(UsageError, match=re.escape(name)):
            read_ohlcv(tmp_path / name)


def test_bars_without_movement_are_refused(tmp_path: Path) -> None:
    still = simulate(150, np.random.default_rng(5))
    still[["open", "high", "low", "close"]] = 10.0
    still.to_csv(tmp_path / "still.csv", index=False)
    done = command("generate", "--ohlcv", str(tmp_path / "still.csv"), "--output-dir", str(tmp_path / "out"))
    assert done.returncode == 2
    assert "not enough usable bars" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()

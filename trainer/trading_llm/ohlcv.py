"""The user's own market data: bars from CSV or Parquet, checked so that no wrong figure reaches an explanation."""

from pathlib import Path

import numpy as np
import pandas as pd

from trading_llm.errors import UsageError
from trading_llm.market import WARM_UP

PRICES = ("open", "high", "low", "close")
COLUMNS = ("timestamp", *PRICES, "volume")
_ALIASES = {"date": "timestamp", "datetime": "timestamp", "time": "timestamp"}


def read_ohlcv(path: Path) -> pd.DataFrame:
    """Bars of one instrument from a .csv or .parquet file; see `COLUMNS` (case does not matter; "date" = timestamp).

    Raises UsageError naming the file, the column and the row (of the data, from 1) of the first thing that is wrong:
    a column missing, a cell that is no number or time, times not rising, a price or volume that cannot be.
    """
    frame = _read(path)
    frame.columns = [_ALIASES.get(name, name) for name in (str(column).strip().lower() for column in frame.columns)]
    if duplicated := frame.columns[frame.columns.duplicated()].tolist():
        raise UsageError(f"{path}: column {duplicated[0]}: found twice; allowed: once")
    for column in COLUMNS:
        if column not in frame.columns:
            raise UsageError(f"{path}: column {column}: found nothing; allowed: the columns {', '.join(COLUMNS)}")
    bars = frame[list(COLUMNS)].reset_index(drop=True)
    if len(bars) < WARM_UP + 2:
        raise UsageError(f"{path}: found {len(bars)} rows; allowed: at least {WARM_UP + 2} (indicators need a past)")
    checked = bars.copy()
    for column in (*PRICES, "volume"):
        numbers = pd.to_numeric(bars[column], errors="coerce").astype(float)
        allowed = "a number of 0 or more" if column == "volume" else "a number above 0"
        least = numbers < 0 if column == "volume" else numbers <= 0
        _refuse(path, bars, column, ~np.isfinite(numbers) | least, allowed)
        checked[column] = numbers
    for column, wrong, allowed in (
        ("high", checked["high"] < checked[["open", "low", "close"]].max(axis=1), "at least open, low and close"),
        ("low", checked["low"] > checked[["open", "close"]].min(axis=1), "at most open and close"),
    ):
        _refuse(path, bars, column, wrong, allowed)
    try:
        checked["timestamp"] = pd.to_datetime(bars["timestamp"], utc=True, errors="coerce")
    except (ValueError, TypeError):
        checked["timestamp"] = pd.NaT
    _refuse(path, bars, "timestamp", checked["timestamp"].isna(), "a date or time, as 2024-01-31T16:00:00Z")
    _refuse(path, bars, "timestamp", checked["timestamp"].diff() <= pd.Timedelta(0), "later than the row before")
    return checked


def _read(path: Path) -> pd.DataFrame:
    suffix = path.suffix.lower()
    if suffix not in (".csv", ".parquet"):
        raise UsageError(f"{path}: found {suffix or 'no suffix'}; allowed: a .csv or .parquet file")
    try:
        return pd.read_csv(path) if suffix == ".csv" else pd.read_parquet(path)
    except OSError as error:
        # Arrow's own errors for a broken file are OSErrors without an errno.
        reason = error.strerror or f"not a Parquet file ({str(error).splitlines()[0]})"
        raise UsageError(f"{path}: cannot be read: {reason}") from None
    except (ValueError, ImportError) as error:  # also pandas' and Arrow's own errors
        raise UsageError(f"{path}: is no {suffix[1:].upper()} table: {str(error).splitlines()[0]}") from None


def _refuse(path: Path, bars: pd.DataFrame, column: str, wrong: "pd.Series[bool]", allowed: str) -> None:
    rows = np.flatnonzero(wrong.to_numpy())
    if len(rows):
        row = int(rows[0])
        found = bars[column].iloc[row]
        raise UsageError(f"{path}: row {row + 1}, column {column}: found {found!s}; allowed: {allowed}")

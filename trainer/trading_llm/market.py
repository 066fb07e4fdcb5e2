"""Market data and the indicators that describe it.

A frame of bars ("OHLCV") has the columns timestamp, open, high, low, close, volume; one row per bar, in time order.
It comes from the seeded simulation here or from the user's file (`ohlcv.py`).
"""

import warnings

import numpy as np
import pandas as pd

# Per regime: mean and standard deviation of the daily log return. Regimes last about 25 bars (see `_SWITCH`).
_REGIMES = np.array([(0.0016, 0.011), (-0.0018, 0.015), (0.0, 0.008), (0.0, 0.028)])  # bull, bear, quiet, turbulent
_SWITCH = 0.04
_TICKS = 16  # price moves simulated within one bar, from which high and low follow

WARM_UP = 60
"""Bars at the start of a series that are not used: the slowest indicator (EMA 50) has not settled before."""


def simulate(bars: int, rng: np.random.Generator, start: str = "2021-01-04") -> pd.DataFrame:
    """`bars` daily bars of one instrument: a regime-switching random walk with volume that follows the moves.

    The price starts between 8 and 400 (log-uniform). The same generator state gives the same frame.
    """
    switches = rng.random(bars) < _SWITCH
    drawn = rng.integers(0, len(_REGIMES), bars)
    regime = drawn[np.maximum.accumulate(np.where(switches, np.arange(bars), 0))]
    drift, volatility = _REGIMES[regime].T
    ticks = rng.normal(drift[:, None] / _TICKS, volatility[:, None] / np.sqrt(_TICKS), (bars, _TICKS))
    gaps = rng.normal(0.0, 0.2 * volatility)
    start_price = np.log(8) + rng.random() * np.log(50)
    day_end = start_price + np.cumsum(gaps + ticks.sum(axis=1))
    opening = np.concatenate([[start_price], day_end[:-1]]) + gaps
    path = np.exp(opening[:, None] + np.concatenate([np.zeros((bars, 1)), np.cumsum(ticks, axis=1)], axis=1))
    surprise = np.abs(ticks.sum(axis=1)) / volatility
    volume = np.exp(rng.normal(13.0, 0.3, bars) + 0.35 * (surprise - 0.8))
    return pd.DataFrame(
        {
            "timestamp": pd.bdate_range(start, periods=bars, tz="UTC"),
            "open": path[:, 0],
            "high": path.max(axis=1),
            "low": path.min(axis=1),
            "close": path[:, -1],
            "volume": np.round(volume),
        }
    )


def market_states(bars: pd.DataFrame) -> list[dict[str, float]]:
    """The indicators at every bar after the warm-up, rounded as they are shown to the model; one dict per bar.

    close, sma_20, ema_50, each average with the distance of the close from it in percent of the average, rsi_14
    (0-100), macd (12, 26) and macd_histogram (its distance from its signal line of 9 bars; both in price units),
    bollinger_percent_b (20 bars, 2 standard deviations: 0 = lower band, 1 = upper band), atr_percent (14 bars, of the
    close), volume_ratio (to the mean of 20 bars).
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the library uses a pandas name that pandas 4 drops; not the user's concern
        import pandas_ta_classic as ta

    close = bars["close"]
    macd = ta.macd(close, fast=12, slow=26, signal=9)
    bands = ta.bbands(close, length=20, std=2.0)
    price_digits = 2 if float(close.median()) >= 1 else 6
    price = close.round(price_digits)
    sma, ema = (average(close, length=n).round(price_digits) for average, n in ((ta.sma, 20), (ta.ema, 50)))
    frame = pd.DataFrame(
        {
            "close": price,
            "sma_20": sma,
            "sma_20_distance_percent": ((price / sma - 1) * 100).round(2),
            "ema_50": ema,
            "ema_50_distance_percent": ((price / ema - 1) * 100).round(2),
            "rsi_14": ta.rsi(close, length=14).round(1),
            "macd": macd["MACD_12_26_9"].round(price_digits),
            "macd_histogram": macd["MACDh_12_26_9"].round(price_digits),
            "bollinger_percent_b": bands.filter(like="BBP_").iloc[:, 0].round(2),
            "atr_percent": (ta.atr(bars["high"], bars["low"], close, length=14) / close * 100).round(2),
            "volume_ratio": (bars["volume"] / bars["volume"].rolling(20).mean()).round(2),
        },
        index=bars.index,
    )
    # A series without any movement has no RSI or band width: such bars say nothing and are left out (see `rows_of`).
    return [dict(row) for row in frame.iloc[WARM_UP:].to_dict("records")]

"""Readings: the words that say how a figure is to be read, and when they are true of the figures of a prompt."""

import itertools
import math
import re
from collections.abc import Callable
from dataclasses import dataclass

from trading_llm.quality.indicators import AVERAGES, Figure, Name

#: (figures of the prompt, names in the clause) -> whether the reading is true; None where the prompt cannot tell.
Holds = Callable[[list[Figure], list[Name]], bool | None]


@dataclass(frozen=True)
class Reading:
    """Words that say how a figure is to be read. Two sides of a subject in EXCLUSIVE contradict each other."""

    subject: str
    side: str
    pattern: re.Pattern[str]
    holds: Holds


#: Not moods, and not the price against averages: there both sides can be true of different things.
EXCLUSIVE = frozenset({"level", "macd", "trend", "band", "volume", "volatility"})

_HEDGED = re.compile(
    r"(?:\b(?:not|no|nor|never|without|short of|far from|hardly|avoid\w*|near(?:ly|ing)?|approach\w*|close to|"
    r"toward\w*|from|if|until|unless)|n't)\W+(?:\w+\W+){0,2}$",
    re.IGNORECASE,
)


def is_hedged(clause: str, start: int) -> bool:
    """Whether the words before `start` take the claim back: "not overbought", "near overbought", "if oversold"."""
    return bool(_HEDGED.search(clause[:start]))


# -- when a reading is true -------------------------------------------------------------------------------------------

#: (overbought from, oversold up to) of indicators that have such levels.
LEVELS = {
    "rsi": (70, 30), "stochastic": (80, 20), "stoch_rsi": (0.8, 0.2), "mfi": (80, 20), "cci": (100, -100),
    "williams": (-20, -80), "percent_b": (1, 0),
}  # fmt: skip


def _value(figures: list[Figure], kind: str) -> float | None:
    return next((figure.value for figure in figures if figure.kind == kind), None)


def _between(kind: str, low: float, high: float, named: bool = False) -> Holds:
    """The figure is in [low, high]. `named`: the words are common, and count in a clause that names the indicator."""

    def holds(figures: list[Figure], names: list[Name]) -> bool | None:
        value = _value(figures, kind)
        if value is None or (named and not any(name.kind == kind for name in names)):
            return None
        return low <= value <= high

    return holds


def _level(over: bool) -> Holds:
    """Overbought or oversold: of the indicator that the clause names, else of the RSI."""

    def holds(figures: list[Figure], names: list[Name]) -> bool | None:
        for kind in [name.kind for name in names if name.kind in LEVELS] or ["rsi"]:
            value = _value(figures, kind)
            if value is not None:
                return value >= LEVELS[kind][0] if over else value <= LEVELS[kind][1]
        return None

    return holds


def _macd(side: int) -> Holds:
    """The MACD above (1) or below (-1) its signal."""

    def holds(figures: list[Figure], names: list[Name]) -> bool | None:
        histogram = _value(figures, "macd_histogram")
        macd, signal = _value(figures, "macd"), _value(figures, "macd_signal")
        if histogram is None and macd is not None and signal is not None:
            histogram = macd - signal
        return None if histogram is None else histogram * side > 0

    return holds


def _macd_mood(side: int) -> Holds:
    """Bullish or bearish, in a clause about the MACD: against its signal or against zero."""
    against_signal = _macd(side)

    def holds(figures: list[Figure], names: list[Name]) -> bool | None:
        if not any(name.kind.startswith("macd") for name in names):
            return None
        macd, above = _value(figures, "macd"), against_signal(figures, names)
        return above if macd is None else macd * side > 0 or bool(above)

    return holds


def _against_average(side: int) -> Holds:
    """The price above or below an average that the clause names; any of the prompt's where it names none."""

    def holds(figures: list[Figure], names: list[Name]) -> bool | None:
        price = _value(figures, "price")
        averages = [figure for figure in figures if figure.kind in AVERAGES]
        named = [f for f in averages for name in names if name.kind in AVERAGES and f.is_meant_by(name)]
        if price is None or not averages:
            return None
        return any((price - figure.value) * side > 0 for figure in named or averages)

    return holds


def _trend(side: int) -> Holds:
    """Up or down: price and averages in that order, or the price beyond the slowest; 0: in no order, or level."""

    def holds(figures: list[Figure], names: list[Name]) -> bool | None:
        price = _value(figures, "price")
        averages = sorted((f for f in figures if f.kind in AVERAGES), key=lambda f: f.period or 0)
        if price is None or not averages:
            return None
        line = [price, *(figure.value for figure in averages)]
        steps = {(a > b) - (a < b) for a, b in itertools.pairwise(line)}
        if side == 0:
            return len(steps) > 1 or 0 in steps or abs(price / line[-1] - 1) < 0.01
        return steps == {side} or (len(line) > 2 and (price - line[-1]) * side > 0)

    return holds


# -- the words --------------------------------------------------------------------------------------------------------

_SIGNAL = r"\W+(?:the |a |its |that )*(?:macd )?signal\b"
_AVERAGE = (
    r"\W+(?:the |both |its |all |of |key |two |rising |falling )*"
    r"(?:\d+[ -](?:day|period|bar)[ -]?|short[- ]term |long[- ]term |moving |sma|ema|average|ma\b)"
)
_UPPER, _LOWER = r"\W+(?:the |its )?upper (?:bollinger )?band", r"\W+(?:the |its )?lower (?:bollinger )?band"
_NEAR = r"\b(?:near|hugs|hugging|close to|presses on|pressing|approaching|at|touching)"
_ABOVE, _BELOW = (
    r"\b(?:above|over|beyond|exceeds|higher than|greater than)",
    r"\b(?:below|under|beneath|lower than|less than)",
)


def _of(adjectives: str, noun: str, be: str = "is (?:very |quite )?") -> str:
    """An adjective before its noun, with a word between them at most, or said of it."""
    return rf"\b(?:{adjectives})(?= (?:\w+ )?(?:{noun})\b)|\b(?:{noun}) {be}(?:{adjectives})\b"


_VOLUME, _VOLATILITY = "volume|turnover", "volatility|atr"

#: (subject, side, words, when they are true). The edges are those of textbooks with a little tolerance, because
#: "strong" and "heavy" have no sharp ones.
_TABLE: tuple[tuple[str, str, str, Holds], ...] = (
    ("level", "over", r"\boverbought\b", _level(over=True)),
    ("level", "under", r"\boversold\b", _level(over=False)),
    ("rsi", "middle", r"\b(?:neutral|balanced|in the middle|mid-?range)\b", _between("rsi", 38, 62, named=True)),
    (
        "rsi", "up", _of("strong|firm|solid|bullish|positive|healthy", "momentum"),
        _between("rsi", 50, 100, named=True),
    ),
    (
        "rsi", "down", _of("weak|soft|bearish|negative|sluggish", "momentum"),
        _between("rsi", 0, 50, named=True),
    ),
    ("macd", "up", _ABOVE + _SIGNAL, _macd(1)),
    ("macd", "down", _BELOW + _SIGNAL, _macd(-1)),
    ("mood", "up", r"\b(?:bullish|buyers lead|momentum improves|improving|upside)\b", _macd_mood(1)),
    ("mood", "down", r"\b(?:bearish|sellers lead|momentum worsens|worsening|downside)\b", _macd_mood(-1)),
    ("price", "up", _ABOVE + _AVERAGE, _against_average(1)),
    ("price", "down", _BELOW + _AVERAGE, _against_average(-1)),
    (
        "trend", "up",
        r"\b(?:uptrend|(?:upward|rising|bullish) trend|(?:rising|bullish) order|trend is (?:up|rising)|"
        r"each above the next|(?:healthy|clean) advance)\b", _trend(1),
    ),
    (
        "trend", "down",
        r"\b(?:downtrend|(?:downward|falling|bearish) trend|(?:falling|bearish) order|trend is (?:down|falling)|"
        r"each below the next|(?:steady|persistent) decline)\b", _trend(-1),
    ),
    (
        "trend", "mixed",
        r"\bno (?:clear|clean|settled|definite) trend\b|trend is (?:open|undecided|unclear)|are tangled|disagree|"
        r"give no order",
        _trend(0),
    ),
    ("band", "over", _ABOVE + _UPPER, _between("percent_b", 0.99, math.inf)),
    ("band", "under", _BELOW + _LOWER, _between("percent_b", -math.inf, 0.01)),
    ("band", "high", _NEAR + _UPPER, _between("percent_b", 0.7, 1.1)),
    ("band", "low", _NEAR + _LOWER, _between("percent_b", -0.1, 0.3)),
    (
        "band", "middle", r"\b(?:inside|within|middle of|between)\W+(?:the )?(?:bollinger )?bands?\b",
        _between("percent_b", 0, 1),
    ),
    (
        "volume", "heavy", _of("heavy|strong|high|elevated|surging|above[- ]average|robust", _VOLUME),
        _between("volume", 1.15, math.inf),
    ),
    (
        "volume", "thin",
        _of("thin|light|low|weak|poor|muted|below[- ]average", _VOLUME) + "|confirms nothing|lacks conviction",
        _between("volume", 0, 0.9),
    ),
    (
        "volume", "ordinary", _of("ordinary|normal|unremarkable", _VOLUME) + r"|\b(?:ordinary|unremarkable)\b",
        _between("volume", 0.65, 1.6, named=True),
    ),
    ("volatility", "wild", _of("wild|high|elevated", _VOLATILITY), _between("atr", 2, math.inf)),
    ("volatility", "calm", _of("calm|low|subdued", _VOLATILITY), _between("atr", 0, 2)),
    ("volatility", "normal", _of("normal|moderate", _VOLATILITY), _between("atr", 1, 4)),
    ("adx", "strong", _of("strong", "trend"), _between("adx", 22, 100)),
    ("adx", "weak", _of("weak", "trend"), _between("adx", 0, 28)),
)  # fmt: skip

READINGS = tuple(
    Reading(subject, side, re.compile(words, re.IGNORECASE), holds) for subject, side, words, holds in _TABLE
)

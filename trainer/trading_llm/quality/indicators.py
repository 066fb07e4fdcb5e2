"""Technical indicators: how prompts and texts call them, and the figures that a prompt has of them."""

import re
from dataclasses import dataclass

AVERAGES = frozenset({"sma", "ema", "average"})
"""Kinds of which a generic word ("the 20-day average") may mean any."""

_DAYS = r"\d{1,3}[ -](?:day|period|bar|d)s?[ -]"


def _with_period(names: str, usual: str = "5|7|9|10|12|14|20|21|26|30|50|100|150|200") -> str:
    """`names` with a period before or behind them: 14-day RSI, rsi_14, RSI(14), RSI 14.

    A number that is none of the usual periods is a value: RSI 71.
    """
    unit, no_figure = "(?:[ -]?(?:days?|periods?|bars?))?", r"(?!\d|[.,]\d)"
    behind = rf"[_-]\d{{1,3}}{no_figure}|[ ]?\((?:{usual}){unit}\)|[ ](?:{usual}){no_figure}"
    return rf"{_DAYS}(?:{names})|(?:{names})(?:{behind})?"


# In the order in which they are tried at a place of the text: what contains another name comes first.
_NAMES: tuple[tuple[str, str], ...] = (
    ("macd_histogram", r"macd[ _]?hist(?:ogram)?|histogram"),
    ("macd_signal", r"macd[ _]signal(?:[ _]line)?|signal[ _]line|a signal(?= of -?\d)"),
    ("macd", r"macd(?: ?\(\d+, ?\d+, ?\d+\))?"),
    ("percent_b", r"bollinger[ _](?:band[ _])?percent[ _]?b|bollinger[ _]%b|%[ ]?b\b|percent[ _-]b\b"),
    ("upper_band", r"(?:bollinger )?upper(?:[ _]bollinger)?[ _]bands?|bollinger[ _](?:bands?[ _])?upper|bb[ _]?upper"),
    ("lower_band", r"(?:bollinger )?lower(?:[ _]bollinger)?[ _]bands?|bollinger[ _](?:bands?[ _])?lower|bb[ _]?lower"),
    ("bands", r"bollinger(?:[ _]bands?)?"),
    ("atr", _with_period(r"(?:atr|average[ _]true[ _]range)(?:[ _]?(?:percent|pct|%))?")),
    ("stoch_rsi", r"stoch(?:astic)?[ _-]?rsi"),
    ("rsi", _with_period(r"rsi|relative[ _]strength(?:[ _]index)?", usual="2|7|9|14|21")),
    ("stochastic", r"stoch(?:astics?)?(?:[ _](?:oscillator|k|%k|d|%d))?"),
    ("ema", _with_period(r"ema|exponential[ _]moving[ _]average")),
    ("sma", _with_period(r"sma|simple[ _]moving[ _]average")),
    (
        "average",
        rf"{_DAYS}(?:moving )?(?:averages?|means?|ma)|{_with_period('moving[ _]averages?')}|ma[ _]?\d{{1,3}}(?![.,]\d)",
    ),
    ("adx", _with_period("adx|average directional index")),
    ("cci", _with_period("cci|commodity channel index")),
    ("mfi", _with_period("mfi|money[ _]flow(?:[ _]index)?")),
    ("obv", r"obv|on[- _]balance volume"),
    ("vwap", r"vwap|volume[- ]weighted average price"),
    ("williams", r"williams[ _]?%?r?"),
    ("ichimoku", r"ichimoku(?: cloud)?"),
    ("fibonacci", r"fibonacci(?: retracements?)?"),
    ("sar", r"parabolic sar|psar"),
    ("roc", _with_period(r"roc|rate[ _]of[ _]change")),
    (
        "volume",
        r"(?:(?:relative|trading|average) )?(?:volume|turnover)(?:[ _]ratio)?|"
        r"times (?:the|its) (?:usual|normal|mean|average)",
    ),
    ("volatility", r"volatility"),
    ("change", r"change(?:[ _](?:percent|pct|%))?|chg|daily[ _]return"),
    ("price", r"(?:clos(?:e|ing)|last|current|spot)(?:[ _](?:price|trade|close))?(?=\W|_|$)|prices?|quote"),
)  # fmt: skip

#: Kinds that anyone may speak of without having been told a figure.
COMMON = frozenset({"price", "volume", "volatility", "change", "upper_band", "lower_band", "bands"})
#: Kinds that speak of the same thing: one has been told of the first when the prompt has one of the others.
RELATED = {
    "bands": frozenset({"percent_b", "upper_band", "lower_band"}),
    "upper_band": frozenset({"percent_b"}),
    "lower_band": frozenset({"percent_b"}),
    "volatility": frozenset({"atr"}),
    "average": AVERAGES,
    "sma": frozenset({"average"}),
    "ema": frozenset({"average"}),
    "macd_histogram": frozenset({"macd"}),
    "macd_signal": frozenset({"macd_histogram"}),
}

_NAME = re.compile(
    "|".join(f"(?P<{kind}>(?<![A-Za-z0-9])(?:{pattern})(?![A-Za-z]))" for kind, pattern in _NAMES), re.IGNORECASE
)
_HAVE_PERIODS = frozenset({"atr", "rsi", "ema", "sma", "average", "adx", "cci", "mfi", "roc"})
_FIRST_NUMBER = re.compile(r"\d{1,3}")
NUMBER = re.compile(r"(?<![\w.])[-−–+]?\$?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?![\d]|\.\d)")


@dataclass(frozen=True)
class Name:
    """An indicator's name in a text. `period` is None where it is not said."""

    kind: str
    period: int | None
    start: int
    end: int


@dataclass(frozen=True)
class Figure:
    """A figure of a prompt: `kind` is one of the known ones, or the prompt's own key in lower case."""

    kind: str
    period: int | None
    value: float

    def is_meant_by(self, name: Name) -> bool:
        """Whether `name` can speak of this figure."""
        if None not in (name.period, self.period) and name.period != self.period:
            return False
        return name.kind == self.kind or self.kind in RELATED.get(name.kind, ())


def names_in(text: str, own: tuple[str, ...] = ()) -> list[Name]:
    """Indicator names in `text`, in order. `own` are a prompt's keys that no known indicator has."""
    found = []
    for match in _NAME.finditer(text):
        kind = next(kind for kind, text in match.groupdict().items() if text is not None)
        period = _FIRST_NUMBER.search(match.group()) if kind in _HAVE_PERIODS else None
        found.append(Name(kind, int(period.group()) if period else None, match.start(), match.end()))
    for key in own:
        words = r"[ _-]".join(re.escape(word) for word in key.split())
        for match in re.finditer(rf"(?<![A-Za-z0-9]){words}(?![A-Za-z])", text, re.IGNORECASE):
            if not any(name.start < match.end() and match.start() < name.end for name in found):
                found.append(Name(key, None, match.start(), match.end()))
    return sorted(found, key=lambda name: name.start)


def number(text: str) -> float:
    """The value of a match of NUMBER."""
    return float(text.replace(",", "").replace("$", "").replace("−", "-").replace("–", "-"))


# "rsi_14: 71.3", "RSI (14) = 71.3", '"macd": 0.5', "- Close: $48.17"
_ENTRY = re.compile(
    r"[\"'*•\-\s]*(?P<key>%?[A-Za-z][\w %()/.-]{0,39}?)[\"'*]*\s*[:=]\s*[\"'*]*(?P<value>[-−–+]?\$?[\d,]*\.?\d+)"
)
_NOT_FIGURES = frozenset({"step", "year", "month", "day", "date", "time", "timestamp", "id", "example", "record"})


def figures_in(prompt: str) -> list[Figure]:
    """The figures of a prompt, in order, each indicator once: `key: value` entries, else names with a number behind."""
    found: dict[tuple[str, int | None], Figure] = {}
    for part in re.split(r"[\n;|]|,(?=\s*[\"'A-Za-z%])|\{|\}", prompt):
        match = _ENTRY.match(part)
        if match is None:
            for name, value in _in_prose(part):
                found.setdefault((name.kind, name.period), Figure(name.kind, name.period, value))
            continue
        key = match["key"].strip()
        names = names_in(key)
        if names:
            kind, period = names[0].kind, names[0].period
        else:
            kind, period = " ".join(re.findall(r"[a-z0-9%]+", key.lower())), None
        if kind and kind not in _NOT_FIGURES:
            found.setdefault((kind, period), Figure(kind, period, number(match["value"])))
    return list(found.values())


def own_kinds(figures: list[Figure]) -> tuple[str, ...]:
    """Kinds of a prompt that are no known indicators."""
    known = {kind for kind, _ in _NAMES}
    return tuple(figure.kind for figure in figures if figure.kind not in known)


def _in_prose(text: str) -> list[tuple[Name, float]]:
    """Names with the number that follows each, before the next name and within a few words."""
    names = names_in(text)
    found = []
    for name, after in zip(names, [*(n.start for n in names[1:]), len(text)], strict=False):
        match = NUMBER.search(text, name.end, min(after, name.end + 25))
        if match is not None:
            found.append((name, number(match.group())))
    return found

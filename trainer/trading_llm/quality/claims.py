"""What a text says of the figures of its prompt: values quoted, readings given, and what is made up."""

import re
from dataclasses import dataclass, field

from trading_llm.quality.indicators import AVERAGES, COMMON, NUMBER, Figure, Name, names_in, number, own_kinds
from trading_llm.quality.readings import EXCLUSIVE, READINGS, is_hedged

#: Round numbers by which indicators are read: they quote no figure of the prompt.
CUSTOMARY = {
    "rsi": {0, 20, 25, 30, 40, 45, 50, 55, 60, 70, 75, 80, 100}, "stochastic": {0, 20, 50, 80, 100},
    "mfi": {20, 50, 80}, "cci": {-100, 0, 100}, "adx": {20, 25, 30, 40}, "macd": {0}, "macd_histogram": {0},
    "percent_b": {0, 0.2, 0.5, 0.8, 1}, "volume": {1}, "stoch_rsi": {0, 0.2, 0.5, 0.8, 1}, "williams": {-20, -50, -80},
}  # fmt: skip
#: A number near these words is advice (a stop, a target, a size), not a figure that was read.
_ADVICE = re.compile(r"\b(?:stops?|target|risk|position|size|profit|entry|exit|portfolio|capital)\b", re.I)
_COMPARED = re.compile(r"\b(?:above|below|over|under|beneath|than)\b", re.IGNORECASE)
_DURATION = re.compile(r"[ -](?:days?|weeks?|months?|sessions?|bars?|years?)\b", re.IGNORECASE)
#: Indicators that have one value at a time, whatever else a sentence about them counts.
_SINGLE = frozenset({"rsi", "percent_b", "atr", "macd_signal"})


@dataclass
class Claims:
    """What was found in a text. `contradictions` counts readings of one indicator that exclude each other."""

    quoted: set[Figure] = field(default_factory=set)  # with their right value
    named: set[Figure] = field(default_factory=set)
    mistaken: set[Figure] = field(default_factory=set)  # that have another value than is quoted under their name
    misquoted: int = 0  # a value under a name of which the prompt has another value
    names: int = 0  # of indicators; those of which anyone may speak are not counted
    numbers: int = 0  # that are no customary level, distance or advice
    invented_names: int = 0  # that the prompt does not have
    invented_numbers: int = 0
    readings: list[bool] = field(default_factory=list)  # whether each is true
    contradictions: int = 0


def clauses_of(text: str) -> list[str]:
    """Pieces of `text` that speak of one thing: sentences, cut at semicolons and colons too."""
    return [piece for piece in re.split(r"(?<=[.!?;:])\s+|\n+", text) if piece.strip()]


def claims_of(text: str, figures: list[Figure]) -> Claims:
    """All claims of `text` about the `figures` of its prompt."""
    claims = Claims()
    own = own_kinds(figures)
    said: dict[str, set[str]] = {}
    values: dict[str, set[float]] = {}
    for clause in clauses_of(text):
        names = names_in(clause, own)
        for name in names:
            _take_name(claims, name, figures)
        for match in NUMBER.finditer(clause):
            if not any(name.start <= match.start() < name.end for name in names):
                _take_number(claims, clause, match, names, figures, values)
        for reading in READINGS:
            for match in reading.pattern.finditer(clause):
                truth = reading.holds(figures, names)
                if truth is None or is_hedged(clause, match.start()):
                    continue
                claims.readings.append(truth)
                if reading.subject in EXCLUSIVE:
                    said.setdefault(reading.subject, set()).add(reading.side)
    claims.contradictions = sum(len(sides) > 1 for sides in said.values())
    claims.contradictions += sum(len(found) > 1 for kind, found in values.items() if kind in _SINGLE)
    return claims


def _take_name(claims: Claims, name: Name, figures: list[Figure]) -> None:
    meant = [figure for figure in figures if figure.is_meant_by(name)]
    if meant:
        claims.named.update(meant[:1] if name.kind not in AVERAGES or name.period else ())
        claims.names += name.kind not in COMMON
    elif name.kind not in COMMON and not (name.kind in AVERAGES and name.period is None and _has_average(figures)):
        claims.names += 1
        claims.invented_names += 1


def _has_average(figures: list[Figure]) -> bool:
    return any(figure.kind in AVERAGES for figure in figures)


def _take_number(
    claims: Claims,
    clause: str,
    match: re.Match[str],
    names: list[Name],
    figures: list[Figure],
    values: dict[str, set[float]],
) -> None:
    text = match.group()
    value = number(text)
    percent = clause[match.end() : match.end() + 9].lstrip().lower().startswith(("%", "percent"))
    name = _owner(names, match, clause)
    meant = [figure for figure in figures if name is not None and figure.is_meant_by(name)]
    right = next((figure for figure in meant if _same(figure, value, text, percent)), None)
    if right is None:
        # "145.68 is above its 20-day average of 141.32": a number may come before its name, or have none.
        beside = [figure for figure in figures if any(figure.is_meant_by(other) for other in names)]
        # And in "the SMA is above 138.57", "the moving averages (145.68, 141.32)" it is not the name's alone.
        bare = (
            name is None
            or name.start > match.start()
            or (name.kind == "average" and name.period is None)
            or _COMPARED.search(clause, name.end, match.start())
        )
        others = figures if not meant else _prices(figures) if bare else []
        right = next((f for f in (*beside, *others) if _same(f, value, text, percent)), None)
    if name is not None and value not in CUSTOMARY.get(name.kind, ()):
        values.setdefault(name.kind, set()).add(value)
    if right is not None:
        claims.quoted.add(right)
        claims.numbers += 1
    elif any(_same(figure, value, text, percent) for figure in figures):
        claims.misquoted += 1  # another indicator's figure
        claims.mistaken.update(meant)
        claims.numbers += 1
    elif (
        (name is not None and value in CUSTOMARY.get(name.kind, ()))
        or _derived(value, figures)
        or _ADVICE.search(clause[max(0, match.start() - 25) : match.end() + 15])
    ):
        return
    else:
        claims.numbers += 1
        claims.invented_numbers += 1
        claims.misquoted += bool(meant)
        claims.mistaken.update(meant)


def _owner(names: list[Name], match: re.Match[str], clause: str) -> Name | None:
    """The name that a number belongs to: the one before it, close by, else the one right after."""
    before = [name for name in names if name.end <= match.start() and match.start() - name.end <= 30]
    if before:
        between = clause[before[-1].end : match.start()]
        if len(NUMBER.findall(between)) == 0:
            return before[-1]
    after = [name for name in names if 0 <= name.start - match.end() <= 25]
    return after[0] if after else None


def _prices(figures: list[Figure]) -> list[Figure]:
    """A bare number may be the price or an average, whatever else the sentence names."""
    return [figure for figure in figures if figure.kind == "price" or figure.kind in AVERAGES]


def _same(figure: Figure, value: float, text: str, percent: bool) -> bool:
    """Whether `value`, written as `text`, is the figure, rounded as the text rounds; or it as a percentage."""
    decimals = len(text.partition(".")[2])
    candidates = [figure.value]
    if figure.kind == "change":
        candidates.append(-figure.value)
    if percent and figure.kind in {"volume", "percent_b", "stoch_rsi"}:
        candidates += [100 * figure.value, 100 * (figure.value - 1), 100 * (1 - figure.value)]
    digits = len(re.sub(r"\D", "", text).lstrip("0"))
    half = 0.5 * 10**-decimals + 1e-9
    # One digit says too little to have been read, except where the figure has no more itself.
    return any(abs(c - value) <= 1e-9 or (digits >= 2 and abs(c - value) <= half) for c in candidates)


def _derived(value: float, figures: list[Figure]) -> bool:
    """A distance between figures of the prompt: MACD from its signal, price from an average in percent."""
    one = {figure.kind: figure.value for figure in reversed(figures)}
    distances = []
    if "macd" in one and "macd_signal" in one:
        distances.append(one["macd"] - one["macd_signal"])
    price = one.get("price")
    for figure in figures:
        if price and figure.kind in AVERAGES and figure.value:
            distances += [price - figure.value, 100 * (price / figure.value - 1)]
    return any(abs(abs(value) - abs(distance)) <= max(0.06, 0.03 * abs(distance)) for distance in distances)

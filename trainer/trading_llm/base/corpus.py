"""The text on which the embedded base model is pretrained: invented market notes, lists to recite, figures to compare.

Related to the trading dataset as general text is to a task: it speaks of the same things (prices, averages, momentum,
volume) and quotes figures from a table above it, but in another format, other phrasings and without any decision.
Only the clippings take their words from `explain.py`: loose clauses, with figures that mean nothing.
"""

import re
from collections.abc import Iterator

import numpy as np

from trading_llm.explain import sentences
from trading_llm.phrases import expand, say

_NAMES = (
    "{Alder|Birch|Cedar|Delta|Ember|Falcon|Granite|Harbor|Iris|Juniper|Keystone|Lumen|Meridian|Nimbus|Orchard|Pioneer|"
    "Quartz|Ridge|Summit|Tundra|Union|Vertex|Willow|Zephyr} {Bank|Energy|Foods|Labs|Metals|Motors|Power|Rail|Retail|"
    "Semiconductor|Shipping|Software|Steel|Telecom}"
)
_CODES = "{A|B|C|D|E|F|G|H|I|J|K|L|M|N|O|P|Q|R|S|T|U|V|W|X|Y|Z}" * 4

_SHEET = {
    "last": "last", "move": "chg", "short": "MA20", "long": "MA50", "strength": "RSI", "fast": "MACD",
    "slow": "signal", "percent": "%B", "range": "ATR", "turnover": "volume",
}  # fmt: skip
_LINES = {
    "last": ["{the shares|the stock|$name} {closed|finished|ended} {the session|the day|trading} at $last"],
    "move": [
        "{that was|the day brought} {a move|a change} of $move percent {from|against} the {day before|previous close}"
    ],
    "short": ["the {twenty day moving average|short moving average|MA20} {came in|stood} at $short"],
    "long": ["the {fifty day moving average|long moving average|MA50} {came in|stood} at $long"],
    "averages": [
        "with $last {against|versus} averages of $short and $long, {analysts|traders|chartists} "
        "{discussed|debated} the trend",
        "$code {was quoted|changed hands} at $last, {while|and} the averages {read|were} $short and $long",
    ],
    "strength": [
        "relative strength (RSI) {read|was measured at|printed} $strength",
        "the RSI {read|showed} $strength{, a measure of momentum| on the scale to 100|}",
    ],
    "fast": [
        "the MACD line {read|was} $fast {against|versus} $slow for the signal{ line|}",
        "MACD and signal {were|read} $fast and $slow",
    ],
    "percent": ["within the Bollinger {bands|channel} the {position|reading} was $percent", "%B {read|was} $percent"],
    "range": ["the average true range {was|came to} $range percent {of the price|}", "ATR {read|was} $range"],
    "turnover": [
        "volume {came to|reached} $turnover times {the norm|a usual day}",
        "{turnover|trading volume} {was|ran at} $turnover times the {mean|average}",
    ],
}
_PROSE = [
    "a {market|stock} is {called|said to be} {overbought|oversold} when {buyers|sellers} have "
    "{pushed|carried} the price "
    "{too far|far} in a short time; {a pullback|a rebound|a pause} {may|can|often does} follow",
    "{bulls|bears|buyers|sellers|traders} {watch|follow|trust|study} {moving averages|support and resistance|momentum|"
    "volume|the Bollinger bands|volatility} {above all|before they act|with care|in a {falling|rising} market}",
    "{an uptrend|a downtrend|a rally|a decline} is {intact|healthy|weak|over} {while|as long as|when|once} the price "
    "{is above|is below|breaks|holds} {its average|support|resistance|the upper band|the lower band}",
    "{heavy|thin|light|normal|high|low} volume {confirms|weakens|supports|questions} {a signal|the "
    "move|a breakout|the trend}",
    "{a bullish|a bearish|a neutral} {signal|sign|reading} {favours|argues for|points to} {buying|selling|waiting|"
    "a long position|a short position|patience}, {but|yet|and} {the risk|the size of the position|a "
    "stop} {matters|must be "
    "{small|set|known}}",
    "momentum {is building|is fading|improves|worsens|says little} {when|because|as} {the MACD|the "
    "RSI} {crosses|leaves|"
    "stays {above|below|under|over}} {its signal line|its range|the middle|the mean}",
    "{on balance|overall|all in all|taken together}, {the evidence|the picture|the odds} {was|were} "
    "{mixed|open|clear|unclear}",
]

#: Shares of the documents; the rest are notes.
RECITALS, COMPARISONS, CLIPPINGS = 0.15, 0.15, 0.35


def figures(rng: np.random.Generator) -> dict[str, str]:
    """Invented figures of one day, as text; they need not agree with each other."""
    last = float(np.exp(rng.uniform(np.log(4), np.log(600))))
    fast = rng.normal(0, 0.02) * last
    slow = fast * (1 + rng.normal(0, 0.3))
    return {
        "last": f"{last:.2f}",
        "move": f"{rng.normal(0, 1.8):.2f}",
        "short": f"{last * (1 + rng.normal(0, 0.04)):.2f}",
        "long": f"{last * (1 + rng.normal(0, 0.08)):.2f}",
        "strength": f"{np.clip(rng.normal(50, 13), 4, 96):.1f}",
        "fast": f"{fast:.2f}",
        "slow": f"{slow:.2f}",
        "between": f"{fast - slow + 0.0:.2f}",
        "percent": f"{rng.normal(0.5, 0.33):.2f}",
        "range": f"{rng.uniform(0.5, 6):.2f}",
        "turnover": f"{np.exp(rng.normal(0, 0.4)):.2f}",
        "name": expand(_NAMES, rng),
        "code": expand(_CODES, rng),
    }


def note(rng: np.random.Generator) -> str:
    """One document: the day's sheet, then sentences that quote it, with general remarks between them."""
    values = figures(rng)
    columns = list(_SHEET)
    rng.shuffle(columns)
    separator = ["; ", "\n", ", "][int(rng.integers(3))]
    joint = [" ", " = ", ": "][int(rng.integers(3))]
    sheet = separator.join(f"{_SHEET[column]}{joint}{values[column]}" for column in columns)
    facts = list(_LINES)
    rng.shuffle(facts)
    sentences = []
    for fact in facts[: int(rng.integers(4, 8))]:
        sentences.append(say(_LINES[fact], values, rng))
        if rng.random() < 0.35:
            sentences.append(say(_PROSE, values, rng))
    return f"{values['name']} ({values['code']})\n{sheet}\n" + " ".join(f"{sentence}." for sentence in sentences)


def clippings(rng: np.random.Generator) -> str:
    """Sentences and clauses of the trade's language, mixed, with figures that mean nothing; half of them below a list.

    Their vocabulary is the trading dataset's; its format, order, conditions and which figure goes where are not.
    """
    listed = recital(rng)[0] if rng.random() < 0.5 else ""
    pieces: list[str] = []
    for _ in range(int(rng.integers(4, 7))):
        values = figures(rng)
        named = {name: values[column] for name, column in _FIGURES.items()} | {"symbol": values["code"]}
        sentence = say(_CLAUSES, named, rng)
        pieces += [sentence] if rng.random() < 0.4 else re.split(r"[,:;] ", sentence)
    rng.shuffle(pieces)
    return listed + ["; ", ". ", ". ", ", ", ".\n"][int(rng.integers(5))].join(pieces)


_FIGURES = {
    "close": "last", "sma_20": "short", "ema_50": "long", "rsi_14": "strength", "macd": "fast",
    "macd_histogram": "between", "bollinger_percent_b": "percent", "atr_percent": "range", "volume_ratio": "turnover",
}  # fmt: skip
_CLAUSES = [phrase for phrases in sentences() for phrase in phrases]


_KEYS = (
    "{sma|ema|wma|rsi|cci|adx|mfi|roc|atr|obv|macd|vwap|stoch|trix|kama|dema|hma|close|open|high|low|change|volume|signal|"
    "band|pivot|spread|beta|yield|margin|skew|range|turnover|momentum|force|delta|gap}"
    "{||_{5|7|9|10|12|14|20|26|30|50|100|200}|_{5|7|9|10|12|14|20|26|30|50|100|200}|_percent|_ratio|_signal|_b}"
)
_WORDS = "{B|C|D|F|G|K|L|M|N|P|R|S|T|V|Z}{A|E|I|O|U}" * 2
_JOINTS = (" at $", " of $", " is $", " ($)", ": $", " was $", " stands at $", " $")


def recital(rng: np.random.Generator) -> tuple[str, str]:
    """(list, recital): named figures that mean nothing, then the same again in another order and other words.

    Nothing but the list tells the figures of the recital: that is where quoting is learnt.
    """
    level = float(np.exp(rng.uniform(np.log(4), np.log(500))))
    figures: dict[str, str] = {}
    for _ in range(int(rng.integers(3, 8))):
        key = expand(_WORDS if rng.random() < 0.25 else _KEYS, rng)
        if rng.random() < 0.4:  # many figures of a day begin alike
            value, digits = level * (1 + rng.normal(0, 0.05)), 2
        else:
            value, digits = float(np.exp(rng.uniform(np.log(0.05), np.log(600)))), int(rng.integers(1, 3))
            value = -value if rng.random() < 0.15 else value
        figures[key] = f"{round(value, digits) + 0.0:.10g}"
    separator, joint = (["\n", "\n", "; ", ", "][int(rng.integers(4))], [": ", ": ", " = ", " "][int(rng.integers(4))])
    recited: list[str] = []
    for i in rng.permutation(len(figures)):
        key = list(figures)[i]
        phrase = _JOINTS[int(rng.integers(len(_JOINTS)))].replace("$", figures[key])
        recited.append(["", "the "][int(rng.random() < 0.3)] + _spoken(key, rng) + phrase)
    listed = separator.join(f"{key}{joint}{figure}" for key, figure in figures.items())
    return f"{listed}\n", [", ", "; ", ". ", " and "][int(rng.integers(4))].join(recited) + "."


def _spoken(key: str, rng: np.random.Generator) -> str:
    """A key of a list as a sentence has it: rsi_14, RSI 14, 14-day RSI or RSI."""
    name, _, more = key.partition("_")
    if rng.random() < 0.5:
        return key
    name = name.upper() if len(name) <= 5 else name
    if not more.isdigit():
        return f"{name} {more}".strip()
    return [f"{name} {more}", f"{more}-day {name}", name][int(rng.integers(3))]


#: Words of which figures alone decide which of them is true. Each is one token.
RELATIONS = ("above", "below", "positive", "negative", "high", "low", "middle")


def comparison(rng: np.random.Generator) -> tuple[str, str]:
    """(list, what is true of it): signs, sizes on a scale, limits, and which of two figures is the greater.

    What any language model knows of numbers; the names are invented, and nothing of the market follows.
    """
    figures: dict[str, float] = {}
    sentences: list[str] = []
    for _ in range(int(rng.integers(3, 6))):
        key = expand(_WORDS if rng.random() < 0.25 else _KEYS, rng)
        if key in figures:
            continue
        said, kind = _spoken(key, rng), rng.random()
        if kind < 0.4:
            value = round(float(rng.normal(0, 1)) * float(np.exp(rng.uniform(np.log(0.1), np.log(9)))), 2) + 0.0
            side = 0 if value > 0 else 1
            sentences.append(
                [
                    f"{said} is {RELATIONS[2 + side]} at {value:.10g}",
                    f"a {RELATIONS[2 + side]} {said} of {value:.10g}",
                    f"{said} of {value:.10g} is {RELATIONS[side]} zero",
                    f"{said} is {RELATIONS[side]} zero",
                ][int(rng.integers(4))]
            )
        elif kind < 0.75:
            scale, digits = (100, 1) if rng.random() < 0.5 else (1, 2)
            value = round(float(rng.uniform(0, scale)), digits)
            size = RELATIONS[4 if value >= 0.7 * scale else 5 if value < 0.3 * scale else 6]
            size = "in the middle" if size == "middle" else size
            sentences.append(
                [f"{said} of {value:.10g} is {size}", f"{said} is {size} at {value:.10g}"][int(rng.integers(2))]
            )
        else:
            value = round(float(rng.uniform(1, 99)), 1)
            limit = int(rng.integers(1, 10)) * 10
            sentences.append(f"{said} at {value:.10g} is {RELATIONS[int(value < limit)]} {limit}")
        figures[key] = value
    (one, a), (other, b) = list(figures.items())[:2]
    if a != b:
        sentences.append(f"{_spoken(one, rng)} is {RELATIONS[int(a < b)]} {_spoken(other, rng)}")
    rng.shuffle(sentences)
    keys = list(figures)
    rng.shuffle(keys)
    listed = "\n".join(f"{key}: {figures[key]:.10g}" for key in keys)
    return f"{listed}\n", [", ", "; ", ". ", " and "][int(rng.integers(4))].join(sentences) + "."


def document(rng: np.random.Generator, share_of_clippings: float = CLIPPINGS) -> str:
    """A document of one of the four kinds."""
    kind = rng.random()
    if kind < RECITALS:
        return "".join(recital(rng))
    if kind < RECITALS + COMPARISONS:
        return "".join(comparison(rng))
    return clippings(rng) if kind < RECITALS + COMPARISONS + share_of_clippings else note(rng)


def documents(count: int, seed: int) -> Iterator[str]:
    """`count` documents; the same seed gives the same ones."""
    rng = np.random.default_rng(seed)
    return (document(rng) for _ in range(count))

"""The decision for a market state and the words that explain it.

Both read the rounded figures that the record holds, so that an explanation is true of what the reader sees.
"""

from collections.abc import Mapping

import numpy as np

from trading_llm.phrases import say

Reading = dict[str, str]


def read(state: Mapping[str, float]) -> Reading:
    """What each indicator says, as one word: the facts on which decision and text rest."""
    close, sma, ema, rsi = state["close"], state["sma_20"], state["ema_50"], state["rsi_14"]
    band, volume, atr = state["bollinger_percent_b"], state["volume_ratio"], state["atr_percent"]
    return {
        "trend": "up" if close > sma > ema else "down" if close < sma < ema else "mixed",
        "rsi": _bucket(rsi, (30, "oversold"), (45, "soft"), (55, "neutral"), (70, "firm"), (np.inf, "overbought")),
        "macd": _bucket(state["macd"] - state["macd_signal"], (-1e-9, "below"), (1e-9, "level"), (np.inf, "above")),
        "band": _bucket(band, (0, "under"), (0.2, "low"), (0.8, "middle"), (1.0, "high"), (np.inf, "over")),
        "volume": _bucket(volume, (0.7, "thin"), (1.5, "ordinary"), (np.inf, "heavy")),
        "volatility": _bucket(atr, (1.5, "calm"), (3.0, "normal"), (np.inf, "wild")),
    }


def _bucket(value: float, *edges: tuple[float, str]) -> str:
    return next(name for edge, name in edges if value < edge)


_VOTES = {
    "trend": {"up": 1, "down": -1},
    "rsi": {"oversold": 2, "soft": -1, "firm": 1, "overbought": -2},
    "macd": {"above": 1, "below": -1},
    "band": {"under": 1, "over": -1},
}


def decide(reading: Reading) -> str:
    """BUY, SELL or HOLD: the indicators vote; extremes of the RSI count twice, thin volume vetoes."""
    score = sum(votes.get(reading[name], 0) for name, votes in _VOTES.items())
    if abs(score) < 2 or reading["volume"] == "thin":
        return "HOLD"
    return "BUY" if score > 0 else "SELL"


# Sentences per fact. `$figure` names a value of the market state.
_SENTENCES: dict[str, dict[str, list[str]]] = {
    "trend": {
        "up": [
            "{at $close|with the {close|price|last trade} at $close} $symbol {trades|stands|holds} above its "
            "20-day {average|mean|SMA} of $sma_20, which is itself {above|over} the 50-day EMA ({$ema_50}): "
            "{an intact uptrend|the trend is up|a rising trend|a {clean|healthy} advance}",
            "$symbol {is|remains|continues} in {an uptrend|a rising trend}: {price|close} $close, SMA 20 $sma_20, "
            "EMA 50 $ema_50, {stacked in rising order|each above the next|in bullish order}",
            "the {averages|moving averages} {support|back|favour} the {bulls|buyers}, "
            "{since|because|as} $close is above $sma_20 and {that|this|the SMA} is above $ema_50",
        ],
        "down": [
            "{at $close|with the {close|price|last trade} at $close} $symbol {trades|stands|sits} below its "
            "20-day {average|mean|SMA} of $sma_20, which is itself {below|under} the 50-day EMA ({$ema_50}): "
            "{an intact downtrend|the trend is down|a falling trend|a {steady|persistent} decline}",
            "$symbol {is|remains|continues} in {a downtrend|a falling trend}: {price|close} $close, SMA 20 $sma_20, "
            "EMA 50 $ema_50, {stacked in falling order|each below the next|in bearish order}",
            "the {averages|moving averages} {weigh on the price|favour the bears|favour sellers}, "
            "{since|because|as} $close is below $sma_20 and {that|this|the SMA} is below $ema_50",
        ],
        "mixed": [
            "$symbol at $close {shows|has|offers} no {clear|clean|settled} trend: the 20-day {average|mean|SMA} is "
            "$sma_20 and the 50-day EMA {is |}$ema_50",
            "{price and averages|the moving averages} {disagree|give no order|are tangled} "
            "($close, $sma_20, $ema_50), so the trend {is open|is undecided|carries no weight}",
        ],
    },
    "rsi": {
        "oversold": [
            "{the RSI|the 14-day RSI|RSI} {at|of} $rsi_14 is {deep in|inside|in} oversold territory, so "
            "{selling looks exhausted|a rebound is {likely|due}|sellers are running out of {breath|force}}",
            "an RSI of $rsi_14 {marks|means|signals} an oversold {market|stock}, {where rebounds "
            "start|ripe for a bounce}",
        ],
        "soft": [
            "{the RSI|the 14-day RSI|RSI} {at|of} $rsi_14 {shows|reveals|points to} {weak|soft|fading} momentum",
            "momentum is {soft|weak|sluggish}, {with|given} an RSI of {only |}$rsi_14",
        ],
        "neutral": [
            "{the RSI|the 14-day RSI|RSI} {at|of} $rsi_14 is {neutral|balanced|in the middle of its range}",
            "momentum {says little|is neutral|is even} {with|given} an RSI of $rsi_14",
        ],
        "firm": [
            "{the RSI|the 14-day RSI|RSI} {at|of} $rsi_14 {shows|reveals|points to} {firm|solid|strong} momentum",
            "momentum is {firm|solid|strong} {with|given} an RSI of $rsi_14, {not yet|still short of} overbought",
        ],
        "overbought": [
            "{the RSI|the 14-day RSI|RSI} {at|of} $rsi_14 is {deep in|inside|in} overbought territory, so "
            "{buying looks exhausted|a pullback is {likely|due}|buyers are running out of {breath|force}}",
            "an RSI of $rsi_14 {marks|means|signals} an overbought {market|stock}, {prone to a "
            "pullback|where rallies tire}",
        ],
    },
    "macd": {
        "above": [
            "{the MACD|MACD} ({$macd}) {is|runs|stands} above its signal line ({$macd_signal}), "
            "{a bullish sign|which favours the upside|so momentum is {building|improving}}",
            "{with|given} a MACD of $macd {over|above} a signal {line |}of $macd_signal, {momentum "
            "improves|buyers lead}",
        ],
        "below": [
            "{the MACD|MACD} ({$macd}) {is|runs|stands} below its signal line ({$macd_signal}), "
            "{a bearish sign|which favours the downside|so momentum is {fading|worsening}}",
            "{with|given} a MACD of $macd {under|below} a signal {line |}of $macd_signal, {momentum "
            "worsens|sellers lead}",
        ],
        "level": [
            "{the MACD|MACD} ($macd) {is level with|equals} its signal line ($macd_signal), {no sign "
            "either way|a draw}",
        ],
    },
    "band": {
        "under": [
            "the {close|price} has {broken|dropped} below the lower Bollinger band (%B $bollinger_percent_b), "
            "{a stretched move|an overreaction|usually too far}",
        ],
        "low": [
            "the {close|price} {hugs|sits near|is close to} the lower Bollinger band (%B $bollinger_percent_b), "
            "{near support|where support is found|a cheap area}",
        ],
        "middle": [
            "%B of $bollinger_percent_b {puts|places} the {close|price} {well |}inside the Bollinger bands, "
            "{with room on both sides|no extreme}",
        ],
        "high": [
            "the {close|price} {presses on|sits near|is close to} the upper Bollinger band (%B $bollinger_percent_b), "
            "{near resistance|where resistance is found|a dear area}",
        ],
        "over": [
            "the {close|price} has {broken|jumped} above the upper Bollinger band (%B $bollinger_percent_b), "
            "{a stretched move|an overreaction|usually too far}",
        ],
    },
    "volume": {
        "thin": [
            "volume is {thin|light|poor} at $volume_ratio times {its|the} average, so {no|hardly "
            "any} signal is confirmed",
            "{but|yet} {only |}$volume_ratio times the {usual|average} volume {confirms nothing|lacks conviction}",
        ],
        "ordinary": [
            "volume at $volume_ratio times {its|the} average is {ordinary|normal|unremarkable}",
            "{turnover|volume} ($volume_ratio times the {usual|average}) {adds little|is normal}",
        ],
        "heavy": [
            "heavy volume, $volume_ratio times {its|the} average, {confirms|backs|underlines} the move",
            "{turnover|volume} of $volume_ratio times the {usual|average} {shows conviction|confirms {it|the move}}",
        ],
    },
    "volatility": {
        "calm": ["{volatility|the ATR} is {calm|low} at $atr_percent%, {risk is small|which allows a normal size}"],
        "normal": ["{volatility|the ATR} is {normal|moderate} at $atr_percent%, {risk is fair|a usual stop will do}"],
        "wild": ["{volatility|the ATR} is {wild|high} at $atr_percent%, {keep the position small|use a wide stop}"],
    },
}

# Before a sentence that is not the first, if the dice say so.
_OPENERS = (
    "{meanwhile|at the same time|in addition|beside this|next|on this measure|as things stand|at present|for now|"
    "today}, "
)

# What could prove the decision wrong: before the conclusion, if the dice say so.
_CAVEATS = [
    "{the risk|the main risk|one risk|a caveat|the weak point|what speaks against it} is {a gap at the open|"
    "sudden news|an earnings surprise|a false signal|a turn of the whole market|a change of mood|a quiet session|"
    "a late reversal}",
    "{a close|a daily close|a move|a break} {back |}through {the 20-day average|the middle band|the last swing|"
    "{support|resistance}} would {change|alter|spoil|overturn} {this view|the picture|the case|this reading}",
    "{no single|not one} {indicator|signal|reading} {is proof|decides alone|is certain}, {so|and so} {a stop|"
    "a small size|a plan|a second look} {is advisable|makes sense|helps|does no harm}",
    "{as always|as ever|in any case} {a stop|a limit on losses|discipline|a clear plan} {protects|guards} against "
    "{being wrong|a surprise|a sharp reversal|a bad entry}",
]

_CONCLUSIONS = {
    "BUY": [
        "{on balance|all in all|overall|taken together} {the odds favour {a long position|buyers}|buying is justified}",
        "{this|the evidence|the picture} {argues for|supports|favours} {buying|a long position|an entry}",
    ],
    "SELL": [
        "{on balance|all in all|overall|taken together} {the odds favour {a short "
        "position|sellers}|selling is justified}",
        "{this|the evidence|the picture} {argues for|supports|favours} {selling|a short position|an exit}",
    ],
    "HOLD": [
        "{on balance|all in all|overall|taken together} {there is no edge|it is better to wait|patience is justified}",
        "{this|the evidence|the picture} {argues for|supports|favours} {waiting|no position|standing aside}",
    ],
}


def sentences() -> list[list[str]]:
    """All phrases, for whoever needs the vocabulary."""
    facts = [phrases for readings in _SENTENCES.values() for phrases in readings.values()]
    return [*facts, *_CONCLUSIONS.values(), _CAVEATS, [_OPENERS.rstrip(", ")]]


def figure(value: float) -> str:
    """A figure as prompt and explanation write it: no trailing zeros, no exponent for prices, no minus zero."""
    return f"{value + 0.0:.10g}"


def explain(symbol: str, state: Mapping[str, float], rng: np.random.Generator) -> tuple[str, str]:
    """(action, explanation): three or four of the voting readings in random order, perhaps volume and volatility, and
    a caveat, then the conclusion. Volume is always named where it decides (thin volume vetoes a trade)."""
    reading = read(state)
    action = decide(reading)
    facts = ["trend", "rsi", "macd", "band"]
    if rng.random() < 0.5:
        facts.remove(facts[int(rng.integers(len(facts)))])
    rng.shuffle(facts)
    if reading["volume"] == "thin" or rng.random() < 0.5:
        facts.append("volume")
    if rng.random() < 0.4:
        facts.append("volatility")
    figures = {name: figure(value) for name, value in state.items()} | {"symbol": symbol}
    sentences = []
    for fact in facts:
        # Sentences about volume may begin with "but".
        opened = sentences and fact != "volume" and rng.random() < 0.5
        phrases = _SENTENCES[fact][reading[fact]]
        sentences.append(say([_OPENERS + phrase for phrase in phrases] if opened else phrases, figures, rng))
    if rng.random() < 0.6:
        sentences.append(say(_CAVEATS, figures, rng))
    sentences.append(say(_CONCLUSIONS[action], figures, rng))
    return action, " ".join(f"{sentence}." for sentence in sentences)

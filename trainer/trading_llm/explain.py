"""The decision for a market state and the words that explain it.

Both read the rounded figures that the record holds, so that an explanation is true of what the reader sees.
"""

from collections.abc import Mapping

import numpy as np

from trading_llm.phrases import say

Reading = dict[str, str]


def read(state: Mapping[str, float]) -> Reading:
    """What each indicator says, as one word: the facts on which decision and text rest."""
    rsi, band = state["rsi_14"], state["bollinger_percent_b"]
    volume, atr = state["volume_ratio"], state["atr_percent"]
    distances = state["sma_20_distance_percent"], state["ema_50_distance_percent"]
    return {
        "trend": "up" if min(distances) > 0 else "down" if max(distances) < 0 else "mixed",
        "rsi": _bucket(rsi, (30, "oversold"), (45, "soft"), (55, "neutral"), (70, "firm"), (np.inf, "overbought")),
        "macd": _bucket(state["macd_histogram"], (-1e-9, "below"), (1e-9, "level"), (np.inf, "above")),
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
    if score == 0 or reading["volume"] == "thin":
        return "HOLD"
    return "BUY" if score > 0 else "SELL"


# Sentences per fact. `$figure` names a value of the market state.
_SENTENCES: dict[str, dict[str, list[str]]] = {
    "trend": {
        "up": [
            "{at $close|with the {close|price|last trade} at $close} $symbol {trades|stands|holds|is|remains|keeps} "
            "above its "
            "20-day {average|mean|SMA} of $sma_20 and above the 50-day EMA ($ema_50): "
            "{an intact uptrend|the trend is up|a rising trend|a {clean|healthy} advance|an uptrend by the book|a "
            "clear uptrend}",
            "$symbol {is|remains|continues|stays|trades|is still} in {an uptrend|a rising trend}: {price|close} "
            "$close, SMA 20 $sma_20, "
            "EMA 50 $ema_50, {a price above both|with both averages beneath it|the averages are support}",
            "the {averages|moving averages} {support|back|favour} the {bulls|buyers}, "
            "{since|because|as} $close is above $sma_20 and {also |}above $ema_50",
            "at $sma_20 and $ema_50 {both averages|the averages} {lie|are} beneath the {close|price|quote} of $close, "
            "{so|hence|which means} the trend is up",
        ],
        "down": [
            "{at $close|with the {close|price|last trade} at $close} $symbol {trades|stands|sits|is|remains|stays} "
            "below its "
            "20-day {average|mean|SMA} of $sma_20 and below the 50-day EMA ($ema_50): "
            "{an intact downtrend|the trend is down|a falling trend|a {steady|persistent} decline|a downtrend by the "
            "book|a clear downtrend}",
            "$symbol {is|remains|continues|stays|trades|is still} in {a downtrend|a falling trend}: {price|close} "
            "$close, SMA 20 $sma_20, "
            "EMA 50 $ema_50, {a price below both|with both averages overhead|the averages are resistance}",
            "the {averages|moving averages} {weigh on the price|favour the bears|favour sellers}, "
            "{since|because|as} $close is below $sma_20 and {also |}below $ema_50",
            "at $sma_20 and $ema_50 {both averages|the averages} {lie|are} above the {close|price|quote} of $close, "
            "{so|hence|which means} the trend is down",
        ],
        "mixed": [
            "$symbol at $close {shows|has|offers} no {clear|clean|settled} trend: the 20-day {average|mean|SMA} is "
            "$sma_20 and the 50-day EMA {is |}$ema_50",
            "{price and averages|the moving averages} {disagree|give no order|are tangled} "
            "($close, $sma_20, $ema_50), so the trend {is open|is undecided|carries no weight}",
            "{between|caught between} an SMA of $sma_20 and an EMA of $ema_50 the {close|price|quote} of $close "
            "{shows|makes|has} no {clear|definite} trend",
        ],
    },
    "rsi": {
        "oversold": [
            "{the RSI|the 14-day RSI|RSI|the RSI (14)|an RSI|a 14-day RSI} {at|of} $rsi_14 is {deep in|inside|in} "
            "oversold territory, so "
            "{selling looks exhausted|a rebound is {likely|due}|sellers are running out of {breath|force}}",
            "an RSI of $rsi_14 {marks|means|signals} an oversold {market|stock}, {where rebounds "
            "start|ripe for a bounce}",
            "{sellers have gone far|the fall has gone far}: {the RSI is|RSI is|the 14-day RSI is} $rsi_14 and oversold",
        ],
        "soft": [
            "{the RSI|the 14-day RSI|RSI|the RSI (14)|an RSI|a 14-day RSI} {at|of} $rsi_14 {shows|reveals|points "
            "to|signals|speaks of|stands for} {weak|soft|sluggish|rather weak|rather soft|fading} momentum",
            "momentum is {soft|weak|sluggish}, {with|given|seeing|considering} an RSI of {only |}$rsi_14",
            "{below the middle of its range|in the lower half} at $rsi_14, the RSI {speaks of|tells of} "
            "{weak|soft} momentum",
        ],
        "neutral": [
            "{the RSI|the 14-day RSI|RSI|the RSI (14)|an RSI|a 14-day RSI} {at|of} $rsi_14 is {neutral|balanced|in "
            "the middle of its range|quite neutral|evenly balanced}",
            "momentum {says little|is neutral|is even} {with|given|seeing|considering} an RSI of $rsi_14",
            "{no side leads|neither side leads} by the RSI, {neutral|balanced} at $rsi_14",
        ],
        "firm": [
            "{the RSI|the 14-day RSI|RSI|the RSI (14)|an RSI|a 14-day RSI} {at|of} $rsi_14 {shows|reveals|points "
            "to|signals|speaks of|stands for} {firm|solid|strong|healthy|rather firm|rather strong} momentum",
            "momentum is {firm|solid|strong} {with|given|seeing|considering} an RSI of $rsi_14, {not yet|still short "
            "of} overbought",
            "{above the middle of its range|in the upper half} at $rsi_14, the RSI {speaks of|tells of} "
            "{firm|strong} momentum",
        ],
        "overbought": [
            "{the RSI|the 14-day RSI|RSI|the RSI (14)|an RSI|a 14-day RSI} {at|of} $rsi_14 is {deep in|inside|in} "
            "overbought territory, so "
            "{buying looks exhausted|a pullback is {likely|due}|buyers are running out of {breath|force}}",
            "an RSI of $rsi_14 {marks|means|signals} an overbought {market|stock}, {prone to a "
            "pullback|where rallies tire}",
            "{buyers have gone far|the rise has gone far}: {the RSI is|RSI is|the 14-day RSI is} $rsi_14 and "
            "overbought",
        ],
    },
    "macd": {
        "above": [
            "{the MACD|MACD|today the MACD|the MACD line} ($macd) {is|runs|stands|sits|lies} above its signal line, "
            "{a bullish sign|a bullish signal|a bullish note|which favours the upside|so momentum is "
            "{building|improving}}: "
            "{the|its} histogram {is|reads|stands at|shows|measures|comes to} $macd_histogram",
            "{with|given|seeing|considering} a {positive |}MACD histogram of $macd_histogram, {the MACD is above its "
            "signal line|"
            "momentum improves|buyers lead}",
            "{buyers lead|momentum improves}: the MACD, at $macd, {has moved|is} above its signal line "
            "{by|with a histogram of} $macd_histogram",
        ],
        "below": [
            "{the MACD|MACD|today the MACD|the MACD line} ($macd) {is|runs|stands|sits|lies} below its signal line, "
            "{a bearish sign|a bearish signal|a bearish note|which favours the downside|so momentum is "
            "{fading|worsening}}: "
            "{the|its} histogram {is|reads|stands at|shows|measures|comes to} $macd_histogram",
            "{with|given|seeing|considering} a {negative |}MACD histogram of $macd_histogram, {the MACD is below its "
            "signal line|"
            "momentum worsens|sellers lead}",
            "{sellers lead|momentum worsens}: the MACD, at $macd, {has moved|is} below its signal line "
            "with a histogram of $macd_histogram",
        ],
        "level": [
            "{the MACD|MACD|today the MACD|the MACD line} ($macd) {is level with|equals} its signal line, {no sign "
            "either way|a draw}",
        ],
    },
    "band": {
        "under": [
            "the {close|price|quote} has {broken|dropped} below the lower Bollinger band (%B $bollinger_percent_b), "
            "{a stretched move|an overreaction|usually too far|a long way out|an excess|rarely for long}",
            "{outside|out of} the Bollinger channel, the {close|price|quote} is below the lower band "
            "{at|with} %B $bollinger_percent_b, {where moves tire|and moves rarely last there}",
        ],
        "low": [
            "the {close|price|quote} {hugs|sits near|is close to|lies near|is near} the lower Bollinger band (%B "
            "$bollinger_percent_b), "
            "{near support|where support is found|a cheap area|where buyers tend to come|close to a floor}",
            "%B of $bollinger_percent_b puts the {close|price|quote} near the lower Bollinger band, {a place "
            "for|where one "
            "looks for} support",
        ],
        "middle": [
            "%B of $bollinger_percent_b {puts|places} the {close|price|quote} {well |}inside the Bollinger bands, "
            "{with room on both sides|no extreme|a place without news|far from either edge|as on most days}",
            "{inside|within} the Bollinger bands (%B $bollinger_percent_b) the {close|price|quote} {is at no extreme|"
            "has room both ways}",
        ],
        "high": [
            "the {close|price|quote} {presses on|sits near|is close to|lies near|is near} the upper Bollinger band "
            "(%B $bollinger_percent_b), "
            "{near resistance|where resistance is found|a dear area|where sellers tend to come|close to a ceiling}",
            "%B of $bollinger_percent_b puts the {close|price|quote} near the upper Bollinger band, {a place "
            "for|where one "
            "looks for} resistance",
        ],
        "over": [
            "the {close|price|quote} has {broken|jumped} above the upper Bollinger band (%B $bollinger_percent_b), "
            "{a stretched move|an overreaction|usually too far|a long way out|an excess|rarely for long}",
            "{outside|out of} the Bollinger channel, the {close|price|quote} is above the upper band "
            "{at|with} %B $bollinger_percent_b, {where moves tire|and moves rarely last there}",
        ],
    },
    "volume": {
        "thin": [
            "volume is {thin|light|poor} at $volume_ratio times {its|the|its usual|the recent} average, so {no|hardly "
            "any} signal is confirmed",
            "{but|yet} {only |}$volume_ratio times the {usual|average|normal|typical} volume {confirms nothing|lacks "
            "conviction}",
            "{but|yet} {few|not many} take part: {thin|light} volume of $volume_ratio times the "
            "{usual|average|normal|typical}",
        ],
        "ordinary": [
            "volume at $volume_ratio times {its|the|its usual|the recent} average is "
            "{ordinary|normal|unremarkable|quite ordinary|as normal as can be}",
            "{turnover|volume} ($volume_ratio times the {usual|average|normal|typical}) {adds little|is normal}",
            "{nothing stands out|there is nothing} in an ordinary volume of $volume_ratio times the "
            "{usual|average|normal|typical}",
        ],
        "heavy": [
            "heavy volume, $volume_ratio times {its|the|its usual|the recent} average, "
            "{confirms|backs|underlines|supports|gives weight to} the move",
            "{turnover|volume} of $volume_ratio times the {usual|average|normal|typical} {shows conviction|confirms "
            "{it|the move}}",
            "{many|a crowd} take part: {heavy|high} volume of $volume_ratio times the {usual|average|normal|typical}",
        ],
    },
    "volatility": {
        "calm": [
            "{volatility|the ATR} is {calm|low} at $atr_percent%, {risk is small|which allows a normal size|a near "
            "stop is enough|days are quiet}",
            "{with|given|seeing|considering} an ATR of $atr_percent% {days are quiet|a near stop will do}: volatility "
            "is low",
        ],
        "normal": [
            "{volatility|the ATR} is {normal|moderate} at $atr_percent%, {risk is fair|a usual stop will do|a usual "
            "size is fine|no reason for haste}",
            "{with|given|seeing|considering} an ATR of $atr_percent% {days are as usual|a usual stop will do}: "
            "volatility is normal",
        ],
        "wild": [
            "{volatility|the ATR} is {wild|high} at $atr_percent%, {keep the position small|use a wide stop|take less "
            "than usual|expect rough days}",
            "{with|given|seeing|considering} an ATR of $atr_percent% {days are rough|only a wide stop will do}: "
            "volatility is high",
        ],
    },
}

# Before a sentence that is not the first, if the dice say so.
_OPENERS = (
    "{meanwhile|at the same time|in addition|beside this|next|on this measure|as things stand|at present|for now|"
    "today|to this add that|further|on the chart|for its part|as for the rest|by this light|seen from here|then|again|"
    "as it is|by now|in this market|on the day|at this level|after this session|beyond that|in detail|once more}, "
)
OPENED = 0.6
"""Share of the sentences, after the first, that begin with one."""

# What could prove the decision wrong: before the conclusion, if the dice say so.
_CAVEATS = [
    "{the risk|the main risk|one risk|another risk|a caveat|the weak point|the open question|what speaks against "
    "it|what may go wrong} is {a gap at the open|"
    "sudden news|a thin market|a failed breakout|a wave of selling|a rush of buying|an earnings surprise|a false "
    "signal|a turn of the whole market|a change of mood|a quiet session|"
    "a late reversal}",
    "{a close|a daily close|a move|a break} {back |}through {the 20-day average|the middle band|the last swing|"
    "{support|resistance}} would {change|alter|spoil|overturn|weaken|end|refute|undo} {this view|the picture|the "
    "case|this reading}",
    "{no single|not one} {indicator|signal|reading} {is proof|decides alone|is certain}, {so|and so} {a stop|"
    "a small size|a plan|a second look} {is advisable|makes sense|helps|does no harm}",
    "{as always|as ever|in any case} {a stop|a limit on losses|discipline|a clear plan|a modest size|a second look} "
    "{protects|guards} against "
    "{being wrong|a surprise|a sharp reversal|a bad entry}",
    "{be wrong|err} {early|in time|cheaply}: {a stop|an exit} {under|at} {the last low|the last swing|a round price} "
    "{limits|caps} the {loss|damage|risk}",
    "{news|results|a rate decision|the weekend} {may|might|could} {overrule|outweigh|undo} {all of this|the chart|"
    "every indicator}, {so|hence} {size|the position} {matters|must be chosen with care}",
]

_CONCLUSIONS = {
    "BUY": [
        "{on balance|all in all|overall|taken together|in sum|in short|in conclusion|to sum up} {the odds favour {a "
        "long position|buyers}|buying is justified}",
        "{this|the evidence|the picture|the setup|the chart|all this} {argues for|supports|favours|points "
        "to|suggests|justifies} {buying|a long position|an entry|going long}",
    ],
    "SELL": [
        "{on balance|all in all|overall|taken together|in sum|in short|in conclusion|to sum up} {the odds favour {a "
        "short "
        "position|sellers}|selling is justified}",
        "{this|the evidence|the picture|the setup|the chart|all this} {argues for|supports|favours|points "
        "to|suggests|justifies} {selling|a short position|an exit|going short}",
    ],
    "HOLD": [
        "{on balance|all in all|overall|taken together|in sum|in short|in conclusion|to sum up} {there is no edge|it "
        "is better to wait|patience is justified}",
        "{this|the evidence|the picture|the setup|the chart|all this} {argues for|supports|favours|points "
        "to|suggests|justifies} {waiting|no position|standing aside|patience}",
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
    """(action, explanation): the readings that vote, perhaps without one that votes for nothing, in random order,
    perhaps volume and volatility, and a caveat, then the conclusion. Whatever decides is named, thin volume too (it
    vetoes a trade)."""
    reading = read(state)
    action = decide(reading)
    facts = list(_VOTES)
    silent = [fact for fact in facts if reading[fact] not in _VOTES[fact]]
    if silent and rng.random() < 0.5:
        facts.remove(silent[int(rng.integers(len(silent)))])
    rng.shuffle(facts)
    if reading["volume"] == "thin" or rng.random() < 0.5:
        facts.append("volume")
    if rng.random() < 0.4:
        facts.append("volatility")
    figures = {name: figure(value) for name, value in state.items()} | {"symbol": symbol}
    sentences = []
    for fact in facts:
        # Sentences about volume may begin with "but".
        opened = sentences and fact != "volume" and rng.random() < OPENED
        phrases = _SENTENCES[fact][reading[fact]]
        sentences.append(say([_OPENERS + phrase for phrase in phrases] if opened else phrases, figures, rng))
    if rng.random() < 0.7:
        sentences.append(say(_CAVEATS, figures, rng))
    sentences.append(say(_CONCLUSIONS[action], figures, rng))
    return action, " ".join(f"{sentence}." for sentence in sentences)

"""The scores of a text, 0 to 1 where 1 is good. Pure functions of the texts: the same input gives the same score."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping

from trading_llm.quality.claims import Claims, claims_of, clauses_of
from trading_llm.quality.indicators import figures_in, names_in, own_kinds
from trading_llm.quality.language import fluency

CRITERIA = (
    "variety", "coherence", "references", "readings", "grounding", "action", "structure", "balance", "terminology",
)  # fmt: skip

#: Correctly quoted indicators, true readings, evidence sentences and terms from which on there are enough of them.
ENOUGH_REFERENCES, ENOUGH_READINGS, ENOUGH_EVIDENCE, ENOUGH_TERMS = 3, 2, 3, 6


def score(prompt: str, text: str, action: str | None = None) -> dict[str, float]:
    """Scores by criterion of the explanation `text` that was generated for `prompt`.

    `action` is the recommendation that is right (BUY, SELL or HOLD; None: not known). `references`, `readings` and
    `grounding` are left out for a prompt without figures.
    """
    figures = figures_in(prompt)
    claims = claims_of(text, figures)
    sentences = sentences_of(text)
    own = own_kinds(figures)
    scores = {"variety": _variety(text), "coherence": _coherence(text, sentences, claims)}
    if figures:
        scores["references"] = _references(claims, len(figures))
        scores["readings"] = _share(sum(claims.readings), len(claims.readings), ENOUGH_READINGS)
        scores["grounding"] = _grounding(claims)
    scores["action"] = _action(text, sentences, action)
    scores["structure"] = _structure(text, sentences, own)
    scores["balance"] = _balance(text, claims)
    scores["terminology"] = min(1.0, len(terms_in(text)) / ENOUGH_TERMS)
    return scores


def mean_scores(scores: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Mean of each criterion over the texts that have it, rounded to four digits."""
    every = list(scores)
    return {
        criterion: round(sum(found) / len(found), 4)
        for criterion in CRITERIA
        if (found := [one[criterion] for one in every if criterion in one])
    }


def sentences_of(text: str) -> list[str]:
    """Sentences of the text, without the line that only names the action."""
    found = [piece.strip() for piece in re.split(r"(?<=[.!?])\s+|\n+", text)]
    return [piece for piece in found if piece and not _ACTION_LINE.fullmatch(piece)]


def words_of(text: str) -> list[str]:
    """Lower-case words and numbers."""
    return re.findall(r"[a-z]+(?:'[a-z]+)?|\d+(?:\.\d+)?", text.lower())


# -- repetition, coherence --------------------------------------------------------------------------------------------


def _variety(text: str) -> float:
    """1 without repetition; a text in which half of the runs of three words were there before has 0."""
    words = words_of(text)
    if not words:
        return 0.0
    runs = Counter(zip(words, words[1:], words[2:], strict=False))
    repeated = 1 - len(runs) / runs.total() if runs else 0.0
    # "buy buy buy" has no run to repeat.
    monotony = max(0.0, 1 - len(set(words)) / len(words) - 0.5) if len(words) > 3 else 0.0
    return max(0.0, 1 - 2 * max(repeated, monotony))


def _coherence(text: str, sentences: list[str], claims: Claims) -> float:
    """Sentences of words in a possible order, the text finished, nothing said of an indicator and its opposite."""
    if not sentences:
        return 0.0
    fluent = sum(fluency(sentence) for sentence in sentences) / len(sentences)
    finished = 1.0 if re.search(r"[.!?][\"')\]]*$", sentences[-1]) else 0.8
    stances = {stance for sentence in sentences if (stance := _stance(sentence)) is not None}
    contradictions = claims.contradictions + ({"BUY", "SELL"} <= stances)
    return fluent * finished * 0.7**contradictions


# -- what it says of the prompt ---------------------------------------------------------------------------------------


def _references(claims: Claims, figures: int) -> float:
    """Share of quoted figures that are right, when there are enough of them; a bare name counts half."""
    right = len(claims.quoted) + 0.5 * len(claims.named - claims.quoted - claims.mistaken)
    return _share(right, right + claims.misquoted, min(ENOUGH_REFERENCES, figures))


def _grounding(claims: Claims) -> float:
    """Share of the numbers that the prompt has, times that of the indicators; nothing for a text that has neither."""
    if not claims.names + claims.numbers:
        return 0.0
    return (1 - claims.invented_names / max(1, claims.names)) * (1 - claims.invented_numbers / max(1, claims.numbers))


def _share(right: float, all_of_them: float, enough: float) -> float:
    return right / all_of_them * min(1.0, right / enough) if all_of_them else 0.0


# -- the recommendation -----------------------------------------------------------------------------------------------

_STANCES = {
    "BUY": r"\b(?:buy(?:ing)?|long position|go(?:ing)? long|an entry|favou?rs? (?:the )?(?:buyer|bull)s)\b",
    "SELL": r"\b(?:sell(?:ing)?|short position|go(?:ing)? short|an exit|favou?rs? (?:the )?(?:seller|bear)s)\b",
    "HOLD": (
        r"\b(?:hold(?:ing)?(?= |\.|,|$|:)|wait(?:ing)?|stand(?:ing)? aside|stay(?:ing)? (?:out|flat|on the sidelines)|"
        r"no (?:position|edge|trade)|patience)\b"
    ),
}
_ACTION_LINE = re.compile(r"\W*(?:(?:action|recommendation|decision)\W+)?(BUY|SELL|HOLD)\W*", re.IGNORECASE)
_RECOMMENDED = re.compile(
    r"\b(?:recommend\w*|action|decision|verdict|advice|conclusion|call)\b\W+(?:\w+\W+){0,3}?(buy|sell|hold)",
    re.IGNORECASE,
)
_CLOSING = re.compile(
    r"\b(?:overall|on balance|all in all|taken together|in (?:conclusion|summary|short)|therefore|thus|hence|"
    r"consequently|accordingly|in sum|to sum up|(?:(?:all )?this|these|the (?:evidence|picture|odds|setup|signals?|"
    r"chart)) (?:\w+ )?(?:argues?|supports?|favou?rs?|points?|suggests?|justif\w+))\b", re.IGNORECASE,
)  # fmt: skip


def stated_action(text: str) -> str | None:
    """The action that the text recommends: at its start, by a word such as "recommendation", or in its conclusion."""
    lines = [line for line in text.splitlines() if line.strip()]
    first = _ACTION_LINE.fullmatch(lines[0].strip()) or re.match(r"\W*(BUY|SELL|HOLD)\b", text) if lines else None
    found = first or _RECOMMENDED.search(text)
    if found is not None:
        return found[1].upper()
    return _conclusion(sentences_of(text))


def _stance(sentence: str) -> str | None:
    """What a closing sentence argues for; None for other sentences and where it is not one thing."""
    if not _CLOSING.search(sentence):
        return None
    found = [name for name, pattern in _STANCES.items() if re.search(pattern, sentence, re.IGNORECASE)]
    # "no reason to sell" argues for nothing.
    if len(found) != 1 or re.search(
        r"\b(?:not|never|no reason to|against)\W+(?:\w+\W+)?" + _STANCES[found[0]], sentence
    ):
        return None
    return found[0]


def _conclusion(sentences: list[str]) -> str | None:
    return next((stance for sentence in reversed(sentences[-3:]) if (stance := _stance(sentence))), None)


def _action(text: str, sentences: list[str], right: str | None) -> float:
    """1 for the right action that the conclusion argues for, too; half where the conclusion argues for another one."""
    stated = stated_action(text)
    if stated is None or (right is not None and stated != right):
        return 0.0
    conclusion = _conclusion(sentences)
    return 1.0 if conclusion in {None, stated} else 0.5


# -- how it argues ----------------------------------------------------------------------------------------------------

_LINKS = re.compile(
    r"\b(?:because|since|as|so|therefore|thus|hence|which|given|with|due to|means?|meaning|indicat\w+|suggest\w*|"
    r"signals|confirm\w*|impl(?:y|ies|ying)|argues? for|supports?|points? to|shows?)\b", re.IGNORECASE,
)  # fmt: skip
_CONTRAST = re.compile(
    r"\b(?:but|yet|however|although|though|while|whereas|despite|nevertheless|on the other hand|still short of|even so|"
    r"no (?:edge|clear|order)|disagree|mixed|both sides|either way)\b", re.IGNORECASE,
)  # fmt: skip
_RISK = re.compile(
    r"\b(?:risk\w*|stop(?:s|-loss)?|volatil\w+|atr|caution\w*|position size|(?:small|normal) (?:position|size)|may|"
    r"might|could|likely|unless|if|confirm\w*|conviction|uncertain\w*|pullback|reversal|stretched|overreaction|"
    r"caveat|gap|surprise|protects?|hedge|invalidat\w+|false signal|what speaks against|no single|"
    r"would (?:change|alter|spoil|overturn))\b",
    re.IGNORECASE,
)  # fmt: skip
_FOR, _AGAINST = (
    re.compile(rf"\b(?:{words})\b", re.IGNORECASE)
    for words in (
        r"bullish|uptrend|buyers|bulls|upside|rebound|oversold|support|bounce|rising trend|building|improv\w+",
        r"bearish|downtrend|sellers|bears|downside|pullback|overbought|resistance|falling trend|fading|worsen\w+",
    )
)


def _structure(text: str, sentences: list[str], own: tuple[str, ...]) -> float:
    """Mean of: an action is stated, evidence, reasons that are linked to it, a conclusion as the last sentence."""
    evidence = sum(bool(names_in(sentence, own)) for sentence in sentences)
    links = sum(bool(_LINKS.search(clause)) for clause in clauses_of(text) if names_in(clause, own))
    closed = bool(sentences) and bool(_CLOSING.search(sentences[-1]))
    parts = (
        float(stated_action(text) is not None),
        min(1.0, evidence / ENOUGH_EVIDENCE),
        min(1.0, links / 2),
        float(closed),
    )
    return sum(parts) / len(parts)


def _balance(text: str, claims: Claims) -> float:
    """Half for both sides or a contrast, half for risk or doubt; nothing for a text that gives no evidence."""
    if not claims.names + claims.numbers:
        return 0.0
    both = bool(_CONTRAST.search(text)) or (bool(_FOR.search(text)) and bool(_AGAINST.search(text)))
    return 0.5 * both + 0.5 * bool(_RISK.search(text))


_TERMS = re.compile(
    r"\b(?:trend|uptrend|downtrend|momentum|support|resistance|breakout|pullback|rebound|reversal|rally|correction|"
    r"consolidation|overbought|oversold|bullish|bearish|bulls|bears|buyers|sellers|moving averages?|sma|ema|rsi|macd|"
    r"signal line|bollinger|bands?|atr|volatility|volume|turnover|crossover|divergence|(?:long|short) position|"
    r"stop|risk|entry|exit|position|upside|downside|conviction|liquidity|retracement|range|histogram|oscillator|bounce|"
    r"price action)\b",
    re.IGNORECASE,
)


def terms_in(text: str) -> set[str]:
    """Different words of the trade."""
    return {term.lower().rstrip("s") for term in _TERMS.findall(text)}

"""Whether a sentence can be English: words of a possible shape, in an order that small function words allow."""

import re


def _words(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"\w+", text))


_ARTICLES = _words("the a an its their our your his her")
_PREPOSITIONS = _words("of at with from by for into between above below over under near on in to against")
_VERBS = _words("is are was were be been has have had does do will would can could may might should must")
_CONJUNCTIONS = _words("and or but so because since while although which that if as than when where yet")
_OTHERS = _words(
    "this these those it they he she we you i not no any some all both each more most less very too only just also "
    "there here then now still even such what who how up down out off again itself"
)
_FUNCTION_WORDS = _ARTICLES | _PREPOSITIONS | _VERBS | _CONJUNCTIONS | _OTHERS
_BINDING = _words("of with from for at by between into")
_NEVER_BEHIND = (_VERBS | _CONJUNCTIONS | set(".,;:!?)")) - _words("that which when where if than")
_NEVER_BEHIND_ARTICLES = _words("of from by into that if when")

#: Share of function words from which on a sentence reads as English; running text has 0.3 to 0.5, lists of terms less.
_USUAL_SHARE = 0.18
_TOKEN = re.compile(r"[A-Za-z]+(?:[-'][A-Za-z]+)*|\d+(?:[.,]\d+)*|[^\sA-Za-z\d]")
_ODD = re.compile(r"[^\w\s.,;:!?%$()/'\"–—“”‘’&*+-]")
_WORD = re.compile(r"[A-Za-z]+(?:[-'][A-Za-z]+)*")


def fluency(sentence: str) -> float:
    """0 (a heap of tokens) to 1 (a sentence that can be English)."""
    tokens = _TOKEN.findall(sentence)
    words = [token for token in tokens if _WORD.fullmatch(token)]
    if len(words) < 2:
        return 0.0
    function = sum(word.lower() in _FUNCTION_WORDS for word in words)
    usual = min(1.0, function / len(words) / _USUAL_SHARE)
    shaped = sum(map(_is_shaped, words)) / len(words)
    odd = len(_ODD.findall(sentence)) / len(tokens)
    # Of the places where order can be wrong, how many are: "the of", "of is", "the.".
    places = [(token.lower(), after.lower()) for token, after in zip(tokens, [*tokens[1:], "."], strict=True)]
    binding = [pair for pair in places if pair[0] in _ARTICLES | _PREPOSITIONS]
    broken = sum(_is_impossible(*pair) for pair in binding) / max(2, len(binding))
    begins = sentence.lstrip("\"'(-*• ")[:1]
    started = 1.0 if begins.isupper() or begins.isdigit() or begins in "%$" else 0.8
    length = 1.0 if len(words) <= 60 else 0.5
    return usual * shaped**2 * max(0.0, 1 - 2 * broken) * max(0.0, 1 - 2 * odd) * started * length


def _is_shaped(word: str) -> bool:
    """Letters that can be a word: a vowel among not too many consonants, one case; a short code in capitals."""
    if word.isupper():
        return len(word) <= 6
    if len(word) > 20 or not re.search(r"[aeiouy]", word, re.IGNORECASE) or re.search(r"[a-z][A-Z]", word):
        return False
    return not re.search(r"[^aeiouy'-]{5}|[aeiou]{4}|(.)\1\1", word, re.IGNORECASE)


def _is_impossible(first: str, second: str) -> bool:
    """`first` is an article or a preposition."""
    if second in _NEVER_BEHIND:
        return first in _ARTICLES | _BINDING
    return first in _ARTICLES and second in _ARTICLES | _NEVER_BEHIND_ARTICLES

"""Text with variety: phrases with alternatives in braces, one of which is drawn at random.

`{a|b {c|d}}` stands for "a", "b c" or "b d". Figures are put in afterwards, as `$name`.
"""

import re
import string

import numpy as np

_INNERMOST = re.compile(r"\{([^{}]*)\}")


def expand(phrase: str, rng: np.random.Generator) -> str:
    """One of the texts that `phrase` stands for; `$name` is left as it is."""
    while match := _INNERMOST.search(phrase):
        options = match.group(1).split("|")
        phrase = phrase[: match.start()] + options[int(rng.integers(len(options)))] + phrase[match.end() :]
    return phrase


def say(phrases: list[str], figures: dict[str, str], rng: np.random.Generator) -> str:
    """A sentence from one of `phrases`, with the figures filled in and a capital at the start."""
    text = string.Template(expand(phrases[int(rng.integers(len(phrases)))], rng)).substitute(figures)
    return text[0].upper() + text[1:]

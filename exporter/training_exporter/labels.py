"""Text from outside as the value of a label: whatever it is, Prometheus takes the page that it stands on.

Names, settings, paths and generated texts may hold anything: half a character of a foreign file name, control
characters, ten thousand letters. Prometheus refuses a whole page for one such label.
"""

from __future__ import annotations

import hashlib
import unicodedata
from functools import lru_cache

#: Characters kept of a name or a setting: it stands on every series, and in every message.
MAX_CHARACTERS = 200
#: Bytes kept of any text: the shipped prometheus.yml refuses a page with a label longer than 1024.
MAX_BYTES = 900

#: Control characters, and halves of a surrogate pair, which UTF-8 cannot have.
_NO_TEXT = frozenset({"Cc", "Cs"})


def clip(text: str, most: int = MAX_CHARACTERS) -> str:
    """`text` as a label can carry it: at most `most` characters and MAX_BYTES bytes, without control characters.

    Line breaks stay; what was cut off is marked by an ellipsis.
    """
    if text.isascii() and text.isprintable() and len(text) <= most:
        return text
    clean = "".join(c if c == "\n" or unicodedata.category(c) not in _NO_TEXT else " " for c in text[: 2 * most])
    short = clean[:most].encode()[:MAX_BYTES].decode(errors="ignore")
    return short if len(short) == len(text) else short[: most - 1] + "…"


@lru_cache(maxsize=1024)
def run_label(run: str) -> str:
    """The label `run` of the run of that name: the name itself where a label can carry it.

    Otherwise what it can carry of it, and a digest, so that two runs stay two.
    """
    if run and clip(run) == run:
        return run
    end = f"-{digest(run)}"
    return clip(run, MAX_CHARACTERS - len(end)) + end


def digest(name: str) -> str:
    """Eight characters that tell a name from others."""
    return hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()[:8]

"""The scores of generated text, by stage, and the latest texts: bounded whatever a journal brings."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping

from training_exporter.events import TEXT_STAGES, TextSample, TextScored

#: Texts kept of the latest stage.
MAX_SAMPLES = 3
#: Characters kept of a prompt and of a text; and bytes, because Prometheus refuses a page with a longer label.
MAX_PROMPT, MAX_TEXT, MAX_BYTES = 400, 600, 900
#: Criteria kept per stage.
MAX_CRITERIA = 20
_CRITERION = re.compile(r"[a-z][a-z0-9_]{0,39}")


class TextQuality:
    """Scores by stage and criterion, and the last texts. `stage` is the latest one, None before the first."""

    def __init__(self) -> None:
        self.stage: str | None = None
        self.step: int | None = None
        self.scores: dict[str, Mapping[str, float]] = {}
        self.samples: tuple[TextSample, ...] = ()

    def add(self, event: TextScored) -> None:
        """Take the scores of a stage; those of an earlier one than the latest do not replace its texts."""
        names = [name for name in event.scores if _CRITERION.fullmatch(name)][:MAX_CRITERIA]
        self.scores[event.stage] = {name: event.scores[name] for name in names}
        if self.stage is None or TEXT_STAGES.index(event.stage) >= TEXT_STAGES.index(self.stage):
            self.stage, self.step = event.stage, event.step
            self.samples = tuple(
                TextSample(clip(sample.prompt, MAX_PROMPT), clip(sample.text, MAX_TEXT))
                for sample in event.samples[:MAX_SAMPLES]
            )


def clip(text: str, most: int) -> str:
    """`text` as a label can carry it: at most `most` characters and MAX_BYTES bytes, without control characters.

    Line breaks stay; what was cut off is marked by an ellipsis. A model that has gone wrong writes anything.
    """
    clean = "".join(c if c == "\n" or unicodedata.category(c) not in {"Cc", "Cs"} else " " for c in text[: 2 * most])
    short = clean[:most].encode()[:MAX_BYTES].decode(errors="ignore")
    return short if len(short) == len(text) else short[: most - 1] + "…"

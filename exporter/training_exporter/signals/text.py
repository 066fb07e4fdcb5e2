"""The scores of generated text, by stage, and the latest texts: bounded whatever a journal brings."""

from __future__ import annotations

import re
from collections.abc import Mapping

from training_exporter.events import TEXT_STAGES, TextSample, TextScored
from training_exporter.labels import clip

#: Texts kept of the latest stage.
MAX_SAMPLES = 3
#: Characters kept of a prompt and of a text: a model that has gone wrong writes anything.
MAX_PROMPT, MAX_TEXT = 400, 600
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
        if event.stage not in TEXT_STAGES:
            return
        names = [name for name, score in event.scores.items() if _CRITERION.fullmatch(name) and 0 <= score <= 1][
            :MAX_CRITERIA
        ]
        self.scores[event.stage] = {name: event.scores[name] for name in names}
        if self.stage is None or TEXT_STAGES.index(event.stage) >= TEXT_STAGES.index(self.stage):
            self.stage, self.step = event.stage, event.step
            self.samples = tuple(
                TextSample(clip(sample.prompt, MAX_PROMPT), clip(sample.text, MAX_TEXT))
                for sample in event.samples[:MAX_SAMPLES]
            )

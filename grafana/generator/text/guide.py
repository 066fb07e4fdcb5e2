"""What the guide expects of the texts at each stage, and what each criterion means: read from where they stand."""

from __future__ import annotations

import re

from generator import facts
from generator.facts import GeneratorError
from training_exporter import profile
from training_exporter.events import TEXT_STAGES

GUIDE = facts.ROOT / "docs" / "guide.md"
PROFILE = facts.ROOT / "exporter" / "training_exporter" / "profiles" / "default.yaml"

#: Stage -> how the guide's headings begin.
_HEADINGS = dict(zip(TEXT_STAGES, ("Early Training", "Mid Training", "End Training"), strict=True))


def stage_title(stage: str) -> str:
    """The guide's heading: its name, and when it is."""
    return _section(stage)[0]


def expectations() -> str:
    """The guide's words for all stages, as Markdown."""
    return "\n\n".join(f"**{title}**  \n{'; '.join(points)}" for title, points in map(_section, TEXT_STAGES))


def criteria() -> dict[str, str]:
    """Criterion -> what it measures, as the comments of the shipped profile say it."""
    text = PROFILE.read_text(encoding="utf-8")
    found = {}
    for name in profile.default().text_quality[TEXT_STAGES[0]]:
        comment = re.search(rf"^ +{name}: [\d.]+ # (.+)$", text, re.MULTILINE)
        if comment is None:
            raise GeneratorError(f"{PROFILE}: text_quality: {name}: found no comment, allowed: what it measures")
        found[name] = comment[1]
    return found


def _section(stage: str) -> tuple[str, list[str]]:
    text = GUIDE.read_text(encoding="utf-8")
    found = re.search(rf"^### ({_HEADINGS[stage]}[^\n]*)\n+((?:- [^\n]*\n)+)", text, re.MULTILINE)
    if found is None:
        raise GeneratorError(f"{GUIDE}: found no heading {_HEADINGS[stage]!r} with a list below it, allowed: one")
    return found[1], re.findall(r"^- (.+)$", found[2], re.MULTILINE)

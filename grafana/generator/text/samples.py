"""The texts themselves."""

from __future__ import annotations

from generator.model import Panel, Target
from generator.panels import joined
from generator.queries import RUN
from generator.style import Grid, column, words
from generator.text import guide
from generator.text.scores import NOT_YET
from training_exporter.events import TEXT_STAGES


def texts(id: int, grid: Grid) -> Panel:
    seen = f"last_over_time(timestamp(llm_training_text_sample_info{RUN})[$__range:$__interval])"
    # Grafana 12 has it among the options of the cell, 13 beside them.
    wrapped = {"custom__wrapText": True, "custom__cellOptions": {"type": "auto", "wrapText": True}}
    return joined(
        id,
        "Texts that the model wrote",
        "A few of each stage, the latest first; long ones are cut off, and whole in the run's output directory. Good: "
        "as the guide says of the stage, above. Read them: no score replaces it.",
        [Target(f"max by (stage, sample, prompt, text) (1000 * {seen})", table=True)],
        grid,
        no_value=NOT_YET,
        columns={"stage": "Stage", "text": "Text", "prompt": "Prompt", "sample": "No.", "Value": "Last seen"},
        overrides=[
            column(
                "Stage",
                custom__width=90,
                mappings=[words({name: (guide.stage_title(name).split(" ")[0], None) for name in TEXT_STAGES})],
            ),
            column("Prompt", custom__width=560, **wrapped),
            column("Text", custom__minWidth=420, **wrapped),
            column("No.", custom__width=55),
            column("Last seen", custom__width=190, unit="dateTimeAsLocal"),
        ],
        transformations=[  # the second sorts what the first has sorted: the latest stage first, in it by number
            {"id": "sortBy", "options": {"fields": {}, "sort": [{"field": name, "desc": descending}]}}
            for name, descending in (("sample", False), ("Value", True))
        ],
    )

"""What happened in the run, and when: as timelines, and as marks on all charts."""

from __future__ import annotations

from generator.model import Annotation, Panel, Target
from generator.panels import timeline
from generator.queries import RUN
from generator.run.tiles import STATE_COLORS
from generator.style import ACT, GOOD, LOOK, MAIN, NEUTRAL, SECOND, Grid, words
from training_exporter.events import STATES


def annotations() -> list[Annotation]:
    """Evaluations, checkpoints and the beginning of each alert. Each query gives a point where something is new."""
    firing = 'max by (alertname, severity) (ALERTS{run="$run",alertstate="firing"})'
    before = 'max by (alertname, severity) (ALERTS{run="$run",alertstate="firing"} offset $__interval)'
    return [
        Annotation("Alerts", f"{firing} unless {before}", ACT, "{{alertname}}", "{{severity}}"),
        Annotation(
            "Checkpoints",
            f"changes(llm_training_checkpoints_total{RUN}[$__interval]) > 0",
            GOOD,
            "Checkpoint saved",
        ),
        Annotation(
            "Evaluations",
            f"changes(llm_training_evaluations_total{RUN}[$__interval]) > 0",
            SECOND,
            "Evaluation done",
            on=False,  # the validation loss's points show them; they would hide the others
        ),
    ]


def states(id: int, grid: Grid) -> Panel:
    numbered = " or ".join(
        f'{number} * (max by (run) (llm_training_state{{run="$run",state="{name}"}}) == 1)'
        for number, name in enumerate(STATES, 1)
    )
    return timeline(
        id,
        "State over time",
        "What the run was doing at each scrape. Good: training, with short evaluations and checkpoints, then "
        "completed. A gap: it could not be scraped.",
        [Target(numbered, "state")],
        grid,
        no_value="no run",
        mappings=[words({str(n): (name.capitalize(), STATE_COLORS[name]) for n, name in enumerate(STATES, 1)})],
    )


def alerts(id: int, grid: Grid) -> Panel:
    levels = " or ".join(
        f'{level} * max by (alertname) (ALERTS{{run="$run",{which}}})'
        for level, which in (
            (4, 'alertstate="firing",severity="critical"'),
            (3, 'alertstate="firing",severity="warning"'),
            (2, 'alertstate="firing",severity="info"'),
            (1, 'alertstate="pending"'),
        )
    )
    calm = f'label_replace(0 * max(llm_training_state{RUN}), "alertname", "any", "", "")'
    return timeline(
        id,
        "Alerts over time",
        "Which alerts of the run were firing, or waiting whether it lasts (pending). Good: none.",
        [Target(f"{levels} or {calm} unless on () max(ALERTS{RUN})", "{{alertname}}")],
        grid,
        no_value="no run",
        mappings=[
            words(
                {
                    "0": ("none", NEUTRAL),
                    "1": ("pending", NEUTRAL),
                    "2": ("info", MAIN),
                    "3": ("warning", LOOK),
                    "4": ("critical", ACT),
                }
            )
        ],
    )

"""Tables: what fires, and what the run was started with."""

from __future__ import annotations

from generator import facts
from generator.model import Panel, Target
from generator.queries import OF_THIS_RUN, firing, settings
from generator.style import ACT, GOOD, LOOK, MAIN, NO_RUN, Grid, column, table, words
from training_exporter.families import SETTINGS

SETTING_NAMES = {
    "base_model": "Base model",
    "dataset": "Dataset",
    "batch_size": "Batch size",
    "gradient_accumulation_steps": "Accumulation steps",
    "learning_rate": "Peak learning rate",
    "lr_scheduler": "Schedule",
    "lora_r": "LoRA rank",
    "quantization": "Quantization",
    "num_epochs": "Epochs",
    "git_commit": "Git commit",
}


def firing_alerts(id: int, grid: Grid) -> Panel:
    severities = {"critical": ("critical", ACT), "warning": ("warning", LOOK), "info": ("info", MAIN)}
    summaries = {f"{alert.name}/{alert.severity}": (alert.summary, None) for alert in facts.alerts()}
    return table(
        id,
        "Firing alerts",
        "Alerts of this run, of GPUs and of targets: how bad, which, what it means, where, since when. The alert's "
        "name leads to its runbook: what to do. Good: none.",
        Target(firing(OF_THIS_RUN), table=True),
        grid,
        no_value="No word from the alert rules: not even the Watchdog fires",
        columns={"severity": "Severity", "alertname": "Alert", "what": "Meaning", "where": "Where", "Value": "Since"},
        header=False,
        overrides=[
            column(
                "Severity",
                custom__width=110,
                custom__cellOptions={"type": "color-background", "mode": "basic"},
                mappings=[words({**severities, "none": ("all well", GOOD)})],
            ),
            column(
                "Alert",
                custom__width=170,
                links=[{"title": "Runbook", "url": "${runbooks}/${__data.fields.Alert}", "targetBlank": True}],
            ),
            column(
                "Meaning",
                custom__minWidth=320,
                mappings=[words({**summaries, "Watchdog/none": ("No alert of this run is firing.", None)})],
            ),
            column("Where", custom__width=280),
            column("Since", custom__width=150, unit="dateTimeFromNow", mappings=[words({"0": (" ", None)})]),
        ],
    )


def run_settings(id: int, grid: Grid) -> Panel:
    return table(
        id,
        "Run settings",
        "What the run was started with. The alerts' remedies speak of these: learning rate, batch size, accumulation.",
        Target(settings(SETTINGS), table=True),
        grid,
        no_value=NO_RUN,
        columns=SETTING_NAMES,
        header=False,
        transformations=[{"id": "reduce", "options": {"reducers": ["lastNotNull"], "mode": "seriesToRows"}}],
        overrides=[column("Field", custom__width=160)],
    )

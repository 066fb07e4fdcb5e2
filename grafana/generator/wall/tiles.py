"""Tiles of the wall: figures that can be read from four metres, in the colour of the alerts that are about them.

A tile is green, orange or red because an alert with one of its signs fires or does not: it cannot disagree with the
alerts. Grey: the figure is of a run that is over, or nobody looks.
"""

from __future__ import annotations

from collections.abc import Sequence

from generator import facts, family
from generator.model import Json, Panel, Target
from generator.style import ALARM, FINE, IDLE, MAIN, WARN, Grid, above, fixed, progress_bar, tile, words
from generator.wall import runs
from generator.wall.verdict import WATCHDOG
from training_exporter.events import STATES

_TONES = {"critical": ALARM, "warning": WARN, "well": FINE, "past": IDLE}


def _alerts(about: Sequence[str]) -> list[facts.Alert]:
    """The alerts of "sign", or of "sign/severity" where those of another severity are about something else."""
    found: list[facts.Alert] = []
    for key in about:
        sign, _, severity = key.partition("/")
        matching = [a for a in facts.alerts() if a.sign == sign and severity in ("", a.severity)]
        if not matching:
            raise facts.GeneratorError(
                f"found sign {key!r}, allowed: those of alerts/rules ({', '.join(facts.signs())})"
            )
        found += matching
    return found


def _toned(value: str, alerts: Sequence[facts.Alert], alive: str, on: str) -> str:
    """`value`, one series, with a label `tone`: the worst severity of the alerts that fire."""

    def toned(tone: str, condition: str) -> str:
        return f'label_replace({value}{condition}, "tone", "{tone}", "", "")'

    def firing(severity: str) -> str:
        signs = "|".join(sorted({alert.sign or "" for alert in alerts if alert.severity == severity}))
        fires = f'ALERTS{{alertstate="firing",severity="{severity}",sign=~"{signs}"}}'
        return toned(severity, f" and on ({on}) {fires}")

    tones = [firing(severity) for severity in ("critical", "warning") if any(a.severity == severity for a in alerts)]
    well = f"{f' and on ({on}) {alive}' if alive else ''} and on () {WATCHDOG}"
    return f" or on ({on}) ".join([*tones, toned("well", well), toned("past", "")])


def _figure(
    id: int,
    title: str,
    description: str,
    value: str,
    about: Sequence[str],
    grid: Grid,
    *,
    alive: str = f"({runs.at_work()})",
    on: str = "run",
    no_value: str = "–",
    **more: Json | int | str,
) -> Panel:
    alerts = [alert for alert in _alerts(about) if alert.severity != "info"]
    names = [f"{alert.name} ({alert.severity})" for alert in alerts]
    colored = [
        {"matcher": {"id": "byName", "options": tone}, "properties": [{"id": "color", "value": fixed(color)}]}
        for tone, color in _TONES.items()
    ]
    return tile(
        id,
        title,
        f"{description} Orange when a warning of these fires, red when it is critical: {', '.join(names)}. Green: none "
        "does. Grey: the run is over, or the rules are not evaluated.",
        [Target(_toned(value, alerts, alive, on), "{{tone}}", instant=True)],
        grid,
        no_value=no_value,
        color=fixed(IDLE),
        color_mode="background_solid",
        graph=False,
        value_size=None,
        overrides=colored,
        runbooks=list(dict.fromkeys(alert.name for alert in alerts)),
        **more,
    )


def loss(id: int, grid: Grid) -> Panel:
    return _figure(
        id,
        "Training loss",
        "Good: declines from about 2.0 to about 0.7.",
        runs.last("llm_training_loss"),
        [
            "loss_nan/critical",
            "loss_rising",
            "worse_than_random",
            "loss_fluctuating",
            "loss_collapsed",
            "early_plateau",
            "slow_first_epoch",
        ],
        grid,
        decimals=3,
    )


def validation_loss(id: int, grid: Grid) -> Panel:
    return _figure(
        id,
        "Validation loss",
        "Of the last evaluation. Good: declines with the training loss, 5-15% above it.",
        runs.last("llm_training_validation_loss"),
        ["val_diverging", "val_gap", "val_fluctuating", "loss_nan/warning"],
        grid,
        decimals=3,
    )


def perplexity(id: int, grid: Grid) -> Panel:
    return _figure(
        id,
        "Perplexity",
        "Exponential of the training loss. Good: from about 7-12 down to about 2-3.",
        runs.last("llm_training_perplexity"),
        ["loss_nan/critical", "loss_rising", "worse_than_random", "initial_perplexity", "high_perplexity"],
        grid,
        decimals=2,
        mappings=[above(100_000, "> 100,000")],
    )


def learning_rate(id: int, grid: Grid) -> Panel:
    return _figure(
        id,
        "Learning rate",
        "Good: what its schedule says.",
        runs.last("llm_training_learning_rate"),
        ["lr_off_schedule"],
        grid,
        unit="sci",
        decimals=1,
    )


def tokens_per_second(id: int, grid: Grid) -> Panel:
    return _figure(
        id,
        "Tokens per second",
        "Good: steady, and what the hardware should give.",
        runs.last("llm_training_tokens_per_second"),
        ["throughput_drop", "throughput_low", "run_stalled"],
        grid,
        unit="locale",
        decimals=0,
    )


def gpu_memory(id: int, grid: Grid) -> Panel:
    return _figure(
        id,
        "GPU memory",
        "Of the fullest device, whoever uses it. Good: stable, below 90%.",
        "max(gpu:llm_gpu_memory_used:ratio)",
        ["gpu_memory_high", "gpu_memory_growing"],
        grid,
        alive="",
        on="",
        no_value="no GPU",
        unit="percentunit",
        decimals=1,
    )


_STATES = {
    **{str(runs.number(name)): (name.capitalize(), None) for name in STATES},
    str(runs.NO_ANSWER): ("No answer", None),
}


def run_state(id: int, grid: Grid) -> Panel:
    return tile(
        id,
        "Run",
        "What the run does now, or how it ended: the newest run at work, else the newest of the last day.",
        [Target(runs.state(), "{{run}}", instant=True)],
        grid,
        no_value="no run",
        graph=False,
        names=True,
        wide=False,
        value_size=None,
        links=[
            {
                "title": "All about this run",
                "url": f"/d/{family.RUN_DETAIL}?var-run=${{__field.labels.run}}&${{__url_time_range}}",
            }
        ],
        mappings=[words(_STATES)],
    )


def progress(id: int, grid: Grid) -> Panel:
    return progress_bar(
        id,
        "Progress",
        "Share of the optimizer steps that is done. Good: it grows.",
        [Target(runs.last("llm_training_progress_ratio"), "{{run}}", instant=True)],
        grid,
        no_value="no run",
        color=MAIN,
    )


def time_left(id: int, grid: Grid) -> Panel:
    """Left while the run is at work; afterwards, since it was last seen."""
    alive = f"({runs.at_work()})"
    left = f'label_replace({runs.last("llm_training_remaining_seconds")} and on (run) {alive}, "what", "left", "", "")'
    seen = runs.last("run:llm_training_state:scraped_timestamp_seconds")
    over = f'label_replace(time() - ({seen}), "what", "since it was last seen", "", "")'
    return tile(
        id,
        "Time",
        "While the run is at work: time left at the pace so far, evaluations and checkpoints included. Afterwards: "
        "since when Prometheus has not seen it.",
        [Target(f"{left} or on () ({over} unless on (run) {alive})", "{{what}}", instant=True)],
        grid,
        no_value="no run",
        graph=False,
        names=True,
        wide=False,
        value_size=None,
        unit="dtdurations",
        decimals=0,
    )


def steps(id: int, grid: Grid) -> Panel:
    """Step and epoch."""
    done = f'label_replace({runs.last("llm_training_steps_total")}, "what", "step", "", "")'
    epoch = f'label_replace({runs.last("llm_training_epoch")}, "what", "epoch", "", "")'
    return tile(
        id,
        "Step and epoch",
        "Optimizer steps and epochs done.",
        [Target(f"{done} or {epoch}", "{{what}}", instant=True)],
        grid,
        no_value="no run",
        graph=False,
        names=True,
        value_size=None,
        unit="none",
    )

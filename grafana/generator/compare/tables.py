"""What the runs were started with, and how far they have come: also those that have ended, and past ones."""

from __future__ import annotations

from generator import family
from generator.compare.curves import NO_RUNS, RUNS
from generator.model import Json, Panel, Target
from generator.panels import joined, timeline
from generator.run.tables import SETTING_NAMES
from generator.run.tiles import STATE_COLORS
from generator.style import ACT, Grid, column, steps, words
from generator.wall.runs import ANSWERS, AT_WORK, NO_ANSWER
from training_exporter.backtest.backfill import INSTANCE
from training_exporter.events import ACTIVE_STATES, FINAL_STATES, STATES
from training_exporter.families import SETTINGS

STARTED = f"max by (run) (last_over_time(llm_training_start_timestamp_seconds{RUNS}[$__range]))"
LAST_STEP = f"max by (run) (max_over_time(llm_training_last_step_timestamp_seconds{RUNS}[$__range]))"

STATE_WORDS = {str(n): (name.capitalize(), STATE_COLORS[name]) for n, name in enumerate(STATES, 1)}


def last(metric: str) -> str:
    """Each run's last figure of the time range."""
    return f"max by (run) (last_over_time({metric}{RUNS}[$__range]))"


def state() -> str:
    """The place of each run's last state in STATES, from 1; NO_ANSWER where it was at work and is no longer there.

    A past run that was put in without the series of the recording rules is told from its own.
    """
    number = f"run:llm_training_state:number{RUNS}"
    remembered = f"last_over_time({number}[$__range])"

    def said(states: str) -> str:
        raw = f'last_over_time(llm_training_state{{run=~"$runs",state=~"{states}"}}[$__range])'
        return f"max by (run) ({raw} == 1)"

    ended = [f"{STATES.index(name) + 1} * {said(name)}" for name in FINAL_STATES]
    return " or on (run) ".join(
        (
            f"last_over_time({number}[{ANSWERS}])",
            f"{NO_ANSWER} * ({remembered} <= {AT_WORK}) ^ 0",
            remembered,
            *ended,
            f"{NO_ANSWER} * {said('|'.join(ACTIVE_STATES))}",
        )
    )


def when(id: int, grid: Grid) -> Panel:
    return timeline(
        id,
        "Runs over the clock",
        "When each run was at work, and what it was doing: which runs ran together. Good: from training to completed.",
        [Target(f"max by (run) (run:llm_training_state:number{RUNS})", "{{run}}")],
        grid,
        no_value=NO_RUNS,
        mappings=[words(STATE_WORDS)],
    )


def _run_column() -> Json:
    link = {
        "title": "This run in detail",
        "url": f"/d/{family.RUN_DETAIL}?var-run=${{__value.raw:percentencode}}&${{__url_time_range}}",
    }
    return column("Run", custom__minWidth=180, links=[link])


def _started() -> Json:
    return column("Started", custom__width=185, unit="dateTimeAsLocal")


def results(id: int, grid: Grid) -> Panel:
    hours = f"({LAST_STEP} - {STARTED}) / 3600"
    firing = 'max_over_time(ALERTS{alertstate="firing",run=~"$runs"}[$__range])'
    watched = f'last_over_time(llm_training_start_timestamp_seconds{{run=~"$runs",instance!="{INSTANCE}"}}[$__range])'
    return joined(
        id,
        "Results",
        "Every run of the time range, the newest first. Good: a low best validation loss. Perplexity is that of the "
        "smoothed training loss at the end; hours count from the first start to the last step, pauses included, and "
        "GPU hours are those times the job's GPUs. Alerts: how many different ones fired; unknown for past runs that "
        "were put in by backfill.",
        [
            Target(f"1000 * {STARTED}", table=True),
            Target(state(), table=True),
            Target(last("llm_training_progress_ratio"), table=True),
            Target(last("llm_training_steps_total"), table=True),
            Target(last("llm_training_epoch"), table=True),
            Target(f"min by (run) (min_over_time(llm_training_best_validation_loss{RUNS}[$__range]))", table=True),
            Target(last("llm_training_validation_loss"), table=True),
            Target(last("llm_training_loss_smoothed"), table=True),
            Target(f"exp({last('llm_training_loss_smoothed')})", table=True),
            Target(f"max by (run) (avg_over_time(llm_training_tokens_per_second{RUNS}[$__range]))", table=True),
            Target(last("llm_training_tokens_total"), table=True),
            Target(hours, table=True),
            Target(f"{hours} * on (run) {last('llm_training_gpus')}", table=True),
            Target(
                f"count by (run) (count by (run, alertname) ({firing})) or on (run) 0 * max by (run) ({watched})",
                table=True,
            ),
        ],
        grid,
        no_value=NO_RUNS,
        columns={
            "run": "Run",
            "Value #B": "State",
            "Value #C": "Done",
            "Value #D": "Steps",
            "Value #E": "Epochs",
            "Value #F": "Best validation",
            "Value #G": "Last validation",
            "Value #H": "Training loss",
            "Value #I": "Perplexity",
            "Value #J": "Tokens/s",
            "Value #K": "Tokens",
            "Value #L": "Hours",
            "Value #M": "GPU hours",
            "Value #N": "Alerts",
            "Value #A": "Started",
        },
        overrides=[
            _run_column(),
            column(
                "State",
                custom__width=110,
                custom__cellOptions={"type": "color-background", "mode": "basic"},
                mappings=[words({**STATE_WORDS, str(NO_ANSWER): ("No answer", ACT)})],
                noValue="unknown",
                thresholds=steps((None, "transparent")),
            ),
            column("Done", unit="percentunit", decimals=0, custom__width=75, noValue="–"),
            column("Steps", unit="locale", decimals=0, custom__width=80, noValue="–"),
            column("Epochs", decimals=2, custom__width=80, noValue="–"),
            *(
                column(name, decimals=3, custom__width=120, noValue="none")
                for name in ("Best validation", "Last validation", "Training loss")
            ),
            column("Perplexity", decimals=2, custom__width=100, noValue="–"),
            column("Tokens/s", unit="locale", decimals=0, custom__width=95, noValue="unknown"),
            column("Tokens", unit="short", decimals=1, custom__width=95, noValue="unknown"),
            column("Hours", decimals=2, custom__width=80, noValue="–"),
            column("GPU hours", decimals=2, custom__width=95, noValue="no GPU"),
            column("Alerts", decimals=0, custom__width=75, noValue="–"),
            _started(),
        ],
        sort=("Started", True),
    )


def settings(id: int, grid: Grid) -> Panel:
    by = ", ".join(("run", *SETTINGS))
    latest = f"last_over_time(timestamp(llm_training_run_info{RUNS})[$__range:$__interval])"
    return joined(
        id,
        "Settings",
        "What each run was started with; where it was resumed with other settings, the last ones. Good: runs that are "
        "compared differ in one of them.",
        [
            Target(f"topk by (run) (1, max by ({by}) ({latest}))", table=True),
            Target(f"1000 * {STARTED}", table=True),
        ],
        grid,
        no_value=NO_RUNS,
        columns={"run": "Run", **SETTING_NAMES, "Value #B": "Started"},
        overrides=[
            _run_column(),
            _started(),
            *(column(name, noValue="–", custom__minWidth=90) for name in SETTING_NAMES.values()),
        ],
        sort=("Started", True),
    )

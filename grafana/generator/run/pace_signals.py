"""What the alerts about the run's pace and life look at."""

from __future__ import annotations

from generator import facts
from generator.model import Panel, Target
from generator.queries import RUN, of_run, per_step
from generator.run.limits import constant, fixed_limits, in_percent, limit, signals
from generator.style import REFERENCE, Grid, chart, line


def speed(id: int, grid: Grid) -> Panel:
    return signals(
        id,
        "Speed, share of the usual",
        "Median speed of the last steps over the median of all steps of the process. Good: about 100%. ThroughputDrop "
        "fires below the line when it is also unusual for this run (beside).",
        [(of_run("llm_training_speed_ratio"), "speed")],
        fixed_limits("ThroughputDrop", "warning", "llm_training_speed_ratio", percent=True, side="below"),
        grid,
        runbooks=["ThroughputDrop"],
        unit="percentunit",
        min=0,
    )


def slowness(id: int, grid: Grid) -> Panel:
    return signals(
        id,
        "Slowness, measured in the run's noise",
        "How far the speed is below what is usual, in standard deviations of single steps. Good: about 0.",
        [(of_run("llm_training_speed_drop_zscore"), "slowness")],
        fixed_limits("ThroughputDrop", "warning", "llm_training_speed_drop_zscore"),
        grid,
        runbooks=["ThroughputDrop"],
    )


def stall(id: int, grid: Grid) -> Panel:
    allowed = facts.part("RunStalled", "critical", r"(?s)> on \(run\)\s+(\(.+?\n\))\s")[1]
    progress = 'llm_training_last_progress_timestamp_seconds{run="$run"}'
    return signals(
        id,
        "Time since the last sign of progress",
        "As of each scrape. A step, a batch of an evaluation, the begin or end of an evaluation or a checkpoint are "
        "signs. Good: about the time of a step. RunStalled fires above the line: what the run may need for what it is "
        "doing, by what it has needed so far.",
        [(f"min by (run) (timestamp({progress}) - {progress})", "since the last sign")],
        [
            limit(
                "RunStalled",
                "critical",
                "above",
                f'{" ".join(allowed.split())} and on (run) llm_training_state{{run="$run"}}',
            )
        ],
        grid,
        runbooks=["RunStalled", "RunVanished"],
        unit="s",
        min=0,
    )


def unsaved(id: int, grid: Grid) -> Panel:
    times = facts.factor("CheckpointStale", "warning", "llm_training_checkpoint_interval_seconds")
    most = facts.threshold("CheckpointStale", "warning", "llm_training_unsaved_seconds")
    return signals(
        id,
        "Work that is not saved",
        "Training time since the last checkpoint, or since the process started: what a crash would cost now. Good: a "
        f"sawtooth. CheckpointStale fires above both lines; the second is {times:g} times the longest interval so far.",
        [(of_run("llm_training_unsaved_seconds"), "unsaved")],
        [
            limit("CheckpointStale", "warning", "above", constant(most)),
            limit(
                "CheckpointStale",
                "warning",
                f"and above {times:g} x interval",
                f"{times:g} * {of_run('llm_training_checkpoint_interval_seconds')}",
            ),
        ],
        grid,
        runbooks=["CheckpointStale"],
        no_value="no run, or it does not tell of checkpoints",
        unit="s",
        min=0,
    )


def overhead(id: int, grid: Grid) -> Panel:
    window = facts.part("EvaluationOverhead", "info", r"avg_over_time\(llm_training_state\{[^}]*\}(\[\w+\])\)")[1]
    share = facts.threshold("EvaluationOverhead", "info", "llm_training_state")
    busy = f'sum by (run) (avg_over_time(llm_training_state{{run="$run",state=~"evaluating|saving"}}{window}))'
    waiting = f'max by (run) (avg_over_time(run:llm_training_data_wait:ratio_rate1m{{run="$run"}}{window}))'
    return signals(
        id,
        "Time not spent training",
        f"Share of the last {window.strip('[]')} that went into evaluating and saving, and into waiting for data. "
        "Good: small. EvaluationOverhead looks after as long a time.",
        [(busy, "evaluating, saving"), (waiting, "waiting for data")],
        [limit("EvaluationOverhead", "info", f"above {in_percent(share)}", constant(share))],
        grid,
        runbooks=["EvaluationOverhead"],
        unit="percentunit",
        min=0,
    )


def out_of_memory(id: int, grid: Grid) -> Panel:
    return signals(
        id,
        "Out of memory",
        "Allocations that failed so far. Good: 0. OutOfMemory fires above 0, for an hour, also after the run has "
        "ended.",
        [('max by (run) (run:llm_training_out_of_memory:total{run="$run"})', "failed allocations")],
        [],
        grid,
        runbooks=["OutOfMemory", "RunFailed"],
        unit="locale",
        decimals=0,
        min=0,
        custom={"axisSoftMax": 1},
    )


def own_work(id: int, grid: Grid) -> Panel:
    return chart(
        id,
        "Own work of each process",
        "Of a distributed job: what each process needs in a step for its own work, waiting for data and forward "
        "passes, beside the mean time of a whole step. Good: lines close together. Bad: one above the others, which "
        "wait for it in the rest of the step. A single process has the whole step only.",
        [
            Target(per_step("llm_training_step_duration_seconds_sum"), "whole step", properties=line(REFERENCE)),
            Target(f"max by (rank) (llm_training_rank_step_duration_seconds{RUN})", "process {{rank}}"),
        ],
        grid,
        unit="s",
        min=0,
        runbooks=["StragglerRank"],
    )


def straggling(id: int, grid: Grid) -> Panel:
    return signals(
        id,
        "Waiting for the slowest process",
        "What the slowest process of a distributed job needs for its own work beyond the mean of the others, over ten "
        "minutes, as a share of the step. Good: a few percent. StragglerRank fires above the line.",
        [(of_run("run:llm_training_straggling:ratio_10m"), "waiting")],
        fixed_limits("StragglerRank", "info", "run:llm_training_straggling:ratio_10m", percent=True),
        grid,
        runbooks=["StragglerRank"],
        no_value="one process",
        unit="percentunit",
        min=0,
    )

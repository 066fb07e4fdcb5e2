"""The processes of a run below `training-exporter run`, on the host."""

from __future__ import annotations

from generator.model import Panel, Target
from generator.queries import RUN, of_run
from generator.style import Grid, chart

NOT_SUPERVISED = "not started by training-exporter run"


def host_memory(id: int, grid: Grid) -> Panel:
    return chart(
        id,
        "Host memory",
        "Of the command and all processes below it; pages that they share count in each. Good: stable after the start. "
        "Bad: it grows until the kernel's out-of-memory killer ends the run; data loader workers are the usual reason.",
        [Target(of_run("llm_training_process_resident_memory_bytes"), "host memory")],
        grid,
        no_value=NOT_SUPERVISED,
        unit="bytes",
        decimals=1,
        min=0,
        runbooks=["RunFailed"],
    )


def processors(id: int, grid: Grid) -> Panel:
    return chart(
        id,
        "Processors in use",
        "How many processors the command and all processes below it keep busy. Good: steady while it trains. Bad: as "
        "many as the machine has (data loading may hold the GPU up), or near zero while no step ends.",
        [
            Target(
                f"max by (run) (rate(llm_training_process_cpu_seconds_total{RUN}[$__rate_interval]))",
                "processors",
            )
        ],
        grid,
        no_value=NOT_SUPERVISED,
        decimals=1,
        min=0,
        runbooks=["RunStalled"],
    )

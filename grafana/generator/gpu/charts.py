"""The devices over time."""

from __future__ import annotations

from generator import facts
from generator.gpu.common import CHOSEN, FORECAST_TOP, NO_GPU, memory_limits, of_gpu
from generator.model import Panel, Target
from generator.panels import timeline
from generator.style import ACT, GOOD, LOOK, REFERENCE, Grid, chart, line, steps, words


def memory(id: int, grid: Grid) -> Panel:
    high, full = memory_limits()
    return chart(
        id,
        "Memory per device",
        "Share of what each device has. Good: a sharp rise at the start, then stable, with small spikes at "
        f"evaluations. GpuMemoryHigh warns above {high:.0%} and is critical above {full:.0%} (dashed lines).",
        [
            Target(
                f"gpu:llm_gpu_memory_used:ratio{CHOSEN} * on (gpu, uuid) group_left (name) "
                "max by (gpu, uuid, name) (llm_gpu_info)",
                "GPU {{gpu}}, {{name}}",
            )
        ],
        grid,
        no_value=NO_GPU,
        unit="percentunit",
        min=0,
        max=1,
        custom={"thresholdsStyle": {"mode": "dashed"}},
        thresholds=steps((None, "transparent"), (high, LOOK), (full, ACT)),
        runbooks=["GpuMemoryHigh"],
    )


def forecast(id: int, grid: Grid) -> Panel:
    """The signal of GpuMemoryGrowing, spelt as the rule spells it."""
    spelt = facts.part("GpuMemoryGrowing", "warning", r"predict_linear\(([\w:]+)(\[\w+\]), (\d+) \* 3600\)")
    metric, window, hours = spelt.groups()
    return chart(
        id,
        f"Memory in {hours} hours, if it goes on like this",
        f"Where the last {window.strip('[]')} lead to, as a share of the device. GpuMemoryGrowing fires when that is "
        f"above 100% and the growth has been continuous all the while: not so after a jump, as at a run's start, which "
        f"leads far up here for as long. Good: as much as now. Cut off at {FORECAST_TOP:.0%}.",
        [
            Target(
                f"clamp(predict_linear({metric}{CHOSEN}{window}, {hours} * 3600) "
                f"/ {of_gpu('llm_gpu_memory_total_bytes')}, 0, {FORECAST_TOP})",
                "GPU {{gpu}}",
            ),
            Target(
                f"0 * max({of_gpu('llm_gpu_memory_total_bytes')}) + 1",
                "GpuMemoryGrowing above 100%",
                properties=line(LOOK, 1, dash=True),
            ),
        ],
        grid,
        no_value=NO_GPU,
        unit="percentunit",
        min=0,
        max=FORECAST_TOP,
        runbooks=["GpuMemoryGrowing"],
    )


def process_memory(id: int, grid: Grid) -> Panel:
    return chart(
        id,
        "Memory per process",
        "Stacked. Good: the training's share is stable. Bad: another process grows beside it.",
        [
            Target(
                f"max by (gpu, uuid, process, pid, container) (llm_gpu_process_memory_bytes{CHOSEN})",
                "GPU {{gpu}}: {{process}} {{pid}} {{container}}",
            )
        ],
        grid,
        no_value="no process",
        custom={"fillOpacity": 35, "lineWidth": 1, "stacking": {"mode": "normal", "group": "A"}},
        unit="bytes",
        decimals=1,
        min=0,
    )


def utilization(id: int, grid: Grid) -> Panel:
    return chart(
        id,
        "Utilization",
        "Share of the driver's sampling window (1/6 to 1 s before the scrape) in which a kernel ran. Good: near 100% "
        "while a run trains. Bad: low or jumping: it waits for data.",
        [Target(of_gpu("llm_gpu_utilization_ratio"), "GPU {{gpu}}")],
        grid,
        no_value=NO_GPU,
        unit="percentunit",
        min=0,
        max=1,
    )


def power(id: int, grid: Grid) -> Panel:
    return chart(
        id,
        "Power",
        "What each card draws, and the limit in force (dashed). Good: near its limit while a run trains.",
        [
            Target(of_gpu("llm_gpu_power_watts"), "GPU {{gpu}}"),
            Target(
                of_gpu("llm_gpu_power_limit_watts"),
                "limit of GPU {{gpu}}",
                properties=line(REFERENCE, 1, dash=True),
            ),
        ],
        grid,
        no_value=NO_GPU,
        unit="watt",
        decimals=0,
        min=0,
    )


def temperature(id: int, grid: Grid) -> Panel:
    return chart(
        id,
        "Temperature",
        "Of the GPU's core. Good: steady. Where it is too hot the clocks are held down: see there.",
        [Target(of_gpu("llm_gpu_temperature_celsius"), "GPU {{gpu}}")],
        grid,
        no_value=NO_GPU,
        unit="celsius",
        decimals=0,
    )


def throttling(id: int, grid: Grid) -> Panel:
    reasons = f"max by (gpu, reason) (llm_gpu_throttle_reasons{CHOSEN})"
    return timeline(
        id,
        "Clocks",
        "Whether something holds a device's clocks down, and what did so in the time range. Good: free. A power cap is "
        "usual under full load; thermal and hardware slowdowns are not: look at the cooling.",
        [
            Target(
                f"max by (gpu) ({reasons}) or {reasons} and on (gpu, reason) max_over_time({reasons}[$__range:]) > 0",
                "GPU {{gpu}} {{reason}}",
            )
        ],
        grid,
        no_value=NO_GPU,
        mappings=[words({"0": ("free", GOOD), "1": ("held down", LOOK)})],
    )

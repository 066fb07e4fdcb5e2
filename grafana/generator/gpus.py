"""The dashboard "GPU": every device that is scraped, and who uses it."""

from __future__ import annotations

import re

from generator import facts, family
from generator.facts import GeneratorError
from generator.layout import joined, timeline
from generator.model import Dashboard, Panel, Target, Variable, query_variable
from generator.style import ACT, GOOD, LOOK, MAIN, REFERENCE, Grid, chart, column, line, steps, words

#: The devices that are chosen. A GPU is known by its uuid: another machine has a GPU 0 as well.
CHOSEN = '{uuid=~"$gpu"}'
NO_GPU = "no GPU is scraped"

#: Where the forecast's axis ends: beyond it there is nothing more to learn.
FORECAST_TOP = 2


def of_gpu(metric: str) -> str:
    """The device's figure, whichever process serves it."""
    return f"max by (gpu, uuid) ({metric}{CHOSEN})"


def memory_limits() -> tuple[float, float]:
    """Shares of the memory above which GpuMemoryHigh warns, and is critical."""
    high, full = (facts.threshold("GpuMemoryHigh", s, "llm_gpu_memory_total_bytes") for s in ("warning", "critical"))
    return high, full


def devices(id: int, grid: Grid) -> Panel:
    high, full = memory_limits()
    share = {"unit": "percentunit", "decimals": 0, "min": 0, "max": 1}
    bar = {"type": "gauge", "mode": "basic", "valueDisplayMode": "text"}
    return joined(
        id,
        "Devices now",
        f"Good: memory stable and below {high:.0%}, utilization high while a run trains, nothing that holds the clocks "
        f"down. GpuMemoryHigh warns above {high:.0%} and is critical above {full:.0%}.",
        [
            Target(f"max by (gpu, uuid, name, driver_version) (llm_gpu_info{CHOSEN})", table=True),
            Target(f"{of_gpu('llm_gpu_memory_used_bytes')} / {of_gpu('llm_gpu_memory_total_bytes')}", table=True),
            Target(of_gpu("llm_gpu_memory_used_bytes"), table=True),
            Target(of_gpu("llm_gpu_memory_total_bytes"), table=True),
            Target(of_gpu("llm_gpu_utilization_ratio"), table=True),
            Target(of_gpu("llm_gpu_power_watts"), table=True),
            Target(of_gpu("llm_gpu_power_limit_watts"), table=True),
            Target(of_gpu("llm_gpu_temperature_celsius"), table=True),
            Target(f"sum by (gpu, uuid) (llm_gpu_throttle_reasons{CHOSEN})", table=True),
        ],
        grid,
        no_value=NO_GPU,
        columns={
            "gpu": "GPU",
            "Value #B": "Memory",
            "Value #C": "In use",
            "Value #D": "Of",
            "Value #E": "Utilization",
            "Value #F": "Power",
            "Value #G": "Limit",
            "Value #H": "Temperature",
            "Value #I": "Clocks",
            "name": "Model",
            "driver_version": "Driver",
            "uuid": "UUID",
        },
        overrides=[
            column("GPU", custom__width=60),
            column("Model", custom__minWidth=200),
            column(
                "Memory",
                **share,
                custom__cellOptions=bar,
                custom__minWidth=180,
                color={"mode": "thresholds"},
                thresholds=steps((None, GOOD), (high, LOOK), (full, ACT)),
            ),
            *(column(name, unit="bytes", decimals=1, custom__width=100) for name in ("In use", "Of")),
            column(
                "Utilization",
                **share,
                custom__cellOptions=bar,
                custom__minWidth=180,
                color={"mode": "fixed", "fixedColor": MAIN},
            ),
            *(column(name, unit="watt", decimals=0, custom__width=80) for name in ("Power", "Limit")),
            column("Temperature", unit="celsius", decimals=0, custom__width=110),
            column(
                "Clocks",
                custom__width=130,
                custom__cellOptions={"type": "color-text"},
                mappings=[
                    words({"0": ("free", GOOD)}),
                    {
                        "type": "range",
                        "options": {"from": 1, "to": None, "result": {"text": "held down", "color": LOOK}},
                    },
                ],
            ),
            column("Driver", custom__width=90),
        ],
        sort=("GPU", False),
    )


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
        decimals=0,
        min=0,
        max=1,
        custom={"thresholdsStyle": {"mode": "dashed"}},
        thresholds=steps((None, "transparent"), (high, LOOK), (full, ACT)),
        runbooks=["GpuMemoryHigh"],
    )


def forecast(id: int, grid: Grid) -> Panel:
    """The signal of GpuMemoryGrowing, spelt as the rule spells it."""
    (rule,) = (alert for alert in facts.alerts() if alert.name == "GpuMemoryGrowing")
    found = re.search(r"predict_linear\(([\w:]+)(\[\w+\]), (\d+) \* 3600\)", rule.expr)
    if found is None:
        raise GeneratorError(f"{rule.file}: GpuMemoryGrowing: no predict_linear(...[..], <hours> * 3600) in it")
    metric, window, hours = found.groups()
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
        decimals=0,
        min=0,
        max=FORECAST_TOP,
        runbooks=["GpuMemoryGrowing"],
    )


def processes(id: int, grid: Grid) -> Panel:
    by = "max by (gpu, uuid, process, pid, container)"
    used = f"llm_gpu_process_memory_bytes{CHOSEN}"
    total = of_gpu("llm_gpu_memory_total_bytes")
    return joined(
        id,
        "Who uses them",
        "Every process that held GPU memory in the time range, of a training or not. Good: one training per device, "
        "and nothing else. Names need this machine's process ids, containers need --docker.",
        [
            Target(f"{by} ({used})", table=True),
            Target(f"{by} ({used}) / on (gpu, uuid) group_left () {total}", table=True),
            Target(f"{by} (max_over_time({used}[$__range]))", table=True),
        ],
        grid,
        no_value="no process holds GPU memory, or none is shown (--no-processes)",
        columns={
            "gpu": "GPU",
            "process": "Process",
            "pid": "PID",
            "container": "Container",
            "Value #A": "Memory now",
            "Value #B": "Share",
            "Value #C": "Most in the range",
        },
        overrides=[
            column("GPU", custom__width=60),
            column("Process", custom__minWidth=140),
            column("PID", custom__width=90),
            column("Container", custom__minWidth=120, noValue="none"),
            column("Memory now", unit="bytes", decimals=1, custom__width=115, noValue="gone"),
            column("Share", unit="percentunit", decimals=0, custom__width=80, noValue="–"),
            column("Most in the range", unit="bytes", decimals=1, custom__width=145),
        ],
        sort=("Most in the range", True),
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
        decimals=0,
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


def variable() -> Variable:
    """The devices, as "0 NVIDIA A100"; a selector takes their uuids."""
    known = "max by (gpu, uuid, name) (last_over_time(llm_gpu_info[$__range]))"
    base = query_variable(
        "gpu",
        "GPU",
        f'query_result(sort(label_join({known}, "title", " ", "gpu", "name")))',
        '/title="(?<text>[^"]+)",uuid="(?<value>[^"]+)"/',
    )
    options = {"multi": True, "includeAll": True, "allValue": ".*", "current": {"text": ["All"], "value": ["$__all"]}}
    return Variable("gpu", "GPU", "query", base.query, options={**base.options, **options})


def dashboard() -> Dashboard:
    return Dashboard(
        family.GPU,
        "GPU",
        "Every GPU that is scraped: memory, utilization, power, temperature, clocks, and the processes that use it.",
        [
            devices(1, (0, 0, 24, 6)),
            memory(2, (0, 6, 12, 8)),
            processes(3, (12, 6, 12, 8)),
            utilization(4, (0, 14, 8, 6)),
            power(5, (8, 14, 8, 6)),
            temperature(6, (16, 14, 8, 6)),
            throttling(7, (0, 20, 8, 6)),
            forecast(8, (8, 20, 8, 6)),
            process_memory(9, (16, 20, 8, 6)),
        ],
        [family.DATA_SOURCE, variable(), family.KEPT_RUN, family.runbooks()],
        [family.RELATED],
        [family.TAG],
    )

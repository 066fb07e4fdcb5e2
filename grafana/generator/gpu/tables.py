"""What there is now, and who uses it."""

from __future__ import annotations

from generator.gpu.common import CHOSEN, NO_GPU, memory_limits, of_gpu
from generator.model import Panel, Target
from generator.panels import joined
from generator.style import ACT, GOOD, LOOK, MAIN, Grid, column, steps, words


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

"""What the panels of this dashboard share."""

from __future__ import annotations

from generator import facts
from generator.model import Variable, query_variable

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

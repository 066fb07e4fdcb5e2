"""What the benchmarks share: paired comparisons with their doubt, and tables as docs/performance.md has them."""

from __future__ import annotations

import math
import os
import platform
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Estimate:
    """A median with the bounds between which it lies in 95 of 100 measurements."""

    value: float
    low: float
    high: float

    def percent(self) -> str:
        """As a change: +0.31 % (0.20 to 0.44)."""
        return f"{self.value:+.2%} ({self.low:+.2%} to {self.high:+.2%})"


def estimate(values: Sequence[float]) -> Estimate:
    """The median of `values` and its 95 % interval by the order of the values alone: whatever their distribution."""
    ordered, count = sorted(values), len(values)
    if count < 6:
        return Estimate(statistics.median(values), -math.inf, math.inf)
    # Ranks of a binomial distribution with p = 1/2, by its normal approximation.
    reach = 0.98 * math.sqrt(count)
    low, high = max(0, math.floor(count / 2 - reach)), min(count - 1, math.ceil(count / 2 + reach) - 1)
    return Estimate(statistics.median(ordered), ordered[low], ordered[high])


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which `share` of `values` lie."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, math.ceil(share * len(ordered)) - 1)]


def table(title: str, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a Markdown table."""
    print(f"\n## {title}\n", flush=True)
    print("| " + " | ".join(header) + " |")
    print("| " + " | ".join(["---"] * len(header)) + " |")
    for row in rows:
        print("| " + " | ".join(map(str, row)) + " |")


def microseconds(seconds: float) -> str:
    return f"{seconds * 1e6:.1f} us"


def milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:.2f} ms"


def machine() -> str:
    """One line: processor, cores, Python, and how busy the machine is."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    model = next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine()
    )
    load = os.getloadavg()[0]
    return f"{model}, {os.cpu_count()} cores, Python {platform.python_version()}, load {load:.2f} at the start"

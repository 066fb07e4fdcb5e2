"""What the learning rate ought to be at a step, by Hugging Face's named schedules.

The formulas are those of `transformers.optimization` (the multiplier of the peak after `step` scheduler steps);
they are written out here because the exporter runs without transformers, also on records of past runs.
"""

from __future__ import annotations

import math


def schedule_multiplier(name: str, step: int, max_steps: int, warmup_steps: int) -> float | None:
    """Share of the peak learning rate with which optimizer step `step` + 1 is made (`step` scheduler steps done).

    None for a schedule that depends on more than the step number, or that is not known here.
    """
    if name == "constant":
        return 1.0
    if name not in {"linear", "cosine", "constant_with_warmup"}:
        return None
    if step < warmup_steps:
        return step / max(1, warmup_steps)
    if name == "constant_with_warmup":
        return 1.0
    progress = (step - warmup_steps) / max(1, max_steps - warmup_steps)
    if name == "linear":
        return max(0.0, 1.0 - progress)
    return max(0.0, 0.5 * (1.0 + math.cos(math.pi * progress)))


def schedule_range(name: str, first: int, last: int, max_steps: int, warmup_steps: int) -> tuple[float, float] | None:
    """Least and greatest share of the peak over `first` to `last` scheduler steps done; None as above."""
    a = schedule_multiplier(name, max(0, first), max_steps, warmup_steps)
    b = schedule_multiplier(name, last, max_steps, warmup_steps)
    if a is None or b is None:
        return None
    # The known schedules rise to their peak and then never rise again.
    return min(a, b), 1.0 if first <= warmup_steps <= last else max(a, b)

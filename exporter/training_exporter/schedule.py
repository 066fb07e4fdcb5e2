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

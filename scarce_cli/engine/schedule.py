"""Learning rates as pure functions of the step."""

from __future__ import annotations

import math


def warmup_cosine(step: int, *, total_steps: int, warmup_steps: int, peak: float, final: float) -> float:
    """Linear warm-up, then a cosine.

    The first step has ``peak / warmup_steps``, the last warm-up step ``peak``, the last step of the run
    ``final``, without rounding. Loshchilov & Hutter, 2017 (arXiv 1608.03983), without restarts.
    """
    if step < warmup_steps:
        return peak * ((step + 1) / warmup_steps)
    rest = total_steps - warmup_steps - 1
    position = (step - warmup_steps) / rest if rest > 0 else 1.0
    return final + (peak - final) / 2 * (1 + math.cos(math.pi * position))

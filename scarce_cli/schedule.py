"""What changes over a run, as pure functions of the step. The official codes differ in their end points."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

_MILESTONE_FACTOR = 0.1


@dataclass(frozen=True)
class Convention:
    """Where a warm-up and a cosine start and end."""

    warmup_start: float | None = 0.0  # share of the peak on the first step; none: one step's worth of the ramp
    warmup_reaches: bool = False  # the peak stands on the last warm-up step, and is repeated on the next
    reaches: bool = False  # the final value stands on the last step; otherwise it is approached
    per_epoch: bool = False  # constant within an epoch


CONVENTIONS: dict[str, Convention] = {
    "scarce": Convention(warmup_start=None, warmup_reaches=True, reaches=True),
    # main_moco.py; it has no warm-up: one that starts at zero would give away a whole epoch
    "moco": Convention(warmup_start=None, warmup_reaches=True, per_epoch=True),
    "barlow": Convention(),  # main.py of Barlow Twins, and of VICReg
    "dino": Convention(warmup_reaches=True),  # utils.py, cosine_scheduler
    "spark": Convention(warmup_start=0.005, reaches=True),  # pretrain/utils/lr_control.py
    "published": Convention(warmup_start=None, warmup_reaches=True, per_epoch=True),  # the published series
}


def ramp(step: int, *, count: int, start: float, end: float, reaches: bool) -> float:
    """Linear from ``start`` on step 0; ``end`` on step ``count - 1`` if it ``reaches``, else on step ``count``.

    Both ends are exact, without rounding. A ramp of one step that reaches is at its start, as ``numpy.linspace``.
    """
    last = count - 1 if reaches else count
    if step == 0:
        return start
    return end if step == last else start + (end - start) * (step / last)


def cosine(step: int, *, count: int, start: float, end: float, reaches: bool) -> float:
    """Half a cosine from ``start`` to ``end`` (Loshchilov & Hutter, 2017, arXiv 1608.03983); ends as `ramp`.

    One of a single step that reaches is at its end.
    """
    last = count - 1 if reaches else count
    if step == last:
        return end
    return start if step == 0 else end + (start - end) / 2 * (1 + math.cos(math.pi * step / last))


def warmup_cosine(
    step: int,
    *,
    total_steps: int,
    warmup_steps: int,
    peak: float,
    final: float,
    convention: Convention,
    start: float | None = None,
) -> float:
    """Linear warm-up, then a cosine, with the end points of ``convention``.

    Args:
        step: 0 on the first step (or epoch, for a convention by epoch, as the two counts are then).
        start: the value on the first step, instead of the convention's.
    """
    if step < warmup_steps:
        if start is None:
            share = convention.warmup_start
            start = peak / warmup_steps if share is None else share * peak
        return ramp(step, count=warmup_steps, start=start, end=peak, reaches=convention.warmup_reaches)
    rest = total_steps - warmup_steps
    return cosine(step - warmup_steps, count=rest, start=peak, end=final, reaches=convention.reaches)


def milestone_lr(epoch: int, *, base: float, milestones: Sequence[int]) -> float:
    """A tenth of the rate from each milestone on (epochs counted from 0), as main_moco.py without ``--cos``."""
    return base * _MILESTONE_FACTOR ** sum(epoch >= milestone for milestone in milestones)

"""What the numbers of a run's checkpoints mean: a verdict."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Literal

from scarce_cli.evaluation.collapse.measures import CollapseMetrics

Verdict = Literal["healthy", "suspect", "collapsed"]

# A mean cosine of 0.9999 leaves a relative std of 0.01: films differ by less than float16 can tell.
_COLLAPSED_STD = 0.01
_COLLAPSED_RANK = 2.0
_RANK_CAP = 9  # with fewer than ten films a low rank says nothing: three films never reach a rank of 2
_SUSPECT_STD_OF_RANDOM = 0.5  # training halved what a random network told apart
_SUSPECT_FALL = 0.95  # of the curve's best: std and rank both ended lower (the published DINO run: 0.89, 0.90)
_FALLING_PAIRS = 0.9  # of all pairs of checkpoints the later is the lower: one step up is not a recovery


def verdict(curve: Sequence[CollapseMetrics], reference: CollapseMetrics | None = None) -> tuple[Verdict, list[str]]:
    """Judge the last of ``curve`` (checkpoints in order) beside a random-initialised encoder.

    Collapsed: all films look the same to the encoder. Suspect: it tells films apart less than a random
    network, or less and less from checkpoint to checkpoint, as in the published DINO run, whose rank of
    400 looked healthy. A high mean cosine alone is no sign: SparK's is 0.95 and its features are useful.
    """
    now = curve[-1]
    reasons = []
    if now.relative_std < _COLLAPSED_STD:
        reasons.append(f"all films have nearly the same features (relative std {now.relative_std:.4f})")
    if now.effective_rank is None:
        reasons.append("the features are constant")
    elif now.effective_rank < _COLLAPSED_RANK and now.rank_cap >= _RANK_CAP:
        reasons.append(f"the features lie on a line (effective rank {now.effective_rank:.1f})")
    if reasons:
        return "collapsed", reasons
    if reference is not None and now.relative_std < _SUSPECT_STD_OF_RANDOM * reference.relative_std:
        reasons.append(
            f"films are told apart less than by a random network (relative std {now.relative_std:.3f}, "
            f"random {reference.relative_std:.3f})"
        )
    if _falls([m.relative_std for m in curve]) and _falls([m.effective_rank or 0.0 for m in curve]):
        reasons.append("std and effective rank fall from checkpoint to checkpoint")
    return ("suspect", reasons) if reasons else ("healthy", ["films are told apart"])


def _falls(values: Sequence[float]) -> bool:
    """Three or more values, nearly every one below those before it, the last well below the best."""
    pairs = [later < earlier for earlier, later in itertools.combinations(values, 2)]
    return len(values) > 2 and sum(pairs) >= _FALLING_PAIRS * len(pairs) and values[-1] < _SUSPECT_FALL * max(values)

"""Does the encoder still tell films apart? Numbers and a verdict.

Shape suffixes: N films, D feature dimensions.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from scarce_cli.errors import UsageError
from scarce_cli.evaluation.geometry import dimension_std, l2_normalize, mean_pairwise_cosine
from scarce_cli.evaluation.spectrum import effective_rank

Verdict = Literal["healthy", "suspect", "collapsed"]

# A mean cosine of 0.9999 leaves a relative std of 0.01: films differ by less than float16 can tell.
_COLLAPSED_STD = 0.01
_COLLAPSED_RANK = 2.0
_RANK_CAP = 9  # with fewer than ten films a low rank says nothing: three films never reach a rank of 2
_SUSPECT_STD_OF_RANDOM = 0.5  # training halved what a random network told apart
_SUSPECT_FALL = 0.95  # of the curve's best: std and rank both ended lower (the published DINO run: 0.89, 0.90)
_FALLING_PAIRS = 0.9  # of all pairs of checkpoints the later is the lower: one step up is not a recovery


@dataclass(frozen=True)
class CollapseMetrics:
    """Measured on L2-normalised features of N films (the rank on the features as they are)."""

    films: int
    dimensions: int
    std: float  # mean over dimensions of the unbiased std; 1/sqrt(D) when features fill the sphere
    relative_std: float  # std * sqrt(D): 1 when features fill the sphere, 0 when all are the same
    mean_cosine: float  # over all pairs of different films
    effective_rank: float | None  # None when the features are constant: there is no spectrum
    rank_cap: int  # min(N - 1, D): the rank cannot exceed it, whatever the encoder


def collapse_metrics(features_ND: NDArray[np.floating]) -> CollapseMetrics:
    """All metrics of one set of features, computed in float64.

    Raises:
        UsageError: fewer than two films, or features that are not finite.
    """
    x = np.asarray(features_ND, dtype=np.float64)
    n, d = x.shape
    if n < 2:
        raise UsageError(f"{n} film is too few to compare films", "use at least two, better a thousand")
    if not np.isfinite(x).all():
        raise UsageError("the features are not finite", "use an older checkpoint")
    unit = l2_normalize(x)
    std = float(dimension_std(unit).mean())
    return CollapseMetrics(
        films=n,
        dimensions=d,
        std=std,
        relative_std=std * d**0.5,
        mean_cosine=mean_pairwise_cosine(unit),
        effective_rank=effective_rank(features_ND),
        rank_cap=min(n - 1, d),
    )


def quick_metrics(embeddings_ND: Tensor) -> dict[str, float]:
    """The two cheap numbers for one batch during training: relative std and mean cosine."""
    unit = l2_normalize(embeddings_ND.double().cpu().numpy())
    relative = float(dimension_std(unit).mean()) * unit.shape[1] ** 0.5
    return {"relative_std": relative, "mean_cosine": mean_pairwise_cosine(unit)}


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

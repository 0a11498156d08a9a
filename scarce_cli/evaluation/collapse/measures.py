"""Does the encoder still tell films apart? Its features in numbers.

Shape suffixes: N films, D feature dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from scarce_cli.errors import UsageError
from scarce_cli.evaluation.collapse.geometry import dimension_std, l2_normalize, mean_pairwise_cosine
from scarce_cli.evaluation.collapse.spectrum import effective_rank


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

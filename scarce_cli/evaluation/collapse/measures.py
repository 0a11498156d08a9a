"""The features of a set of films in numbers: how far films differ, in how many directions, and whether views of the
same film stay together.

Shape suffixes: N films, D feature dimensions, Q views of each film. All in float64, whatever the features come in.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from scarce_cli.errors import UsageError
from scarce_cli.evaluation.collapse.geometry import (
    alignment,
    dead_dimensions,
    dimension_std,
    l2_normalize,
    mean_pairwise_cosine,
    retrieval,
    uniformity,
)
from scarce_cli.evaluation.collapse.lidar import lidar
from scarce_cli.evaluation.collapse.spectrum import RANKME_ADDED, entropy_rank, power_law, spectrum

_WHOLE = ("films", "dimensions", "dead_dimensions", "rank_cap")
_UNDEFINED = ("mean_cosine_centred", "effective_rank", "rankme", "alpha", "alignment", "retrieval", "lidar")


@dataclass(frozen=True)
class CollapseMetrics:
    """What was measured of N films; no number is NaN, and what is undefined is None.

    "Constant features" are those of films that are all alike, up to the rounding of the dtype the features came in.
    """

    films: int
    dimensions: int

    # Mean over dimensions of the unbiased std of the features as they are. It has the features' scale.
    std: float

    # The same of the L2-normalised features, times sqrt(D): 1 when they fill the sphere evenly, 0 when all films are
    # alike or their features are zero. At most sqrt(1 - mean_cosine), which it is where all dimensions vary alike.
    relative_std: float

    # Dimensions in which all films have the same value, up to rounding.
    dead_dimensions: int

    # Over all pairs of different films, exact: (|sum of unit rows|^2 - N) / (N (N - 1)). 1: all point the same way.
    # A row of zeros has the cosine 0 with every other.
    mean_cosine: float

    # The same after the mean over the films is taken off: about 0, or near 1 where a few films lie far from all the
    # others and these are nearly alike. None for constant features.
    mean_cosine_centred: float | None

    # exp of the entropy of the centred features' singular values over their sum (Roy & Vetterli, 2007).
    # It is free of scale: noise around a constant has a high one. None for constant features.
    effective_rank: float | None

    # min(N - 1, D): no effective rank exceeds it, whatever the encoder.
    rank_cap: int

    # The same of the features as they are, 1e-7 added to every share (Garrido et al., 2023, arXiv 2210.02885).
    # A large mean drags it down: 1 for constant features. None where all features are zero.
    rankme: float | None

    # Exponent a of the power law i^-a that the eigenvalues of the covariance follow (Agrawal et al., 2022, arXiv
    # 2202.05808); near 1 is best there, and a large one means few directions. None where fewer than ten eigenvalues
    # can be fitted, or the features are constant.
    alpha: float | None

    # First and last index of that fit, counted from 1.
    alpha_range: tuple[int, int] | None

    # Log of the mean of exp(-2 d^2) over all pairs on the unit sphere (Wang & Isola, 2020, arXiv 2005.10242): 0 when
    # all are the same, and near -4 when they fill it.
    uniformity: float

    # Of views 0 and 1 of each film: mean squared distance on the unit sphere, 0 to 4 (Wang & Isola, 2020).
    # None where no views were given.
    alignment: float | None = None

    # Of views 0 and 1 of each film: share of films whose other view is the nearest, by cosine, of all films' other
    # views, 0 to 1; mean over both directions. Blind: 1 / N. None where no views were given.
    retrieval: float | None = None

    # Rank of what tells films apart rather than views of one film (Thilak et al., 2023, arXiv 2312.04000).
    # None where no views were given, or they are constant.
    lidar: float | None = None

    def as_plain(self) -> dict[str, Any]:
        """For JSON or a checkpoint: by field, ``alpha_range`` as a list."""
        values = asdict(self)
        return values | {"alpha_range": None if self.alpha_range is None else list(self.alpha_range)}

    @classmethod
    def from_plain(cls, values: Mapping[str, Any]) -> CollapseMetrics:
        """What `as_plain` gave; other keys are passed over.

        Raises TypeError, ValueError or KeyError for anything else.
        """
        return cls(**{field.name: _read(field.name, values[field.name]) for field in fields(cls)})


def collapse_metrics(
    features_ND: NDArray[np.floating], views_QND: NDArray[np.floating] | None = None
) -> CollapseMetrics:
    """All metrics of one set of features, computed in float64.

    Args:
        features_ND: of N whole films.
        views_QND: of Q random views, two or more, of each of N films, not necessarily the same ones.

    Raises:
        UsageError: fewer than two films or views, or features that are not finite.
    """
    for x in (features_ND,) if views_QND is None else (features_ND, *views_QND):
        _check(x)
    x, (n, d) = np.asarray(features_ND, np.float64), features_ND.shape
    unit = l2_normalize(x)
    centred, raw = (spectrum(features_ND, centred=centred) for centred in (True, False))
    constant = not centred.any()
    fit = power_law(features_ND, centred)
    return CollapseMetrics(
        films=n,
        dimensions=d,
        std=float(dimension_std(x).mean()),
        relative_std=float(dimension_std(unit).mean()) * d**0.5,
        dead_dimensions=dead_dimensions(features_ND),
        mean_cosine=mean_pairwise_cosine(unit),
        mean_cosine_centred=None if constant else mean_pairwise_cosine(l2_normalize(x - x.mean(axis=0))),
        effective_rank=entropy_rank(centred),
        rank_cap=min(n - 1, d),
        rankme=entropy_rank(raw, added=RANKME_ADDED),
        alpha=None if fit is None else fit.alpha,
        alpha_range=None if fit is None else (fit.first, fit.last),
        uniformity=uniformity(x),
        **_of_views(views_QND),
    )


def quick_metrics(embeddings_ND: Tensor) -> dict[str, float]:
    """The two cheap numbers for one batch during training: relative std and mean cosine."""
    unit = l2_normalize(embeddings_ND.double().cpu().numpy())
    relative = float(dimension_std(unit).mean()) * unit.shape[1] ** 0.5
    return {"relative_std": relative, "mean_cosine": mean_pairwise_cosine(unit)}


def _of_views(views_QND: NDArray[np.floating] | None) -> dict[str, float | None]:
    if views_QND is None:
        return {}
    if len(views_QND) < 2:
        raise UsageError("one view of each film is too few to compare views", "use at least two")
    return {
        "alignment": alignment(views_QND[0], views_QND[1]),
        "retrieval": retrieval(views_QND[0], views_QND[1]),
        "lidar": lidar(views_QND),
    }


def _check(x_ND: NDArray[np.floating]) -> None:
    if len(x_ND) < 2:
        raise UsageError(f"{len(x_ND)} film is too few to compare films", "use at least two, better a thousand")
    if not np.isfinite(x_ND).all():
        raise UsageError("the features are not finite", "use an older checkpoint")


def _read(name: str, value: Any) -> Any:
    """A field's value out of plain values."""
    if name == "alpha_range":
        return None if value is None else _range(*value)
    if value is None and name in _UNDEFINED:
        return None
    if isinstance(value, bool) or not isinstance(value, int if name in _WHOLE else int | float):
        raise TypeError(f"{name} is {value!r}")
    if not math.isfinite(value):
        raise ValueError(f"{name} is {value}")
    return value if name in _WHOLE else float(value)


def _range(first: Any, last: Any) -> tuple[int, int]:
    if type(first) is not int or type(last) is not int:
        raise TypeError(f"alpha_range is {first!r}, {last!r}")
    return first, last

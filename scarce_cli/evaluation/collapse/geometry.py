"""Where features lie: their lengths of rows, their spread, how near positives are and how even the rest is.

Shape suffixes: N films, D feature dimensions. All in float64.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

Floats = NDArray[np.float64]
_ROWS = 512  # films whose distances to all others are held at once


def l2_normalize(x_ND: Floats) -> Floats:
    """Rows of length 1, however long they were; a zero row stays zero."""
    largest = np.abs(x_ND).max(axis=1, keepdims=True)
    scaled = x_ND / np.where(largest > 0, largest, 1.0)  # so that no square underflows or overflows
    norms = np.linalg.norm(scaled, axis=1, keepdims=True)
    return scaled / np.where(norms > 0, norms, 1.0)


def dimension_std(x_ND: NDArray[np.floating], *, unbiased: bool = True) -> Floats:
    """(D,) standard deviation of every dimension over the films."""
    return np.asarray(x_ND, np.float64).std(axis=0, ddof=int(unbiased))


def mean_pairwise_cosine(unit_ND: Floats) -> float:
    """Exact mean cosine over all pairs i < j of unit rows, in O(N D).

    The sum over all ordered pairs is the squared length of the sum of rows; the diagonal is taken off.
    """
    n = len(unit_ND)
    total = float(np.square(unit_ND.sum(axis=0)).sum())
    return (total - float(np.square(unit_ND).sum())) / (n * (n - 1))


def alignment(x_ND: NDArray[np.floating], positives_ND: NDArray[np.floating], *, alpha: float = 2.0) -> float:
    """Mean distance, to the power ``alpha``, of films and their positives on the unit sphere: 0 is best.

    Wang & Isola, 2020 (arXiv 2005.10242).
    """
    x, y = (l2_normalize(np.asarray(rows, np.float64)) for rows in (x_ND, positives_ND))
    return float((np.linalg.norm(x - y, axis=1) ** alpha).mean())


def uniformity(x_ND: NDArray[np.floating], *, t: float = 2.0) -> float:
    """Log of the mean of exp(-t d^2) over all pairs of films on the unit sphere: 0 when all are the same, and
    near -2 t when they fill it. Wang & Isola, 2020. O(N^2 D) time, memory bounded."""
    unit = l2_normalize(np.asarray(x_ND, np.float64))
    n, total = len(unit), 0.0
    for start in range(0, n, _ROWS):
        squared = cdist(unit[start : start + _ROWS], unit, "sqeuclidean")
        total += float(np.expm1(-t * squared).sum())  # the diagonal adds 0
    return float(np.log1p(total / (n * (n - 1))))

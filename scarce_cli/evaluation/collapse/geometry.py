"""Where features lie: their lengths of rows, their spread, how near positives are and how even the rest is.

Shape suffixes: N films, D feature dimensions. All in float64.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
_SAFE = 1e-200  # a sum of squares from here to its inverse has neither underflowed nor overflowed
_ROWS = 512  # films that are compared with all others at once
ROUNDINGS = 16  # of its dtype, which a feature gathers on its way through a network


def l2_normalize(x_ND: Floats) -> Floats:
    """Rows of length 1, however long they were; a zero row stays zero."""
    squares = np.einsum("nd,nd->n", x_ND, x_ND)
    if squares.min() < _SAFE or not squares.max() < 1 / _SAFE:
        largest = np.abs(x_ND).max(axis=1, keepdims=True)
        x_ND = x_ND / np.where(largest > 0, largest, 1.0)
        squares = np.einsum("nd,nd->n", x_ND, x_ND)
    return x_ND / np.sqrt(np.where(squares > 0, squares, 1.0))[:, None]


def dimension_std(x_ND: NDArray[np.floating], *, unbiased: bool = True) -> Floats:
    """(D,) standard deviation of every dimension over the films."""
    return np.asarray(x_ND, np.float64).std(axis=0, ddof=int(unbiased))


def dead_dimensions(x_ND: NDArray[np.floating]) -> int:
    """Dimensions in which all films have the same value, up to rounding of the dtype the features come in."""
    spread = np.ptp(x_ND, axis=0)
    return int((spread <= ROUNDINGS * np.finfo(x_ND.dtype).eps * np.abs(x_ND).max(axis=0)).sum())


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
    near -2 t when they fill it. Wang & Isola, 2020. O(N^2 D) time, memory bounded.

    A squared distance is |u|^2 + |v|^2 - 2 u v, with the mean row taken off u and v: where all rows are nearly the
    same, nothing large is left that would cancel.
    """
    unit = l2_normalize(np.asarray(x_ND, np.float64))
    unit = unit - unit.mean(axis=0)
    squares, n, total = np.square(unit).sum(axis=1), len(unit), 0.0
    for start in range(0, n, _ROWS):
        rows = slice(start, start + _ROWS)
        later = unit[rows] @ unit[start:].T  # of two films, the pair that begins with the earlier
        later = np.maximum(squares[rows, None] + squares[start:] - 2 * later, 0.0)
        total += float(np.triu(np.expm1(-t * later), 1).sum())
    return float(np.log1p(total / (n * (n - 1) / 2)))


def retrieval(x_ND: NDArray[np.floating], others_ND: NDArray[np.floating]) -> float:
    """Share of films whose other view is the nearest, by cosine, of all films' other views: 0 to 1, blind 1 / N.

    Mean over both directions. Where several are as near, the film counts by one over their number. O(N^2 D) time,
    memory bounded.
    """
    x, y = (l2_normalize(np.asarray(rows, np.float64)) for rows in (x_ND, others_ND))
    return (_found(x, y) + _found(y, x)) / (2 * len(x))


def _found(unit_ND: Floats, others_ND: Floats) -> float:
    """How many rows of ``unit_ND`` find their own among ``others_ND``."""
    found = 0.0
    for start in range(0, len(unit_ND), _ROWS):
        cosines = unit_ND[start : start + _ROWS] @ others_ND.T
        own = cosines[np.arange(len(cosines)), np.arange(start, start + len(cosines))][:, None]
        nearer, as_near = (cosines > own).sum(axis=1), (cosines == own).sum(axis=1)
        found += float(((nearer == 0) / as_near).sum())
    return found

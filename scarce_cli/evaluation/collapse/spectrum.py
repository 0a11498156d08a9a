"""How many directions a set of features uses, in several published readings of its singular values.

Shape suffixes: N films, D feature dimensions, M = min(N, D). All in float64.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from scarce_cli.evaluation.collapse.geometry import ROUNDINGS

Floats = NDArray[np.float64]

RANKME_ADDED = 1e-7  # to every share
_EPS = float(np.finfo(np.float64).eps)
_GRAM_ERROR = 4 * _EPS  # of a Gram matrix's eigenvalues, as a vector, over their sum: measured, below 2.5 eps
_ENTROPY_ERROR = 5e-10  # how far a Gram matrix may put an entropy off, and so a rank, relatively
_FIRST, _LAST, _FEWEST = 6, 100, 10  # of the power law's fit: indices from 1, and how many there must be


@dataclass(frozen=True)
class PowerLaw:
    """Eigenvalues that fall as i^-alpha, fitted from the ``first`` to the ``last``, counted from 1."""

    alpha: float
    first: int
    last: int


def singular_values(x_ND: NDArray[np.floating], *, centred: bool) -> Floats:
    """(M,), largest first, each to rounding of the largest; zeros where ``centred`` leaves nothing but rounding.

    Rounding is that of the dtype the features come in: a constant network's differ in their last bits.
    """
    x, scale = _prepared(x_ND, centred=centred)
    return scale * _decomposed(x)


def spectrum(x_ND: NDArray[np.floating], *, centred: bool) -> Floats:
    """The same from the smaller Gram matrix where that is exact enough, which is several times faster.

    A Gram matrix squares the values, so that one below 1e-8 of the largest is lost in the rounding of the largest.
    An entropy of what is returned is within 5e-10 of that of the true values; where they fall too steeply for a Gram
    matrix to hold that, they come from a singular value decomposition.
    """
    x, scale = _prepared(x_ND, centred=centred)
    alive = x.any(axis=0)
    x = x if alive.all() else x[:, alive]  # a dead dimension is a zero without rounding
    n, d = x.shape
    gram = x.T @ x if d < n else x @ x.T
    values = np.sqrt(torch.linalg.eigvalsh(torch.from_numpy(gram)).numpy()[::-1].clip(min=0.0))
    if centred and n <= d:
        values = values[:-1]  # so is one of the films' deviations from their mean, as these add up to nothing
    if _entropy_error(values) > _ENTROPY_ERROR:
        values = _decomposed(x)
    return scale * np.pad(values, (0, min(x_ND.shape) - len(values)))


def entropy_rank(values: Floats, *, added: float = 0.0) -> float | None:
    """exp of the entropy of ``values`` over their sum, ``added`` to each share; None when all are zero."""
    total = values.sum()
    if total == 0:
        return None
    p = values / total + added
    p = p[p > 0]
    return float(np.exp(-(p * np.log(p)).sum()))


def effective_rank(x_ND: NDArray[np.floating], *, centred: bool = True) -> float | None:
    """Roy & Vetterli, 2007: at most min(N - 1, D) when centred. None for constant features."""
    return entropy_rank(spectrum(x_ND, centred=centred))


def rankme(x_ND: NDArray[np.floating], *, centred: bool = False) -> float | None:
    """Garrido et al., 2023 (arXiv 2210.02885): of the features as they are, 1e-7 added to every share.

    A large mean drags it down; compare only runs of the same method.
    """
    return entropy_rank(spectrum(x_ND, centred=centred), added=RANKME_ADDED)


def numerical_rank(x_ND: NDArray[np.floating], *, centred: bool = True) -> int:
    """Singular values above rounding: max(N, D) * eps times the norm of the features as they are."""
    values = singular_values(x_ND, centred=centred)
    rounding = max(x_ND.shape) * _EPS * np.linalg.norm(np.asarray(x_ND, np.float64))
    return int((values > rounding).sum())


def power_law(x_ND: NDArray[np.floating], centred_M: Floats) -> PowerLaw | None:
    """alpha-ReQ: the exponent of the eigenvalues of the covariance (Agrawal et al., 2022, arXiv 2202.05808).

    A straight line through log eigenvalue over log index i by least squares with the weights 1/i, which give every
    octave of the index the same say, as in the authors' code (fastssl). From i = 6 to 100 as in their package (reptrix,
    ``get_alpha``); their scripts also begin at 4 or end at 50. The fit ends before the first eigenvalue that may be
    rounding.

    Args:
        centred_M: the singular values of the centred features, largest first.

    Returns:
        None where there are fewer than ten eigenvalues to fit.
    """
    last = min(_LAST, int((centred_M > _noise_edge(x_ND)).sum()))
    if last - _FIRST + 1 < _FEWEST:
        return None
    i = np.arange(_FIRST, last + 1)
    x, y = np.log(i), 2 * np.log(centred_M[_FIRST - 1 : last])  # the eigenvalues but for a factor
    x = x - np.average(x, weights=1 / i)
    return PowerLaw(-float((x * y / i).sum() / (x * x / i).sum()), _FIRST, last)


def is_constant(deviations_ND: Floats, x_ND: Floats, dtype: np.dtype[np.floating]) -> bool:
    """Whether the features' ``deviations_ND`` from their mean may be nothing but rounding in ``dtype``, theirs."""
    share = max(max(x_ND.shape) * _EPS, ROUNDINGS * float(np.finfo(dtype).eps))
    return bool(np.linalg.norm(deviations_ND) <= share * np.linalg.norm(x_ND))


def _prepared(x_ND: NDArray[np.floating], *, centred: bool) -> tuple[Floats, float]:
    """The features over a power of two near the largest, so that no square overflows, and that power."""
    scale = np.ldexp(1.0, np.frexp(max(x_ND.max(), -x_ND.min()))[1] - 1)
    x = np.divide(x_ND, scale, dtype=np.float64)
    if centred:
        deviations = x - x.mean(axis=0)
        x = np.zeros_like(x) if is_constant(deviations, x, x_ND.dtype) else deviations
    return x, float(scale)


def _decomposed(x_ND: Floats) -> Floats:
    return np.asarray(np.linalg.svd(x_ND, compute_uv=False), np.float64)


def _entropy_error(values_M: Floats) -> float:
    """How far rounding may put the entropy H of the shares p of a Gram matrix's roots off, to first order.

    The matrix and its eigenvalues are off by e in the Frobenius norm, so that the errors of the eigenvalues, squared,
    add up to e^2 at most (Hoffman and Wielandt). An error of v^2 puts H off by (|ln p| + H) / (v sum(v)) times itself
    or less, hence by Cauchy and Schwarz all of them together by e times the length of those factors. A value below
    sqrt(e) may as well be 0.
    """
    total, error = values_M.sum(), _GRAM_ERROR * np.square(values_M).sum()
    if total == 0:
        return 0.0
    held = np.maximum(values_M, np.sqrt(error))
    factors = (np.abs(np.log(held / total)) + np.log(len(held)) + 1) / (held * total)
    return float(error * np.linalg.norm(factors))


def _noise_edge(x_ND: NDArray[np.floating]) -> float:
    """The largest singular value of independent roundings, of the dtype of the features and of the arithmetic here."""
    n, d = x_ND.shape
    share = max(max(n, d) * _EPS, float(np.finfo(x_ND.dtype).eps) * (n**-0.5 + d**-0.5))
    return share * float(np.linalg.norm(np.asarray(x_ND, np.float64)))

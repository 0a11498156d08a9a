"""How many directions a set of features uses, in several published readings of its singular values.

Shape suffixes: N films, D feature dimensions. All in float64.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
_RANKME_ADDED = 1e-7


def singular_values(x_ND: NDArray[np.floating], *, centred: bool) -> Floats:
    """(min(N, D),), largest first; zeros where ``centred`` leaves nothing but rounding.

    Rounding is that of the dtype the features come in: a constant network's differ in their last bits.
    """
    x = np.asarray(x_ND, np.float64)
    values = np.asarray(np.linalg.svd(x - x.mean(axis=0) if centred else x, compute_uv=False), np.float64)
    eps = max(max(x.shape) * np.finfo(np.float64).eps, 16 * float(np.finfo(x_ND.dtype).eps))
    noise = centred and values[0] <= eps * np.linalg.norm(x, ord="fro")
    return np.zeros_like(values) if noise else values


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
    return entropy_rank(singular_values(x_ND, centred=centred))


def rankme(x_ND: NDArray[np.floating], *, centred: bool = False) -> float | None:
    """Garrido et al., 2023 (arXiv 2210.02885): of the features as they are, 1e-7 added to every share.

    A large mean drags it down; compare only runs of the same method.
    """
    return entropy_rank(singular_values(x_ND, centred=centred), added=_RANKME_ADDED)


def numerical_rank(x_ND: NDArray[np.floating], *, centred: bool = True) -> int:
    """Singular values above rounding: max(N, D) * eps times the norm of the features as they are."""
    values = singular_values(x_ND, centred=centred)
    rounding = max(x_ND.shape) * np.finfo(np.float64).eps * np.linalg.norm(np.asarray(x_ND, np.float64))
    return int((values > rounding).sum())

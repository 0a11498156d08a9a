"""LiDAR: the rank of what tells films apart, rather than views of the same film.

Shape suffixes: Q views of each film, N films, D feature dimensions. All in float64.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import cholesky, solve_triangular

from scarce_cli.evaluation.collapse.spectrum import entropy_rank, is_constant

_DELTA = 1e-4  # added to the within-film covariance, so that it can be inverted
_ADDED = 1e-7  # to every share


def lidar(views_QND: NDArray[np.floating]) -> float | None:
    """exp of the entropy of the eigenvalues of Sw^-1/2 Sb Sw^-1/2, each over their sum plus 1e-7.

    Sb: covariance of the films' means over their views. Sw: the mean covariance of the views of a film, plus 1e-4 on
    the diagonal; both unbiased. Thilak et al., 2023 (arXiv 2312.04000), section 3. About min(N - 1, D) at most. Not
    free of scale, as 1e-4 is not: compare only runs of the same method. The paper uses ten views or more; from two
    views Sw is a coarse estimate.

    Args:
        views_QND: two views or more of each of two films or more.

    Returns:
        None where all films have the same mean, up to rounding.
    """
    x = np.asarray(views_QND, np.float64)
    q, n, d = x.shape
    film_ND = x.mean(axis=0)
    between_ND = film_ND - film_ND.mean(axis=0)
    if is_constant(between_ND, film_ND, views_QND.dtype):
        return None
    within = (x - film_ND).reshape(q * n, d)
    sw_DD = within.T @ within / (n * (q - 1))
    sw_DD[np.diag_indices(d)] += _DELTA
    # With Sw = L L^T, L^-1 Sb L^-T has the same eigenvalues as Sw^-1/2 Sb Sw^-1/2.
    white_DN = solve_triangular(cholesky(sw_DD, lower=True), between_ND.T, lower=True)
    gram = white_DN.T @ white_DN if n < d else white_DN @ white_DN.T
    values = torch.linalg.eigvalsh(torch.from_numpy(gram)).numpy().clip(min=0.0)
    return entropy_rank(np.pad(values, (0, d - len(values))), added=_ADDED)

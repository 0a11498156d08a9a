"""L2-regularised logistic regression, solved to machine precision for few films and many features."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

Floats = NDArray[np.float64]
_MAX_STEPS = 100
_LAST_STEP = 1e-8  # relative; Newton's error after it is about its square, below rounding


@dataclass(frozen=True)
class LinearModel:
    """Scores are ``x @ coef + intercept``; positive means the finding."""

    coef: Floats  # (D,)
    intercept: float

    def scores(self, x_ND: Floats) -> Floats:
        """(N,) decision values."""
        return x_ND @ self.coef + self.intercept


def fit_logistic(x_ND: Floats, labels: NDArray[np.bool_], c: float) -> LinearModel:
    """Minimise |w|^2 / 2 + c * sum of log-losses; the intercept is not penalised (scikit-learn's objective).

    The solution lies in the span of the films, so Newton's method runs in min(N, D) dimensions.

    Args:
        x_ND: float64.
        labels: (N,), both classes present.
    """
    u, s, vt = np.linalg.svd(x_ND, full_matrices=False)
    z = np.concatenate([u * s, np.ones((len(u), 1))], axis=1)
    penalty = np.r_[np.ones(len(s)), 0.0]
    sign = np.where(labels, 1.0, -1.0)
    beta: Floats = np.zeros(z.shape[1])
    for _ in range(_MAX_STEPS):
        gradient, hessian = _derivatives(beta, z, sign, penalty, c)
        step = np.asarray(np.linalg.solve(hessian, gradient), np.float64)
        beta = _line_search(beta, step, gradient, z, sign, penalty, c)
        if np.abs(step).max() <= _LAST_STEP * np.abs(beta).max():
            break
    return LinearModel(coef=vt.T @ beta[:-1], intercept=float(beta[-1]))


def _objective(beta: Floats, z: Floats, sign: Floats, penalty: Floats, c: float) -> float:
    return float(0.5 * (penalty * beta**2).sum() + c * np.logaddexp(0.0, -sign * (z @ beta)).sum())


def _derivatives(beta: Floats, z: Floats, sign: Floats, penalty: Floats, c: float) -> tuple[Floats, Floats]:
    wrong = expit(-sign * (z @ beta))
    gradient = penalty * beta - c * z.T @ (sign * wrong)
    hessian = c * (z.T * (wrong * (1 - wrong))) @ z
    hessian[np.diag_indices_from(hessian)] += penalty + 1e-12  # the intercept's curvature can vanish
    return gradient, hessian


def _line_search(
    beta: Floats, step: Floats, gradient: Floats, z: Floats, sign: Floats, penalty: Floats, c: float
) -> Floats:
    """Halve the Newton step until the objective falls (Armijo)."""
    start, slope, size = _objective(beta, z, sign, penalty, c), float(gradient @ step), 1.0
    while size > 1e-10:
        if _objective(beta - size * step, z, sign, penalty, c) <= start - 1e-4 * size * slope + 1e-15 * abs(start):
            break
        size /= 2
    return beta - size * step

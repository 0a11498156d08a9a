"""Newton's method on batches: a general minimiser as oracle, and starts from which a full step would go astray."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from scarce_cli.evaluation.fewshot.newton import Batch, solve, start


def batch(problems: int, films: int, c: float) -> Batch:
    """The last film of the first problem costs nothing: it is not there."""
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.standard_normal((problems, films, films + 3)))
    sign = torch.from_numpy(np.where(np.arange(films) % 3 == 0, 1.0, -1.0)).expand(problems, films)
    cost = torch.full((problems, films), c, dtype=torch.float64)
    cost[0, -1] = 0
    return Batch(x @ x.mT / films, sign, cost)


@pytest.mark.parametrize("c", [0.1, 10.0, 1e4])
@pytest.mark.parametrize("far", [0.0, 1.0, 100.0])
def test_the_optimum_is_found_from_everywhere(c: float, far: float) -> None:
    what = batch(4, 7, c)
    rng = np.random.default_rng(1)
    begin = torch.from_numpy(far * rng.standard_normal((4, 7)))
    begin[0, -1] = 0  # a film that is not there has no part in the weights
    found = solve(what, start(what, begin, torch.from_numpy(far * rng.standard_normal(4))))
    np.testing.assert_allclose(found.alpha_PN.sum(1), 0, atol=1e-10 * c)
    assert found.alpha_PN[0, -1] == 0
    for place in range(4):
        gram, sign, cost = (part[place].numpy() for part in (what.gram_PNN, what.sign_PN, what.cost_PN))
        root = np.linalg.cholesky(gram)  # w in the films' span: scores = root @ v, |v| = |w|

        def objective(
            v: np.ndarray, root: np.ndarray = root, sign: np.ndarray = sign, cost: np.ndarray = cost
        ) -> tuple[float, np.ndarray]:
            margin = sign * (root @ v[:-1] + v[-1])
            pull = -cost * sign / (1 + np.exp(margin))
            return v[:-1] @ v[:-1] / 2 + cost @ np.logaddexp(0, -margin), np.append(v[:-1] + root.T @ pull, pull.sum())

        best = minimize(objective, np.zeros(8), jac=True, method="BFGS", options={"gtol": 1e-8 * c, "maxiter": 5000})
        ours = np.append(root.T @ found.alpha_PN[place].numpy(), found.intercept_P[place])
        value, slope = objective(ours)
        assert value <= best.fun * (1 + 1e-12)
        assert np.abs(slope).max() < 1e-10 * max(1, c)

"""Newton's method for many L2-regularised logistic regressions at once, in the space of the films.

There are a few hundred films at most and up to 2,048 features, and the weights are a sum of films, w = X^T a. So a
problem is its Gram matrix K = X X^T alone, and all problems of a batch take their steps together.

Shape suffixes: P problems of a batch, N films of the largest (smaller ones are filled up with films of no cost),
R right sides of an equation.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TypeVar

import torch
from torch import Tensor

_MAX_STEPS = 200
_LAST_STEP = 1e-7  # of the largest change of a score; Newton's error after it is about its square, below rounding
_ARMIJO = 1e-4
_ROUNDING = 1e-14  # of the objective, which a step near the optimum cannot fall below
_SMALLEST_STEP = 1e-10
_FLATTEST = 1e-10  # curvature of a loss: far from the optimum all can vanish, and nothing would hold the intercept
_LINEAR = 40.0  # from here on log(1 + e^x) is x in float64


@dataclass(frozen=True)
class Batch:
    """Problems without their solutions, all float64."""

    gram_PNN: Tensor  # inner products; best of centred features, whose differences rounding leaves whole
    sign_PN: Tensor  # +1 or -1
    cost_PN: Tensor  # C; 0 where there is no film


@dataclass(frozen=True)
class State:
    """Where each problem is: a film's score is ``gram @ alpha + intercept``."""

    alpha_PN: Tensor  # sums to 0
    intercept_P: Tensor
    scores_PN: Tensor


_Whole = TypeVar("_Whole", Batch, State)


def start(batch: Batch, alpha_PN: Tensor, intercept_P: Tensor) -> State:
    """The state with these weights."""
    return State(alpha_PN, intercept_P, _times(batch.gram_PNN, alpha_PN) + intercept_P[:, None])


def solve(batch: Batch, state: State) -> State:
    """Minimise |w|^2 / 2 + sum of cost * log-loss for every problem; the intercept is not penalised.

    Problems leave when they have converged. With both classes present the objective has one minimum, also when a
    plane parts the classes, and nothing is divided by what can vanish: the factorised matrix is I + S K S with
    S^2 the films' curvatures (Rasmussen & Williams, 2006, section 3.4.3, with an intercept through its Schur
    complement).

    Args:
        state: where to start; the nearer, the fewer steps.
    """
    found = State(*(getattr(state, field.name).clone() for field in fields(State)))
    todo = torch.arange(len(batch.gram_PNN))
    for _ in range(_MAX_STEPS):
        state, change_P = _step(batch, state)
        for field in fields(State):
            getattr(found, field.name)[todo] = getattr(state, field.name)
        going = change_P > _LAST_STEP
        if not going.any():
            break
        if not going.all():
            todo, batch, state = todo[going], _only(batch, going), _only(state, going)
    return found


def _step(batch: Batch, state: State) -> tuple[State, Tensor]:
    """One damped Newton step, and (P,) the largest change of a score by it."""
    wrong_PN = torch.sigmoid(-batch.sign_PN * state.scores_PN)
    pull_PN = batch.cost_PN * batch.sign_PN * wrong_PN  # what alpha is at the optimum
    gap_PN = pull_PN - state.alpha_PN
    gram_gap_PN = _times(batch.gram_PNN, gap_PN)
    sure_PN = wrong_PN * torch.sigmoid(batch.sign_PN * state.scores_PN)
    root_PN = (batch.cost_PN * sure_PN.clamp(min=_FLATTEST)).sqrt()
    solved_PNR = _solve_newton(batch.gram_PNN, root_PN, torch.stack([root_PN * gram_gap_PN, root_PN], dim=2))
    along_PN = gap_PN - root_PN * solved_PNR[..., 0]
    per_intercept_PN = root_PN * solved_PNR[..., 1]
    intercept_P = (along_PN.sum(1) + state.alpha_PN.sum(1)) / per_intercept_PN.sum(1)
    alpha_PN = along_PN - intercept_P[:, None] * per_intercept_PN
    step = State(alpha_PN, intercept_P, _times(batch.gram_PNN, alpha_PN) + intercept_P[:, None])
    falls_P = (gram_gap_PN * alpha_PN).sum(1) + pull_PN.sum(1) * intercept_P
    size_P = _line_search(batch, state, step, falls_P)
    return _moved(state, step, size_P), (size_P * step.scores_PN.abs().amax(1))


def _solve_newton(gram_PNN: Tensor, root_PN: Tensor, right_PNR: Tensor) -> Tensor:
    """(I + S K S)^-1 times the right sides; its eigenvalues are 1 or more."""
    matrix_PNN = gram_PNN * root_PN[:, :, None]
    matrix_PNN *= root_PN[:, None, :]
    matrix_PNN.diagonal(dim1=1, dim2=2).add_(1.0)
    lower_PNN, _ = torch.linalg.cholesky_ex(matrix_PNN)
    half_PNR = torch.linalg.solve_triangular(lower_PNN, right_PNR, upper=False)
    return torch.linalg.solve_triangular(lower_PNN.mT, half_PNR, upper=True)


def _line_search(batch: Batch, state: State, step: State, falls_P: Tensor) -> Tensor:
    """(P,) how much of each step to go: halved until the objective falls (Armijo)."""
    before_P = _objective(batch, state)
    most_P, size_P = before_P * (1 + _ROUNDING), torch.ones_like(before_P)
    while True:
        after_P = _objective(batch, _moved(state, step, size_P))
        fails = ~(after_P <= most_P - _ARMIJO * size_P * falls_P) & (size_P > _SMALLEST_STEP)
        if not fails.any():
            return size_P
        size_P = torch.where(fails, size_P / 2, size_P)


def _objective(batch: Batch, state: State) -> Tensor:
    weights_P = (state.alpha_PN * (state.scores_PN - state.intercept_P[:, None])).sum(1)  # a K a = |w|^2
    losses_PN = torch.nn.functional.softplus(-batch.sign_PN * state.scores_PN, threshold=_LINEAR)
    return weights_P / 2 + (batch.cost_PN * losses_PN).sum(1)


def _moved(state: State, step: State, size_P: Tensor) -> State:
    size_P1 = size_P[:, None]
    return State(
        state.alpha_PN + size_P1 * step.alpha_PN,
        state.intercept_P + size_P * step.intercept_P,
        state.scores_PN + size_P1 * step.scores_PN,
    )


def _only(whole: _Whole, chosen: Tensor) -> _Whole:
    return type(whole)(*(getattr(whole, field.name)[chosen] for field in fields(whole)))


def _times(matrix_PNN: Tensor, vector_PN: Tensor) -> Tensor:
    return (matrix_PNN @ vector_PN[:, :, None])[:, :, 0]

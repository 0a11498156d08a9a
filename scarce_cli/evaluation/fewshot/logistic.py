"""L2-regularised logistic regression, solved to machine precision for few films and many features, many at once.

Shape suffixes: N films, D features, C values of the weight of the data, P problems of a batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from scarce_cli.evaluation.fewshot.films import Bools, Floats, Ints
from scarce_cli.evaluation.fewshot.newton import Batch, State, solve, start

_HELD = 500_000  # entries of Gram matrices solved together: 4 MB, which a processor's cache holds
_FILLED = 1.15  # the largest problem of a batch, in films of its smallest


@dataclass(frozen=True)
class LinearModel:
    """Scores are ``x @ coef + intercept``: the log-odds of the finding, positive for it."""

    coef: Floats  # (D,)
    intercept: float

    def scores(self, x_ND: Floats) -> Floats:
        """(N,) decision values."""
        return x_ND @ self.coef + self.intercept


@dataclass(frozen=True)
class Problem:
    """What is learned from."""

    x_ND: Floats
    labels: Bools  # (N,), both classes present
    groups: Ints | None = None  # (N,) numbers of patients; None: every film has its own

    @cached_property
    def centre(self) -> Floats:
        """(D,) mean of the films. It is taken off before products are formed: features of one modality lie close
        together, and only their differences count, since the intercept takes up the rest."""
        return self.x_ND.mean(axis=0)

    @cached_property
    def gram(self) -> Floats:
        """(N, N) inner products of the films less their centre."""
        x_ND = self.x_ND - self.centre
        return x_ND @ x_ND.T

    def model(self, alpha: Floats, intercept: float) -> LinearModel:
        """The model whose scores of the films are ``gram @ alpha + intercept``."""
        coef = alpha @ self.x_ND - alpha.sum() * self.centre
        return LinearModel(coef, float(intercept - coef @ self.centre))


@dataclass(frozen=True)
class Part:
    """Some films of a problem, to learn from, and where to start."""

    problem: Problem
    films: Ints  # places within the problem
    alpha: Floats | None = None  # (films,) None: zeros
    intercept: float = 0.0


@dataclass(frozen=True)
class Solution:
    """A film's score is ``gram[:, films] @ alpha + intercept`` at each value of C."""

    alpha_CN: Floats
    intercept_C: Floats


def fit_logistic(x_ND: Floats, labels: Bools, c: float) -> LinearModel:
    """Minimise |w|^2 / 2 + c * sum of log-losses; the intercept is not penalised (scikit-learn's objective).

    Args:
        x_ND: float64.
        labels: (N,), both classes present.
    """
    return fit_many([Problem(x_ND, labels)], [c])[0][0]


def fit_many(problems: Sequence[Problem], cs: Sequence[float]) -> list[list[LinearModel]]:
    """`fit_logistic` of every problem at every C, solved together: a model for each C of each problem."""
    parts = [Part(problem, np.arange(len(problem.labels))) for problem in problems]
    solved = fit_parts(parts, np.tile(np.asarray(cs, np.float64), (len(parts), 1)))
    return [
        [problem.model(*one) for one in zip(found.alpha_CN, found.intercept_C, strict=True)]
        for problem, found in zip(problems, solved, strict=True)
    ]


def fit_parts(parts: Sequence[Part], cs_PC: Floats) -> list[Solution]:
    """Solve all parts, those of like size together, each from the solution at the C before.

    Args:
        cs_PC: the values of C for each part; in ascending order they take the fewest steps.
    """
    found: list[Solution | None] = [None] * len(parts)
    for places in _batches([len(part.films) for part in parts]):
        for place, solution in zip(places, _fit_batch([parts[p] for p in places], cs_PC[places]), strict=True):
            found[place] = solution
    return [solution for solution in found if solution is not None]


def _batches(sizes: Sequence[int]) -> Iterator[list[int]]:
    """Places of problems that are solved together: of like size, and as many as the cache holds."""
    batch: list[int] = []
    for place in np.argsort(sizes, kind="stable").tolist():
        full = (len(batch) + 1) * sizes[place] ** 2 > _HELD
        if batch and (full or sizes[place] > _FILLED * sizes[batch[0]]):
            yield batch
            batch = []
        batch.append(place)
    if batch:
        yield batch


def _fit_batch(parts: Sequence[Part], cs_PC: Floats) -> Iterator[Solution]:
    films = max(len(part.films) for part in parts)
    gram_PNN = np.zeros((len(parts), films, films))
    there_PN, alpha_PN = np.zeros((2, len(parts), films))
    sign_PN = np.ones((len(parts), films))
    for place, part in enumerate(parts):
        n, whole = len(part.films), part.problem
        gram_PNN[place, :n, :n] = whole.gram[np.ix_(part.films, part.films)]
        sign_PN[place, :n] = np.where(whole.labels[part.films], 1.0, -1.0)
        there_PN[place, :n] = 1.0
        alpha_PN[place, :n] = 0.0 if part.alpha is None else part.alpha
    begin = alpha_PN, np.array([part.intercept for part in parts])
    alpha_CPN, intercept_CP = _path(gram_PNN, sign_PN, there_PN, begin, cs_PC)
    for place, part in enumerate(parts):
        yield Solution(alpha_CPN[:, place, : len(part.films)], intercept_CP[:, place])


def _path(
    gram_PNN: Floats, sign_PN: Floats, there_PN: Floats, begin: tuple[Floats, Floats], cs_PC: Floats
) -> tuple[Floats, Floats]:
    """Alphas and intercepts at each C in turn."""
    gram, sign, there, cs = map(torch.from_numpy, (gram_PNN, sign_PN, there_PN, cs_PC))
    batch = Batch(gram, sign, there)
    state = start(batch, torch.from_numpy(begin[0]), torch.from_numpy(begin[1]))
    path: list[State] = []
    for c_P in cs.T:
        state = solve(Batch(gram, sign, there * c_P[:, None]), state)
        path.append(state)
    alphas, intercepts = [one.alpha_PN for one in path], [one.intercept_P for one in path]
    return torch.stack(alphas).numpy(), torch.stack(intercepts).numpy()

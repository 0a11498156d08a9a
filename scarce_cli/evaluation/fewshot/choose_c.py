"""Choosing the weight of the data in the logistic regression by cross-validation, as scikit-learn does.

Only the films that are learned from decide. With a handful of films accuracy and AUC tie for most values, and then
the smallest is taken; the log-loss decides.

Shape suffixes: N films of a problem, K folds, C values of the weight of the data.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from scarce_cli.evaluation.fewshot.films import Bools, Floats, Ints
from scarce_cli.evaluation.fewshot.folds import make_folds, possible_folds
from scarce_cli.evaluation.fewshot.logistic import LinearModel, Part, Problem, Solution, fit_parts
from scarce_cli.evaluation.fewshot.metrics import measures

FIXED_C = 1.0
"""For a class with one film (or patient), which leaves no folds. With one film of each class the films are ranked
alike whatever C is: the weights point from one film to the other."""

_ROUNDING = 1e-12  # means that differ by less are the same
Scoring = Literal["accuracy", "roc_auc", "neg_log_loss"]


@dataclass(frozen=True)
class Fit:
    """A model with the C that cross-validation found."""

    model: LinearModel
    c: float  # the smallest of the best
    tied: int  # values with the best mean score; more than 1: nothing was decided; 0: there was no choice
    scores_KC: Floats  # in each fold; (0, C) without folds


def choose_c(x_ND: Floats, labels: Bools, values: Sequence[float], *, scoring: Scoring, folds: int) -> Fit:
    """`choose_and_fit` for one problem without groups."""
    return choose_and_fit([Problem(x_ND, labels)], values, folds=folds, scoring=scoring)[0]


def choose_and_fit(
    problems: Sequence[Problem], cs: Sequence[float], *, folds: int = 5, scoring: Scoring = "neg_log_loss"
) -> list[Fit]:
    """Fit each problem on all folds but one, score on that one, for each C; then on all its films with the C of the
    best mean over folds. All fits of all problems are solved together.

    Args:
        cs: in ascending order; of a single one nothing is chosen.
        folds: the largest number; fewer where the rarer class has fewer films, or groups. `FIXED_C` below two.
    """
    fold_of = [_folds(problem, folds if len(cs) > 1 else 0) for problem in problems]
    parts = [
        Part(problem, np.flatnonzero(fold != k))
        for problem, fold in zip(problems, fold_of, strict=True)
        for k in range(_count(fold))
    ]
    solved = iter(fit_parts(parts, np.tile(np.asarray(cs, np.float64), (len(parts), 1))))
    chosen = [
        _choose(problem, fold, [next(solved) for _ in range(_count(fold))], cs, scoring)
        for problem, fold in zip(problems, fold_of, strict=True)
    ]
    whole = fit_parts([one.part for one in chosen], np.array([[one.c] for one in chosen]))
    return [
        Fit(one.part.problem.model(found.alpha_CN[0], float(found.intercept_C[0])), one.c, one.tied, one.scores_KC)
        for one, found in zip(chosen, whole, strict=True)
    ]


@dataclass(frozen=True)
class _Chosen:
    part: Part  # all films, to start from the mean of the folds' solutions
    c: float
    tied: int
    scores_KC: Floats


def _folds(problem: Problem, most: int) -> Ints:
    """(N,) fold of every film; all in one where there are no folds."""
    count = possible_folds(problem.labels, problem.groups, most)
    return make_folds(problem.labels, problem.groups, count) if count > 1 else np.zeros(len(problem.labels), np.int64)


def _count(fold: Ints) -> int:
    return int(fold.max() + 1) if fold.any() else 0


def _choose(problem: Problem, fold: Ints, solved: Sequence[Solution], cs: Sequence[float], scoring: Scoring) -> _Chosen:
    films = np.arange(len(problem.labels))
    if not solved:
        return _Chosen(Part(problem, films), cs[0] if len(cs) == 1 else FIXED_C, 0, np.empty((0, len(cs))))
    alpha_KCN = np.zeros((len(solved), len(cs), len(films)))
    for k, solution in enumerate(solved):
        alpha_KCN[k][:, fold != k] = solution.alpha_CN
    intercept_KC = np.stack([solution.intercept_C for solution in solved])
    scores_KCN = alpha_KCN @ problem.gram + intercept_KC[:, :, None]
    held_CN = scores_KCN[fold, :, films].T
    scores_KC = _SCORERS[scoring](held_CN, problem.labels, fold)
    means = scores_KC.mean(axis=0)
    best = means >= means.max() - _ROUNDING
    at = int(best.argmax())
    begin = Part(problem, films, alpha_KCN[:, at].mean(axis=0), float(intercept_KC[:, at].mean()))
    return _Chosen(begin, float(cs[at]), int(best.sum()), scores_KC)


def _mean_by_fold(values_CN: Floats, fold: Ints) -> Floats:
    """(K, C)"""
    within = fold == np.arange(fold.max() + 1)[:, None]
    return within @ values_CN.T / within.sum(axis=1, keepdims=True)


def _accuracy(scores_CN: Floats, labels: Bools, fold: Ints) -> Floats:
    return _mean_by_fold(((scores_CN > 0) == labels).astype(np.float64), fold)


def _roc_auc(scores_CN: Floats, labels: Bools, fold: Ints) -> Floats:
    members = [fold == k for k in range(fold.max() + 1)]
    return np.array([[measures(scores[m], labels[m]).auc[0] for scores in scores_CN] for m in members])


def _neg_log_loss(scores_CN: Floats, labels: Bools, fold: Ints) -> Floats:
    return -_mean_by_fold(np.logaddexp(0.0, np.where(labels, -scores_CN, scores_CN)), fold)


_SCORERS: Mapping[Scoring, Callable[[Floats, Bools, Ints], Floats]] = {
    "accuracy": _accuracy,
    "roc_auc": _roc_auc,
    "neg_log_loss": _neg_log_loss,
}

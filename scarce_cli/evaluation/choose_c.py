"""Choosing the weight of the data in the logistic regression by cross-validation, as scikit-learn does.

With a handful of films accuracy and AUC tie for most values, and the smallest is returned: only the log-loss
decides. So the probe's C is fixed by default.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from scarce_cli.evaluation.logistic import fit_logistic
from scarce_cli.evaluation.statistics import auc

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
_ROUNDING = 1e-12  # means that differ by less are the same
Scoring = Literal["accuracy", "roc_auc", "neg_log_loss"]


@dataclass(frozen=True)
class Choice:
    """What cross-validation found."""

    c: float  # the smallest of the best
    tied: int  # values with the best mean score; more than 1: nothing was decided
    scores: Floats  # (folds, values)


def stratified_folds(labels: Bools, folds: int) -> Ints:
    """(N,) fold of every film: the films of each class in the order given, in consecutive runs. Classes are
    dealt out one after the other, so that folds differ by one film at most."""
    first = bool(labels[0])
    classes = [np.flatnonzero(labels == first), np.flatnonzero(labels != first)]
    dealt = np.repeat([0, 1], [len(members) for members in classes])
    fold = np.empty(len(labels), np.int64)
    for code, members in enumerate(classes):
        sizes = [int((dealt[k::folds] == code).sum()) for k in range(folds)]
        fold[members] = np.repeat(np.arange(folds), sizes)
    return fold


def choose_c(x_ND: Floats, labels: Bools, values: Sequence[float], *, scoring: Scoring, folds: int) -> Choice:
    """Fit on all folds but one, score on that one, for each of ``values`` in ascending order.

    Args:
        folds: at most the films of the rarer class.
    """
    fold = stratified_folds(labels, folds)
    scores = np.empty((folds, len(values)))
    for k in range(folds):
        train, held = fold != k, fold == k
        for place, c in enumerate(values):
            found = fit_logistic(x_ND[train], labels[train], c).scores(x_ND[held])
            scores[k, place] = _SCORERS[scoring](found, labels[held])
    means = scores.mean(axis=0)
    best = means >= means.max() - _ROUNDING
    return Choice(float(values[int(best.argmax())]), int(best.sum()), scores)


def _accuracy(scores: Floats, labels: Bools) -> float:
    return float(((scores > 0) == labels).mean())


def _neg_log_loss(scores: Floats, labels: Bools) -> float:
    return -float(np.logaddexp(0.0, np.where(labels, -scores, scores)).mean())


_SCORERS: Mapping[Scoring, Callable[[Floats, Bools], float]] = {
    "accuracy": _accuracy,
    "roc_auc": auc,
    "neg_log_loss": _neg_log_loss,
}

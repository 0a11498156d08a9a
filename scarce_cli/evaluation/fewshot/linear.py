"""The linear probe: a logistic regression on unit features for every support set, all solved together.

Shape suffixes: F films of the data set, N films that are scored, D features, P support sets.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scarce_cli.evaluation.fewshot.choose_c import choose_and_fit
from scarce_cli.evaluation.fewshot.episodes import Support
from scarce_cli.evaluation.fewshot.films import Floats, Ints
from scarce_cli.evaluation.fewshot.logistic import Problem

CS = (0.01, 0.1, 1.0, 10.0, 100.0)
"""Values of C that cross-validation chooses from. More gain nothing: on real films, with up to 10,000 the AUC was the
same within 0.001 and the log-loss of the test films larger (0.78 instead of 0.72 with 5 shots)."""

FOLDS = 5
_HELD = 64 << 20  # bytes of float64 features of support sets, or of films to score, held at once


@dataclass(frozen=True)
class Linear:
    """A model for each of P support sets. Not a probability of having the finding in the clinic: the support set's
    share of the finding is in the intercept."""

    coef_PD: Floats
    intercept_P: Floats
    c_P: Floats  # that was chosen
    tied_P: Ints  # values of C that were equally good; 0: no choice: one value, or too few films for folds (C is 1)

    def scores(self, x_ND: NDArray[np.floating]) -> Floats:
        """(P, N) log-odds of the finding at the support set's balance; computed in float64."""
        scores_PN = np.empty((len(self.coef_PD), len(x_ND)))
        rows = max(1, _HELD // (8 * x_ND.shape[1]))
        for start in range(0, len(x_ND), rows):
            part = np.asarray(x_ND[start : start + rows], np.float64)
            scores_PN[:, start : start + rows] = self.coef_PD @ part.T + self.intercept_P[:, None]
        return scores_PN


def fit_linear(
    x_FD: NDArray[np.floating],
    supports: Sequence[Support],
    patients_F: Ints | None = None,
    *,
    cs: Sequence[float] = CS,
    folds: int = FOLDS,
) -> Linear:
    """Learn from each support set, C chosen by its log-loss on folds of the support set alone.

    The support sets may be those of several tasks and of any sizes: together they are solved fastest.

    Args:
        x_FD: unit features, float32 or float64; computed in float64.
        patients_F: number of each film's patient, whose films stay in one fold; None: every film has its own.
        cs: in ascending order.
    """
    fits: dict[int, tuple[Floats, float, float, int]] = {}
    for places in _chunks([len(support.films) for support in supports], 8 * x_FD.shape[1]):
        problems = [_problem(x_FD, supports[place], patients_F) for place in places]
        for place, fit in zip(places, choose_and_fit(problems, cs, folds=folds), strict=True):
            fits[place] = fit.model.coef, fit.model.intercept, fit.c, fit.tied
    coefs, intercepts, chosen, tied = zip(*(fits[place] for place in range(len(supports))), strict=True)
    return Linear(np.stack(coefs), np.array(intercepts), np.array(chosen), np.array(tied, np.int64))


def score_linear(
    x_FD: NDArray[np.floating],
    supports: Sequence[Support],
    test_N: Ints,
    patients_F: Ints | None = None,
    *,
    cs: Sequence[float] = CS,
    folds: int = FOLDS,
) -> tuple[Floats, Floats]:
    """(P, N) log-odds of the films ``test_N`` (numbers) after each support set, and (P,) the values of C chosen."""
    linear = fit_linear(x_FD, supports, patients_F, cs=cs, folds=folds)
    return linear.scores(x_FD[test_N]), linear.c_P


def _problem(x_FD: NDArray[np.floating], support: Support, patients_F: Ints | None) -> Problem:
    groups = None if patients_F is None else patients_F[support.films]
    return Problem(x_FD[support.films].astype(np.float64), support.labels, groups)


def _chunks(sizes: Sequence[int], row_bytes: int) -> Iterator[list[int]]:
    """Places of support sets, in the order of their sizes, whose features can be held at once."""
    chunk: list[int] = []
    held = 0
    for place in np.argsort(sizes, kind="stable").tolist():
        held += sizes[place] * row_bytes
        if chunk and held > _HELD:
            yield chunk
            chunk, held = [], sizes[place] * row_bytes
        chunk.append(place)
    if chunk:
        yield chunk

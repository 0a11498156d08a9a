"""Leaving out pairs of patients, one with the finding and one without: what a few cases say of features they have
not been used for.

Scores of patients left out one by one must not be pooled: who is left out is missing on his side of the rest, which
leans the other way. With shuffled labels of 23 + 23 real films the mean AUC is then .32 (C = 1) or .00 (C = .01), not
.50. Leaving out one of each class and pooling still gives .43 to .47, because the scale of the scores differs from
model to model. Comparing the two of a pair under their own model gives .502 +- .008 (C chosen), and five partners for
each patient spread no more than all of them (Parker, Guenter & Bedo 2007; Airola et al. 2011).

Shape suffixes: N films, P patients, A cases, B controls, M models (pairs), C values of the weight of the data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from scarce_cli.evaluation.fewshot.films import Bools, Floats, Ints
from scarce_cli.evaluation.fewshot.logistic import Part, Problem, Solution, fit_parts

PARTS = 5
"""Patients are dealt into so many parts. C for a pair is chosen without all of its part."""

_PARTNERS = 5  # of each patient, at most: as many as his part has
_ROUNDING = 1e-10  # of a model's largest score; films that differ by less are tied


@dataclass(frozen=True)
class People:
    """Films with their patients; every patient is a case or a control with all his films."""

    x_NR: Floats  # unit features in any orthogonal basis of their span
    patient_N: Ints  # number of the film's patient, 0 to P - 1, all present
    case_P: Bools  # the patient has the finding; 5 or more have, and 5 or more have not

    @classmethod
    def of(cls, x_ND: Floats, labels_N: Bools, patients_N: Ints) -> People:
        """From unit features, with features in as few dimensions as there are films: inner products stay."""
        u, s, _ = np.linalg.svd(x_ND, full_matrices=False)
        first, patient_N = np.unique(patients_N, return_index=True, return_inverse=True)[1:]
        return cls(u * s, patient_N.astype(np.int64), labels_N[first])

    def labels(self) -> Bools:
        """(N,)"""
        return self.case_P[self.patient_N]

    def with_labels(self, case_P: Bools) -> People:
        return People(self.x_NR, self.patient_N, case_P)


@dataclass(frozen=True)
class LeftOut:
    """How often a case's film scores above a control's, each pair of patients under a model of all others."""

    wins_AB: Floats  # pairs of films won, ties half; 0 where the two patients were not left out together
    pairs_AB: Floats  # pairs of films compared
    scores_N: Floats  # mean over a film's models of its score in standard deviations of that model's own films

    def auc(self) -> float:
        """Share of the pairs won."""
        return float(self.wins_AB.sum() / self.pairs_AB.sum())

    def aucs(self, weights_KA: Floats, weights_KB: Floats) -> Floats:
        """(K,) AUC with cases and controls as often as the weights say; NaN where nothing is compared."""
        won = ((weights_KA @ self.wins_AB) * weights_KB).sum(axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            return won / ((weights_KA @ self.pairs_AB) * weights_KB).sum(axis=1)


def leave_pairs_out(people: People, cs: Sequence[float], rng: np.random.Generator) -> LeftOut:
    """Score pairs of patients by logistic regressions on all other patients, C chosen without the pair's part.

    Args:
        cs: in ascending order.
        rng: deals the patients into parts and pairs.
    """
    problem = Problem(people.x_NR, people.labels())
    part_P = _deal(people.case_P, rng)
    c_K = _choose_c(problem, part_P[people.patient_N], cs)
    pairs_M2 = _pairs(people.case_P, part_P)
    scores_MN, there_MN = _score(problem, people.patient_N, pairs_M2, c_K[part_P[pairs_M2[:, 0]]])
    wins_AB, pairs_AB = compare(people, pairs_M2, scores_MN)
    return LeftOut(wins_AB, pairs_AB, _in_deviations(scores_MN, there_MN))


def _deal(case_P: Bools, rng: np.random.Generator) -> Ints:
    """(P,) part of every patient, both classes in every one."""
    part_P = np.empty(len(case_P), np.int64)
    for members in (np.flatnonzero(case_P), np.flatnonzero(~case_P)):
        part_P[rng.permutation(members)] = np.arange(len(members)) % PARTS
    return part_P


def _choose_c(problem: Problem, part_N: Ints, cs: Sequence[float]) -> Floats:
    """(PARTS,) C with the smallest mean log-loss on the films of all other parts, each scored by a model that has
    seen neither its part nor the one that C is chosen for. One model serves both ways."""
    both = list(combinations(range(PARTS), 2))
    parts = [Part(problem, np.flatnonzero((part_N != g) & (part_N != h))) for g, h in both]
    solved = fit_parts(parts, np.tile(np.asarray(cs, np.float64), (len(parts), 1)))
    losses_KC = np.zeros((PARTS, len(cs)))
    sign_N = np.where(problem.labels, 1.0, -1.0)
    for (g, h), part, found in zip(both, parts, solved, strict=True):
        scores_CN = found.alpha_CN @ problem.gram[part.films] + found.intercept_C[:, None]
        losses_CN = np.logaddexp(0.0, -sign_N * scores_CN)
        losses_KC[g] += losses_CN[:, part_N == h].sum(axis=1)
        losses_KC[h] += losses_CN[:, part_N == g].sum(axis=1)
    return np.asarray(cs, np.float64)[losses_KC.argmin(axis=1)]


def _pairs(case_P: Bools, part_P: Ints) -> Ints:
    """(M, 2) numbers of a case and a control of the same part. Each of the larger class meets up to five."""
    pairs: list[tuple[int, int]] = []
    for part in range(PARTS):
        cases, controls = (np.flatnonzero((part_P == part) & (case_P == label)) for label in (True, False))
        most, few = max(len(cases), len(controls)), min(len(cases), len(controls))
        for step in range(min(_PARTNERS, few)):
            at = np.arange(most)
            other = (at + step) % few
            first, second = (at, other) if len(cases) == most else (other, at)
            pairs += zip(cases[first].tolist(), controls[second].tolist(), strict=True)
    return np.array(pairs, np.int64)


def _score(problem: Problem, patient_N: Ints, pairs_M2: Ints, c_M: Floats) -> tuple[Floats, Bools]:
    """(M, N) scores of all films by each model, and whether it was learned from the film."""
    everyone = Part(problem, np.arange(len(patient_N)))
    values = np.unique(c_M)
    near: dict[float, Solution] = dict(
        zip(values.tolist(), fit_parts([everyone] * len(values), values[:, None]), strict=True)
    )
    there_MN = (patient_N != pairs_M2[:, :1]) & (patient_N != pairs_M2[:, 1:])
    parts = [
        Part(problem, np.flatnonzero(there), near[c].alpha_CN[0, there], float(near[c].intercept_C[0]))
        for there, c in zip(there_MN, c_M.tolist(), strict=True)
    ]
    alpha_MN, intercept_M = np.zeros(there_MN.shape), np.empty(len(parts))
    for m, found in enumerate(fit_parts(parts, c_M[:, None])):
        alpha_MN[m, there_MN[m]], intercept_M[m] = found.alpha_CN[0], found.intercept_C[0]
    return alpha_MN @ problem.gram + intercept_M[:, None], there_MN


def compare(people: People, pairs_M2: Ints, scores_MN: Floats) -> tuple[Floats, Floats]:
    """(A, B) pairs of films that the case's film wins, and pairs compared: all of the two patients of each row, by
    that row's scores."""
    films, counts_P = np.argsort(people.patient_N, kind="stable"), np.bincount(people.patient_N)
    starts_P = np.cumsum(counts_P) - counts_P
    case_M, control_M = pairs_M2.T
    compared_M = counts_P[case_M] * counts_P[control_M]
    row = np.repeat(np.arange(len(pairs_M2)), compared_M)
    nth = np.arange(len(row)) - np.repeat(np.cumsum(compared_M) - compared_M, compared_M)
    of_control = counts_P[control_M][row]
    case_film = films[starts_P[case_M][row] + nth // of_control]
    control_film = films[starts_P[control_M][row] + nth % of_control]
    above = scores_MN[row, case_film] - scores_MN[row, control_film]
    same = np.abs(above) <= _ROUNDING * np.abs(scores_MN).max(axis=1)[row]
    won_M = np.bincount(row, np.where(same, 0.5, above > 0), len(pairs_M2))
    place_P = np.where(people.case_P, np.cumsum(people.case_P), np.cumsum(~people.case_P)) - 1
    wins_AB, pairs_AB = np.zeros((2, int(people.case_P.sum()), int((~people.case_P).sum())))
    wins_AB[place_P[case_M], place_P[control_M]] = won_M
    pairs_AB[place_P[case_M], place_P[control_M]] = compared_M
    return wins_AB, pairs_AB


def _in_deviations(scores_MN: Floats, there_MN: Bools) -> Floats:
    """(N,) what puts the scores of different models on one scale; the pooled AUC is then short by about .01."""
    counts = there_MN.sum(axis=1, keepdims=True)
    means = (scores_MN * there_MN).sum(axis=1, keepdims=True) / counts
    spread = np.sqrt((((scores_MN - means) * there_MN) ** 2).sum(axis=1, keepdims=True) / counts)
    relative = np.divide(
        scores_MN - means,
        spread,
        out=np.zeros_like(scores_MN),
        where=spread > _ROUNDING * np.abs(scores_MN).max(axis=1, keepdims=True),
    )
    return (relative * ~there_MN).sum(axis=0) / (~there_MN).sum(axis=0)

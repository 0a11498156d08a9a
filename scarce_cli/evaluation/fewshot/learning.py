"""The learning curve of a handful of cases: learn from some of the patients, test on the others.

Shape suffixes: N films, P patients, A cases, B controls, S sizes, R repeats, K resamples.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from scarce_cli.evaluation.fewshot.choose_c import choose_and_fit
from scarce_cli.evaluation.fewshot.films import Bools, Floats, Ints
from scarce_cli.evaluation.fewshot.leave_out import LeftOut, People, compare
from scarce_cli.evaluation.fewshot.logistic import Problem
from scarce_cli.evaluation.fewshot.projection import Curve
from scarce_cli.evaluation.fewshot.result import CurvePoint

_SIZES = (2, 3, 5, 8, 12, 18, 27, 40, 60, 90, 135, 200, 300)
_LEAST_SPREAD = 1e-3  # of a point of the curve, so that one at 1.000 does not outweigh all others


def draw_curve(
    people: People, weights: tuple[Floats, Floats], cs: Sequence[float], repeats: int, seed: int
) -> tuple[tuple[CurvePoint, ...], Curve]:
    """Mean AUC at 2, 3, 5, 8, ... cases and as many controls, below the number of patients of the rarer class.

    The patients of a repeat at one size are among those at the next, so that sizes differ less by luck. The AUC of
    all patients but a pair is no point of the curve: it is made otherwise, and projections were worse with it.

    Args:
        weights: (K, A) and (K, B), how often each patient is in a resample.
    """
    smaller = min(int(people.case_P.sum()), int((~people.case_P).sum()))
    sizes = [size for size in _SIZES if size < smaller]
    orders = drawn_orders(people.case_P, repeats, seed)
    picked_KR = np.random.default_rng((seed, 4)).integers(repeats, size=(len(weights[0]), repeats))
    points, resampled = [], []
    for size in sizes:
        tested = _repeats(people, orders, size, cs)
        aucs_R = np.array([one.auc() for one in tested])
        low, high = np.percentile(aucs_R, [2.5, 97.5])
        points.append(CurvePoint(size, float(aucs_R.mean()), float(low), float(high)))
        resampled.append(_means(np.stack([one.aucs(*weights) for one in tested]), picked_KR, points[-1].auc))
    resampled_KS = np.stack(resampled, axis=1)
    spreads_S = np.maximum(resampled_KS.std(axis=0), _LEAST_SPREAD)
    aucs_S = np.array([point.auc for point in points])
    return tuple(points), Curve(np.array(sizes, np.float64), aucs_S, spreads_S, resampled_KS)


def drawn_orders(case_P: Bools, repeats: int, seed: int) -> list[tuple[Ints, Ints]]:
    """Cases and controls in the order in which each repeat takes them."""
    rng = np.random.default_rng((seed, 3))
    cases, controls = np.flatnonzero(case_P), np.flatnonzero(~case_P)
    return [(rng.permutation(cases), rng.permutation(controls)) for _ in range(repeats)]


def _repeats(people: People, orders: Sequence[tuple[Ints, Ints]], size: int, cs: Sequence[float]) -> list[LeftOut]:
    """Learn from the first ``size`` of either class, compare all others."""
    labels = people.labels()
    learned_RP = np.zeros((len(orders), len(people.case_P)), bool)
    for learned, (cases, controls) in zip(learned_RP, orders, strict=True):
        learned[cases[:size]] = learned[controls[:size]] = True
    films_RN = learned_RP[:, people.patient_N]
    problems = [Problem(people.x_NR[films], labels[films], people.patient_N[films]) for films in films_RN]
    tested = []
    for fit, learned in zip(choose_and_fit(problems, cs), learned_RP, strict=True):
        scores_N = fit.model.scores(people.x_NR)
        cases, controls = np.flatnonzero(~learned & people.case_P), np.flatnonzero(~learned & ~people.case_P)
        pairs_M2 = np.stack([np.repeat(cases, len(controls)), np.tile(controls, len(cases))], axis=1)
        tested.append(
            LeftOut(*compare(people, pairs_M2, np.broadcast_to(scores_N, (len(pairs_M2), len(scores_N)))), scores_N)
        )
    return tested


def _means(aucs_RK: Floats, picked_KR: Ints, without: float) -> Floats:
    """(K,) mean over the repeats that each resample picked; ``without`` where none of them tests on both classes."""
    picked = aucs_RK.T[np.arange(len(picked_KR))[:, None], picked_KR]
    known = np.isfinite(picked)
    total = np.where(known, picked, 0).sum(axis=1)
    return np.where(known.any(axis=1), total / np.maximum(known.sum(axis=1), 1), without)

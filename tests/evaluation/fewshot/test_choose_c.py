"""The choice of C: scikit-learn's scores as oracle."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_score

from scarce_cli.evaluation.collapse import l2_normalize
from scarce_cli.evaluation.fewshot.choose_c import FIXED_C, Scoring, choose_and_fit, choose_c
from scarce_cli.evaluation.fewshot.logistic import Problem, fit_logistic

CS = (0.01, 0.1, 1.0, 10.0)


@pytest.mark.parametrize("scoring", ["accuracy", "roc_auc", "neg_log_loss"])
def test_scores_are_scikit_learns(scoring: Scoring) -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(30) % 2 == 0
    x = rng.standard_normal((30, 4)) + 0.7 * labels[:, None]
    found = choose_c(x, labels, CS, scoring=scoring, folds=5)
    for place, c in enumerate(CS):
        model = LogisticRegression(C=c, tol=1e-10, max_iter=10_000)
        wanted = cross_val_score(model, x, labels, scoring=scoring, cv=StratifiedKFold(5))
        np.testing.assert_allclose(found.scores_KC[:, place], wanted, atol=1e-6)
    means = found.scores_KC.mean(axis=0)
    assert found.c == CS[int(means.argmax())]
    assert found.tied == (means == means.max()).sum()


def test_of_equals_the_smallest_is_taken_and_the_tie_is_told() -> None:
    x = np.array([[-2.0], [-1.9], [2.0], [1.9]])
    found = choose_c(x, np.array([False, False, True, True]), CS, scoring="roc_auc", folds=2)
    assert (found.c, found.tied) == (0.01, 4)


def problem(shots: int, seed: int, groups: np.ndarray | None = None) -> Problem:
    rng = np.random.default_rng(seed)
    labels = np.arange(2 * shots) < shots
    return Problem(l2_normalize(rng.standard_normal((2 * shots, 50)) + 0.3 * labels[:, None]), labels, groups)


def test_many_problems_of_all_sizes_are_as_each_alone() -> None:
    problems = [problem(shots, seed) for seed, shots in enumerate([5, 1, 11, 5, 2, 1, 3])]
    together = choose_and_fit(problems, CS)
    for one, found in zip(problems, together, strict=True):
        (alone,) = choose_and_fit([one], CS)
        assert (found.c, found.tied) == (alone.c, alone.tied)
        np.testing.assert_allclose(found.scores_KC, alone.scores_KC, atol=1e-12)
        np.testing.assert_allclose(found.model.coef, fit_logistic(one.x_ND, one.labels, found.c).coef, atol=1e-11)
    assert len({found.c for found in together}) > 2


def test_films_of_a_patient_do_not_vouch_for_each_other() -> None:
    """Each patient's films are all but the same and say nothing of the finding: apart, they would be recognised."""
    rng = np.random.default_rng(0)
    patients = np.repeat(np.arange(20), 3)
    x = l2_normalize(rng.standard_normal((20, 100))[patients] + 0.01 * rng.standard_normal((60, 100)))
    labels = patients < 10
    split, whole = (
        choose_and_fit([Problem(x[order], labels[order], groups)], (0.01, 1.0, 100.0))[0]
        for order in [rng.permutation(60)]
        for groups in (None, patients[order])
    )
    assert split.c == 100.0
    assert whole.c == 0.01
    assert -whole.scores_KC.mean(axis=0)[2] > 0.69 > -split.scores_KC.mean(axis=0)[2]


@pytest.mark.parametrize("groups", [None, np.array([3, 3, 3, 1, 2, 0])])
def test_too_few_films_or_patients_for_folds_have_a_fixed_c(groups: np.ndarray | None) -> None:
    one = problem(1 if groups is None else 3, 0, groups)
    (found,) = choose_and_fit([one], CS)
    assert (found.c, found.tied, found.scores_KC.shape) == (FIXED_C, 0, (0, len(CS)))
    np.testing.assert_allclose(found.model.coef, fit_logistic(one.x_ND, one.labels, FIXED_C).coef, atol=1e-12)


def test_a_single_c_is_taken_as_it_is() -> None:
    assert [fit.c for fit in choose_and_fit([problem(1, 0), problem(6, 1)], [7.0])] == [7.0, 7.0]


def test_one_film_of_each_class_ranks_alike_for_every_c() -> None:
    one, test = problem(1, 0), np.random.default_rng(1).standard_normal((30, 50))
    orders = {tuple(np.argsort(fit_logistic(one.x_ND, one.labels, c).scores(test))) for c in (0.01, 1.0, 1e4)}
    assert len(orders) == 1

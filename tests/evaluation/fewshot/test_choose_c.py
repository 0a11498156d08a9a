"""The choice of C: scikit-learn's folds and scores as oracle."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_score

from scarce_cli.evaluation.fewshot.choose_c import Scoring, choose_c
from scarce_cli.evaluation.fewshot.folds import stratified_folds

STEADY = settings(max_examples=60, deadline=None, derandomize=True)
CS = (0.01, 0.1, 1.0, 10.0)


@STEADY
@given(st.integers(2, 15), st.integers(2, 15), st.integers(2, 5), st.integers(0, 1000))
def test_folds_are_scikit_learns(positives: int, negatives: int, folds: int, seed: int) -> None:
    folds = min(folds, positives, negatives)
    labels = np.random.default_rng(seed).permutation(np.repeat([True, False], [positives, negatives]))
    found = stratified_folds(labels, folds)
    for fold, (_, held) in enumerate(StratifiedKFold(folds).split(labels, labels)):
        assert np.flatnonzero(found == fold).tolist() == held.tolist()


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

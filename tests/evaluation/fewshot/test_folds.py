"""Folds: scikit-learn's where every film is a patient of its own; whole patients else."""

from __future__ import annotations

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn.model_selection import StratifiedKFold

from scarce_cli.evaluation.fewshot.folds import make_folds, possible_folds

STEADY = settings(max_examples=60, deadline=None, derandomize=True)


@STEADY
@given(st.integers(2, 15), st.integers(2, 15), st.integers(2, 5), st.integers(0, 1000), st.booleans())
def test_folds_are_scikit_learns(positives: int, negatives: int, folds: int, seed: int, grouped: bool) -> None:
    """Without groups, and where each is one film, whatever its number."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat([True, False], [positives, negatives]))
    groups = 3 * rng.permutation(len(labels)) if grouped else None
    folds = min(folds, positives, negatives)
    assert possible_folds(labels, groups, folds) == folds
    found = make_folds(labels, groups, folds)
    for fold, (_, held) in enumerate(StratifiedKFold(folds).split(labels, labels)):
        assert np.flatnonzero(found == fold).tolist() == held.tolist()


@STEADY
@given(st.integers(4, 40), st.integers(2, 25), st.integers(0, 10_000))
def test_a_patient_stays_in_one_fold_and_every_fold_has_both_classes(films: int, patients: int, seed: int) -> None:
    """Whoever has films of both classes, and however unequal they are."""
    rng = np.random.default_rng(seed)
    labels, groups = rng.random(films) < rng.uniform(0.2, 0.8), rng.geometric(1 / patients, films)
    assume(len(set(labels)) == 2)
    folds = possible_folds(labels, groups, 5)
    assert folds == min(5, *(len(set(groups[labels == label])) for label in (True, False)))
    assume(folds > 1)
    found = make_folds(labels, groups, folds)
    assert all(len(set(found[groups == group])) == 1 for group in groups)
    assert all(set(labels[found == fold]) == {True, False} for fold in range(folds))


def test_patients_with_two_films_each_are_dealt_out_evenly() -> None:
    labels, groups = np.arange(20) < 10, np.arange(20) // 2
    found = make_folds(labels, groups, 5)
    assert [(found[labels] == fold).sum() for fold in range(5)] == [2] * 5
    assert [(found[~labels] == fold).sum() for fold in range(5)] == [2] * 5


def test_one_patient_of_a_class_leaves_no_folds() -> None:
    labels = np.array([True, True, False, False])
    assert possible_folds(labels, None, 5) == 2
    assert possible_folds(labels, np.array([7, 7, 8, 9]), 5) == 1

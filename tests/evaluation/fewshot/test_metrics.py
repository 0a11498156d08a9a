"""AUC, average precision and sensitivity under weightings: scikit-learn and repeated films as oracles."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from scarce_cli.evaluation.fewshot import metrics
from scarce_cli.evaluation.fewshot.metrics import MEASURES, measures, ppv

STEADY = settings(max_examples=30, deadline=None, derandomize=True)
TIED = arrays(np.int64, st.integers(2, 30), elements=st.integers(-3, 3))  # few values, so many ties
SEED = st.integers(0, 2**30)


def oracle(scores: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> list[float]:
    """The four measures by scikit-learn; NaN where a class has no weight."""
    if not (weights[labels].sum() > 0 and weights[~labels].sum() > 0):
        return [np.nan] * 4
    fpr, tpr, _ = roc_curve(labels, scores, sample_weight=weights, drop_intermediate=False)
    sensitivities = [tpr[1 - fpr >= s - 1e-9].max() for s in (0.90, 0.95)]
    means = [score(labels, scores, sample_weight=weights) for score in (roc_auc_score, average_precision_score)]
    return [*means, *sensitivities]


def rows(found: metrics.Measured) -> np.ndarray:
    return np.stack([getattr(found, name) for name in MEASURES], axis=1)


@STEADY
@given(TIED, SEED, st.booleans())
def test_all_measures_agree_with_scikit_learn(values: np.ndarray, seed: int, counts: bool) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.random(len(values)) < 0.5
    weights = rng.integers(0, 4, (3, len(values))) if counts else 0.1 + rng.random((3, len(values)))
    expected = [oracle(values.astype(float), labels, row) for row in weights.astype(float)]
    np.testing.assert_allclose(rows(measures(values.astype(float), labels, weights)), expected, atol=1e-12)


@STEADY
@given(TIED, SEED)
def test_a_weight_is_a_repetition_and_only_the_order_of_scores_counts(values: np.ndarray, seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels, weights = rng.random(len(values)) < 0.5, rng.integers(0, 4, (2, len(values)))
    found = measures(np.exp(values / 2), labels, weights)
    for number, row in enumerate(weights):
        alone = measures(np.repeat(values, row).astype(float), np.repeat(labels, row))
        np.testing.assert_allclose(rows(found)[number], rows(alone)[0], atol=1e-14)
    turned = measures(-values.astype(float), labels, weights)
    np.testing.assert_allclose(turned.auc, 1 - found.auc, atol=1e-12)


@pytest.mark.parametrize("negatives", [10, 20, 30, 70, 90])
def test_a_specificity_that_is_just_reached_counts(negatives: int) -> None:
    """A tenth of the negatives lie above the second positive: specificity is 90 % exactly, in no binary number."""
    above = negatives // 10
    scores = np.r_[9.0, 5.0, np.full(above, 7.0), np.zeros(negatives - above)]
    labels = np.arange(len(scores)) < 2
    found = measures(scores, labels)
    assert (found.sensitivity_90[0], found.sensitivity_95[0]) == (1.0, 0.5)
    scores[-1] = 6.0  # one more above it
    assert measures(scores, labels).sensitivity_90[0] == 0.5
    scores[:2] = 7.0  # tied with negatives: one threshold, which lets all of them in
    assert measures(scores, labels).sensitivity_90[0] == 1.0
    scores[-1] = 7.0
    assert measures(scores, labels).sensitivity_90[0] == 0.0


def test_a_class_without_weight_has_no_measure() -> None:
    scores, labels = np.arange(4.0), np.array([True, False, True, False])
    found = rows(measures(scores, labels, np.array([[0, 1, 0, 1], [1, 0, 1, 0], [0, 0, 0, 0], [1, 1, 0, 0]])))
    assert np.isnan(found[:3]).all()
    np.testing.assert_array_equal(found[3], [0, 0.5, 0, 0])
    for one_class in (np.zeros(4, bool), np.ones(4, bool)):
        assert np.isnan(rows(measures(scores, one_class))).all()


@pytest.mark.parametrize("positives", [300, 12_500])
def test_memory_is_bounded(positives: int) -> None:
    rng = np.random.default_rng(0)
    labels, scores = np.arange(25_000) < positives, rng.standard_normal(25_000)
    weights = rng.integers(0, 3, (25_000, 60), dtype=np.uint8).T
    tracemalloc.start()
    measures(scores, labels, weights)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64e6


def test_parts_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    scores, labels, weights = rng.standard_normal(50), rng.random(50) < 0.3, rng.integers(0, 3, (40, 50))
    whole = rows(measures(scores, labels, weights))
    monkeypatch.setattr(metrics, "_HELD", 7 * (4 * 50 + 64 * labels.sum() + 1))
    np.testing.assert_array_equal(rows(measures(scores, labels, weights)), whole)


def test_ppv_counts_people() -> None:
    """Of 1,000 people 20 are ill; 15 of them and 98 of 980 others are called positive."""
    assert ppv(np.array([0.75]), 0.9, 0.02)[0] == pytest.approx(15 / (15 + 98))
    np.testing.assert_array_equal(ppv(np.array([0.0, np.nan]), 0.95, 0.3), [0, np.nan])
    assert ppv(np.array([0.1]), 0.9, 0.4)[0] == pytest.approx(0.4)  # as many of either class: nothing is learned

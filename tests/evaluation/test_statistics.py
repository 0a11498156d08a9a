"""AUC and its intervals: scikit-learn and repeated samples as oracles, coverage by simulation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from scarce_cli.evaluation import statistics
from scarce_cli.evaluation.statistics import auc, bootstrap_means, bootstrap_weights, summarize, weighted_aucs

STEADY = settings(max_examples=60, deadline=None, derandomize=True)
TIED = arrays(np.int64, st.integers(2, 30), elements=st.integers(-3, 3))  # few values, so many ties


@STEADY
@given(TIED, st.integers(0, 2**30))
def test_auc_agrees_with_scikit_learn_with_ties(values: np.ndarray, seed: int) -> None:
    labels = np.random.default_rng(seed).random(len(values)) < 0.5
    assume(0 < labels.sum() < len(labels))
    scores = values.astype(float)
    assert auc(scores, labels) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    assert auc(-scores, labels) == pytest.approx(1 - auc(scores, labels), abs=1e-12)
    assert auc(np.exp(scores), labels) == auc(scores, labels)


@STEADY
@given(TIED, st.integers(0, 2**30))
def test_a_weight_is_a_repetition(values: np.ndarray, seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels, weights = rng.random(len(values)) < 0.5, rng.integers(0, 4, (5, len(values)))
    found = weighted_aucs(values.astype(float), labels, weights.astype(float))
    for row, value in zip(weights, found, strict=True):
        repeated = np.repeat(labels, row)
        if 0 < repeated.sum() < len(repeated):
            assert value == pytest.approx(auc(np.repeat(values, row).astype(float), repeated), abs=1e-12)
        else:
            assert np.isnan(value)


def test_patients_are_drawn_not_films() -> None:
    patients = np.array([7, 7, 7, 2, 2, 9])
    weights = bootstrap_weights(patients, 500, np.random.default_rng(0))
    assert (weights[:, 0] == weights[:, 1]).all()
    assert (weights[:, 3] == weights[:, 4]).all()
    assert (weights[:, [0, 3, 5]].sum(axis=1) == 3).all()
    assert weights[:, 5].mean() == pytest.approx(1, abs=0.15)


def simulated(rng: np.random.Generator, draws: int = 10, films: int = 120) -> tuple[np.ndarray, np.ndarray]:
    """Scores of ``draws`` classifiers of differing strength on the same films."""
    labels = np.arange(films) % 2 == 0
    shared, own = rng.standard_normal(films), rng.standard_normal((draws, films))
    strength = rng.normal(1.0, 0.3, (draws, 1))
    return strength * labels + 0.8 * shared + 0.6 * own, labels


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    """Truth: mean AUC over the strengths of draws; noise of a difference has variance 2."""
    truth = norm.cdf(np.random.default_rng(1).normal(1.0, 0.3, 100_000) / 2**0.5).mean()
    rng, inside, widths = np.random.default_rng(0), 0, []
    for trial in range(150):
        scores, labels = simulated(rng)
        means = bootstrap_means(scores, labels, np.arange(len(labels)), resamples=200, seed=trial)
        found = summarize(np.array([auc(row, labels) for row in scores]), means)
        assert found.low <= found.mean <= found.high
        inside += found.low <= truth <= found.high
        widths.append(found.high - found.low)
    assert 0.90 <= inside / 150 <= 0.99
    assert 0.1 < np.mean(widths) < 0.25


def test_many_films_of_few_patients_give_a_wider_interval() -> None:
    """Copies of a film are no new evidence."""
    scores, labels = simulated(np.random.default_rng(0), films=40)
    patients = np.arange(40)
    one, copies, naive = (
        np.ptp(np.percentile(bootstrap_means(s, y, p, resamples=400, seed=0), [2.5, 97.5]))
        for s, y, p in (
            (scores, labels, patients),
            (np.tile(scores, 9), np.tile(labels, 9), np.tile(patients, 9)),
            (np.tile(scores, 9), np.tile(labels, 9), np.arange(360)),
        )
    )
    assert copies == pytest.approx(one, rel=1e-9)
    assert naive < 0.8 * one


def test_differences_are_paired() -> None:
    scores, labels = simulated(np.random.default_rng(0))
    better = scores + 0.05 * labels
    patients = np.arange(len(labels))

    def both(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        means = bootstrap_means(x, labels, patients, resamples=300, seed=3)
        return np.array([auc(row, labels) for row in x]), means

    (aucs, means), (more, more_means) = both(scores), both(better)
    gain = summarize(more - aucs, more_means - means)
    alone = summarize(more, more_means)
    assert gain.low > 0
    assert gain.high - gain.low < 0.2 * (alone.high - alone.low)
    nothing = summarize(aucs - aucs, means - both(scores)[1])
    assert (nothing.mean, nothing.sd, nothing.low, nothing.high) == (0, 0, 0, 0)


def test_memory_is_bounded_and_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    scores, labels = simulated(np.random.default_rng(0), draws=3, films=20)
    whole = bootstrap_means(scores, labels, np.arange(20), resamples=50, seed=0)
    monkeypatch.setattr(statistics, "_CHUNK", 20 * 7)
    np.testing.assert_array_equal(bootstrap_means(scores, labels, np.arange(20), resamples=50, seed=0), whole)


def test_resamples_without_one_class_are_left_out() -> None:
    labels = np.array([True, False, False])
    means = bootstrap_means(np.array([[3.0, 1.0, 2.0]]), labels, np.arange(3), resamples=400, seed=0)
    assert 0.1 < np.isnan(means).mean() < 0.5
    found = summarize(np.array([1.0]), means)
    assert (found.mean, found.sd, found.low, found.high) == (1, 0, 1, 1)


def test_the_spread_is_the_unbiased_one() -> None:
    values = np.array([0.5, 0.7, 0.9])
    assert summarize(values, values).sd == pytest.approx(0.2)

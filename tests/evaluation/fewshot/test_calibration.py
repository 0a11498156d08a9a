"""Brier scores and reliability: scikit-learn and Bayes' rule as oracles."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss

from scarce_cli.evaluation.fewshot.calibration import calibrate


def films(count: int = 400, prevalence: float = 0.15, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A feature with means 0 and 1.5, and who has the finding."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) < prevalence * count
    return rng.standard_normal(count) + 1.5 * labels, labels


def balanced_log_odds(x: np.ndarray) -> np.ndarray:
    """What a model learns that saw as many with as without."""
    return norm.logpdf(x, 1.5) - norm.logpdf(x, 0)


def test_log_odds_of_a_balanced_model_become_the_probabilities_of_bayes() -> None:
    x, labels = films()
    share = labels.mean()
    posterior = share * norm.pdf(x, 1.5) / (share * norm.pdf(x, 1.5) + (1 - share) * norm.pdf(x))
    found = calibrate(balanced_log_odds(x)[None, None], labels)
    assert found.brier == pytest.approx(brier_score_loss(labels, posterior), abs=1e-12)
    assert found.brier_prevalence == pytest.approx(brier_score_loss(labels, np.full(len(x), share)), abs=1e-12)
    observed, predicted = calibration_curve(labels, posterior, n_bins=10, strategy="quantile")
    np.testing.assert_allclose([b.observed for b in found.bins], observed, atol=1e-12)
    np.testing.assert_allclose([b.predicted for b in found.bins], predicted, atol=1e-12)
    assert {b.films for b in found.bins} == {40}


def test_draws_and_weights_are_averaged() -> None:
    x, labels = films()
    rng = np.random.default_rng(1)
    scores = balanced_log_odds(x) + rng.standard_normal((2, 3, len(x)))
    found = calibrate(scores, labels)
    alone = [calibrate(row[None, None], labels).brier for row in scores.reshape(6, -1)]
    assert found.brier == pytest.approx(np.mean(alone), abs=1e-14)
    assert sum(b.films for b in found.bins) == len(x)


def test_a_right_model_lies_on_the_diagonal_and_an_overconfident_one_does_not() -> None:
    x, labels = films(40_000)
    right = calibrate(balanced_log_odds(x)[None, None], labels)
    assert max(abs(b.observed - b.predicted) for b in right.bins) < 0.015
    loud = calibrate(3 * balanced_log_odds(x)[None, None], labels)
    assert loud.bins[-1].predicted - loud.bins[-1].observed > 0.1
    assert right.brier < loud.brier
    assert right.brier < right.brier_prevalence


def test_another_prevalence_weighs_the_films_as_if_they_came_from_there() -> None:
    """Half of the films have it; there, one in five has: the same as each film without it four times."""
    x, labels = films(200, prevalence=0.5)
    scores = balanced_log_odds(x)
    found = calibrate(scores[None, None], labels, prevalence=0.2)
    times = np.where(labels, 1, 4)
    there = calibrate(np.repeat(scores, times)[None, None], np.repeat(labels, times))
    assert found.brier == pytest.approx(there.brier, abs=1e-12)
    assert found.brier_prevalence == pytest.approx(0.16)
    mass = sum(b.films for b in found.bins)
    assert mass == len(x)


def test_equal_probabilities_share_a_bin() -> None:
    _, labels = films()
    found = calibrate(np.zeros((1, 4, len(labels))), labels)
    assert [b.films for b in found.bins] == [len(labels)]
    assert found.bins[0].predicted == pytest.approx(found.bins[0].observed, abs=1e-12)
    assert found.brier == pytest.approx(found.brier_prevalence, abs=1e-12)
    two = calibrate(np.where(labels, 2.0, -2.0)[None, None], labels)
    assert [(b.observed, b.films) for b in two.bins] == [(0, 340), (1, 60)]


def test_extreme_scores_stay_finite() -> None:
    labels = np.array([True, False])
    found = calibrate(np.array([[[1e6, -1e6]]]), labels)
    assert found.brier == 0

"""Logistic regression: scikit-learn as oracle, and the conditions that only the optimum fulfils."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from scarce_cli.evaluation.fewshot.logistic import LinearModel, fit_logistic

STEADY = settings(max_examples=30, deadline=None, derandomize=True)


def problem(films: int, dimensions: int, seed: int = 0, gap: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = np.arange(films) % 2 == 0
    return rng.standard_normal((films, dimensions)) + gap * labels[:, None], labels


def gradient(model: LinearModel, x: np.ndarray, labels: np.ndarray, c: float) -> np.ndarray:
    """Of |w|^2 / 2 + c * sum log(1 + exp(-y f)), with respect to w and the intercept, written out anew."""
    y = np.where(labels, 1.0, -1.0)
    pull = c * y * expit(-y * model.scores(x))
    return np.append(model.coef - x.T @ pull, -pull.sum())


@pytest.mark.filterwarnings("ignore:lbfgs failed to converge")
@pytest.mark.parametrize("c", [0.01, 1.0, 100.0])
@pytest.mark.parametrize(("films", "dimensions"), [(2, 40), (10, 3), (10, 200), (100, 5), (40, 40)])
def test_agrees_with_scikit_learn(films: int, dimensions: int, c: float) -> None:
    x, labels = problem(films, dimensions)
    ours = fit_logistic(x, labels, c)
    oracle = LogisticRegression(C=c, solver="lbfgs", tol=1e-10, max_iter=100_000).fit(x, labels)
    np.testing.assert_allclose(ours.coef, oracle.coef_[0], atol=1e-5 * max(1, np.abs(ours.coef).max()))
    np.testing.assert_allclose(ours.scores(x), oracle.decision_function(x), atol=1e-4, rtol=1e-4)


@STEADY
@given(st.integers(2, 30), st.integers(1, 40), st.floats(-3, 3), st.integers(0, 10_000))
def test_the_gradient_vanishes(films: int, dimensions: int, exponent: float, seed: int) -> None:
    x, labels = problem(films, dimensions, seed)
    c = 10**exponent
    assert np.abs(gradient(fit_logistic(x, labels, c), x, labels, c)).max() < 1e-8 * max(1, c)


@STEADY
@given(st.integers(0, 10_000))
def test_the_order_of_films_does_not_matter(seed: int) -> None:
    x, labels = problem(12, 30, seed)
    order = np.random.default_rng(seed).permutation(12)
    one, other = fit_logistic(x, labels, 1.0), fit_logistic(x[order], labels[order], 1.0)
    np.testing.assert_allclose(other.coef, one.coef, atol=1e-11)
    assert other.intercept == pytest.approx(one.intercept, abs=1e-11)


def test_exchanged_classes_give_opposite_scores() -> None:
    x, labels = problem(14, 6)
    one, other = fit_logistic(x, labels, 1.0), fit_logistic(x, ~labels, 1.0)
    np.testing.assert_allclose(other.scores(x), -one.scores(x), atol=1e-11)


def test_turned_features_give_the_same_scores() -> None:
    x, labels = problem(20, 8)
    turn = np.linalg.qr(np.random.default_rng(1).standard_normal((8, 8)))[0]
    one, other = fit_logistic(x, labels, 1.0), fit_logistic(x @ turn, labels, 1.0)
    np.testing.assert_allclose(other.scores(x @ turn), one.scores(x), atol=1e-10)


@pytest.mark.parametrize("c", [1.0, 1e6])
def test_separable_films_have_finite_weights(c: float) -> None:
    x = np.array([[-2.0, 0], [-1, 1], [1, 0], [2, 1]])
    labels = np.array([False, False, True, True])
    model = fit_logistic(x, labels, c)
    assert np.isfinite(model.coef).all()
    assert ((model.scores(x) > 0) == labels).all()
    assert np.abs(gradient(model, x, labels, c)).max() < 1e-8 * c


def test_two_films_are_parted_in_the_middle() -> None:
    """By symmetry the boundary is the perpendicular bisector, and the weights point from one to the other."""
    x = np.random.default_rng(0).standard_normal((2, 512))
    model = fit_logistic(x, np.array([True, False]), 1.0)
    assert model.scores(x).sum() == pytest.approx(0, abs=1e-10)
    along = x[0] - x[1]
    assert model.coef @ along == pytest.approx(np.linalg.norm(model.coef) * np.linalg.norm(along))


def test_features_that_say_nothing_give_the_share_of_the_classes() -> None:
    labels = np.array([True, True, True, False])
    for x in (np.zeros((4, 3)), np.ones((4, 3))):
        model = fit_logistic(x, labels, 1.0)
        np.testing.assert_allclose(model.scores(x), np.log(3), atol=0.4)
        assert np.ptp(model.scores(x)) < 1e-12
    assert fit_logistic(np.zeros((4, 3)), labels, 1.0).intercept == pytest.approx(np.log(3))


def test_a_film_given_twice_counts_twice() -> None:
    x, labels = problem(6, 10)
    twice = fit_logistic(np.concatenate([x, x]), np.concatenate([labels, labels]), 1.0)
    np.testing.assert_allclose(twice.coef, fit_logistic(x, labels, 2.0).coef, atol=1e-10)

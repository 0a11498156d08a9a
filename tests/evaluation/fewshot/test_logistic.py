"""Logistic regression: scikit-learn as oracle, and the conditions that only the optimum fulfils."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from scarce_cli.evaluation.collapse import l2_normalize
from scarce_cli.evaluation.fewshot import logistic
from scarce_cli.evaluation.fewshot.logistic import LinearModel, Part, Problem, fit_logistic, fit_many, fit_parts

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


CS = [1e-2, 1.0, 1e2, 1e4]


def close_together(films: int, seed: int, offset: float = 3.0) -> Problem:
    """Unit rows like a network's, with duplicates: two films of a class, and two of different classes."""
    rng = np.random.default_rng(seed)
    x, labels = l2_normalize(rng.standard_normal((films, 2048)) + offset), np.arange(films) < (films + 1) // 2
    if films > 4:
        x[1], x[-2] = x[0], x[2]
    return Problem(x, labels)


def test_many_at_once_are_at_their_optimum_whatever_their_size_and_order() -> None:
    problems = [close_together(films, films) for films in (2, 40, 3, 11, 10, 38, 2, 9, 100)]
    found = fit_many(problems, CS)
    for one, models in zip(problems, found, strict=True):
        for c, model in zip(CS, models, strict=True):
            assert np.abs(gradient(model, one.x_ND, one.labels, c)).max() < 1e-11 * max(1, c)
    for models, again in zip(found, reversed(fit_many(problems[::-1], CS)), strict=True):
        for one, other in zip(models, again, strict=True):
            np.testing.assert_allclose(one.coef, other.coef, atol=1e-10 * np.abs(one.coef).max())


def test_small_batches_find_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    problems = [close_together(films, films) for films in (6, 7, 6, 8, 20)]
    found = fit_many(problems, CS)
    monkeypatch.setattr(logistic, "_HELD", 1)
    for models, alone in zip(found, fit_many(problems, CS), strict=True):
        for one, other in zip(models, alone, strict=True):
            np.testing.assert_allclose(one.coef, other.coef, atol=1e-10 * np.abs(one.coef).max())


def test_a_part_is_fitted_as_if_there_were_no_other_films() -> None:
    """The whole's centre and Gram matrix serve every part, each at its own C and from its own start."""
    whole = close_together(20, 0)
    rng = np.random.default_rng(0)
    some = [np.sort(rng.choice(20, 13, replace=False)) for _ in range(3)]
    cs = np.array([[0.1], [10.0], [1000.0]])
    parts = [
        Part(whole, films, start * rng.standard_normal(13)) for start, films in zip((0, 1, 100), some, strict=True)
    ]
    for part, c, found in zip(parts, cs[:, 0], fit_parts(parts, cs), strict=True):
        alpha = np.zeros(20)
        alpha[part.films] = found.alpha_CN[0]
        wanted = fit_logistic(whole.x_ND[part.films], whole.labels[part.films], c)
        np.testing.assert_allclose(
            whole.gram @ alpha + found.intercept_C[0], wanted.scores(whole.x_ND), rtol=1e-8, atol=1e-9
        )


def test_films_that_are_all_the_same_are_scored_alike() -> None:
    one = Problem(np.tile(l2_normalize(np.ones((1, 30))), (6, 1)), np.arange(6) < 2)
    for model in fit_many([one], CS)[0]:
        np.testing.assert_allclose(model.scores(one.x_ND), np.log(2 / 4), atol=1e-10)

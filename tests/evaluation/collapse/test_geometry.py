"""Lengths, spread, alignment, uniformity and retrieval, each against its definition written out."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.spatial.distance import cdist, pdist

from scarce_cli.evaluation.collapse import (
    alignment,
    dead_dimensions,
    dimension_std,
    l2_normalize,
    mean_pairwise_cosine,
    retrieval,
    uniformity,
)

MODULE = importlib.import_module("scarce_cli.evaluation.collapse.geometry")
STEADY = settings(max_examples=40, deadline=None, derandomize=True)
SHAPES = st.tuples(st.integers(2, 12), st.integers(1, 9))
NUMBERS = st.floats(-100, 100, allow_nan=False, width=32)


def features(films: int = 60, dimensions: int = 8, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((films, dimensions))


@STEADY
@given(arrays(np.float64, SHAPES, elements=NUMBERS))
def test_the_mean_cosine_is_that_of_all_pairs(x: np.ndarray) -> None:
    unit = l2_normalize(x)
    pairs = [unit[i] @ unit[j] for i in range(len(x)) for j in range(i)]
    assert mean_pairwise_cosine(unit) == pytest.approx(np.mean(pairs), abs=1e-12)


@STEADY
@given(arrays(np.float64, SHAPES, elements=NUMBERS))
def test_normalised_rows_have_length_one_or_stay_zero(x: np.ndarray) -> None:
    lengths = np.linalg.norm(l2_normalize(x), axis=1)
    np.testing.assert_allclose(lengths, (np.abs(x).max(axis=1) > 0).astype(float), atol=1e-12)


def test_the_std_is_that_of_each_dimension() -> None:
    x = np.array([[0.0, 5], [2, 5], [4, 5]])
    np.testing.assert_allclose(dimension_std(x), [2, 0])
    np.testing.assert_allclose(dimension_std(x, unbiased=False), [(8 / 3) ** 0.5, 0])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e20])
def test_a_dimension_is_dead_when_it_is_constant_up_to_rounding(scale: float, dtype: type) -> None:
    x = (scale * features(50, 6)).astype(dtype)
    x[:, 1] = 0
    x[:, 3] = scale * 0.7
    x[::2, 3] *= 1 + 2 * np.finfo(dtype).eps
    x[:, 4] = scale * (1 + 1e-3 * features(50, 1)[:, 0])
    assert dead_dimensions(x) == 2
    assert dead_dimensions(x[::-1, ::-1]) == 2
    assert dead_dimensions(np.ones((4, 3), dtype)) == 3


def test_alignment_is_nought_for_the_same_direction_and_four_for_the_opposite() -> None:
    x = features()
    assert alignment(x, 3 * x) == pytest.approx(0, abs=1e-15)
    assert alignment(x, -x) == pytest.approx(4)
    assert alignment(x, -x, alpha=1) == pytest.approx(2)
    y = features(seed=1)
    cosines = (l2_normalize(x) * l2_normalize(y)).sum(axis=1)
    assert alignment(x, y) == pytest.approx((2 - 2 * cosines).mean())


@pytest.mark.parametrize("rows", [7, 512])
@pytest.mark.parametrize("mean", [0.0, 3.0])
def test_uniformity_is_over_all_pairs_whatever_the_block(
    rows: int, mean: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MODULE, "_ROWS", rows)
    x = features() + mean
    wanted = np.log(np.exp(-2 * pdist(l2_normalize(x)) ** 2).mean())
    assert uniformity(x) == pytest.approx(wanted, rel=1e-12)
    assert uniformity(5 * x) == pytest.approx(wanted, rel=1e-12)
    turn = np.linalg.qr(features(8, 8, 1))[0]
    assert uniformity(np.random.default_rng(0).permutation(x) @ turn) == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize("spread", [1e-3, 1e-6])
def test_uniformity_near_collapse_is_as_exact_as_the_distances(spread: float) -> None:
    """Where 1 - cosine would lose its digits: to first order it is -2 times the mean squared distance."""
    unit = l2_normalize(1 + spread * features())
    squared = np.square(unit[:, None] - unit).sum(axis=2)[np.triu_indices(60, 1)]
    assert uniformity(unit) == pytest.approx(np.log1p(np.expm1(-2 * squared).mean()), rel=1e-9)


def test_uniformity_of_one_point_and_of_two_opposite_ones() -> None:
    assert uniformity(np.ones((5, 3))) == pytest.approx(0, abs=1e-30)
    assert uniformity(np.array([[1.0, 0], [-1, 0]]), t=0.5) == pytest.approx(-2)


@pytest.mark.parametrize("rows", [7, 512])
@pytest.mark.parametrize("noise", [0.1, 1.0, 3.0])
def test_retrieval_is_the_share_of_nearest_others(rows: int, noise: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MODULE, "_ROWS", rows)
    x = features()
    y = x + noise * features(seed=1)
    far = cdist(x, y, "cosine")
    own = np.arange(60)
    wanted = ((far.argmin(axis=1) == own).mean() + (far.argmin(axis=0) == own).mean()) / 2
    assert retrieval(x, y) == pytest.approx(wanted)
    order = np.random.default_rng(2).permutation(60)
    turn = np.linalg.qr(features(8, 8, 3))[0]
    assert retrieval((x @ turn)[order], 4 * (y @ turn)[order]) == pytest.approx(wanted)


def test_retrieval_of_films_that_are_all_alike_is_chance() -> None:
    assert retrieval(np.ones((10, 4)), np.ones((10, 4))) == pytest.approx(0.1)
    pairs = np.repeat(np.eye(4), 2, axis=0)  # every film is there twice
    assert retrieval(pairs, pairs) == pytest.approx(0.5)
    assert retrieval(np.eye(4), np.eye(4)) == 1
    assert retrieval(np.eye(4), np.eye(4)[::-1]) == 0

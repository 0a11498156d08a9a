"""Lengths, spread, alignment and uniformity, each against its definition written out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.spatial.distance import pdist

from scarce_cli.evaluation.collapse import (
    alignment,
    dimension_std,
    geometry,
    l2_normalize,
    mean_pairwise_cosine,
    uniformity,
)

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


def test_alignment_is_nought_for_the_same_direction_and_four_for_the_opposite() -> None:
    x = features()
    assert alignment(x, 3 * x) == pytest.approx(0, abs=1e-15)
    assert alignment(x, -x) == pytest.approx(4)
    assert alignment(x, -x, alpha=1) == pytest.approx(2)
    y = features(seed=1)
    cosines = (l2_normalize(x) * l2_normalize(y)).sum(axis=1)
    assert alignment(x, y) == pytest.approx((2 - 2 * cosines).mean())


@pytest.mark.parametrize("rows", [7, 512])
def test_uniformity_is_over_all_pairs_whatever_the_chunk(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(geometry, "_ROWS", rows)
    x = features()
    wanted = np.log(np.exp(-2 * pdist(l2_normalize(x)) ** 2).mean())
    assert uniformity(x) == pytest.approx(wanted, rel=1e-12)
    assert uniformity(5 * x) == pytest.approx(wanted, rel=1e-12)


def test_uniformity_of_one_point_and_of_two_opposite_ones() -> None:
    assert uniformity(np.ones((5, 3))) == 0
    assert uniformity(np.array([[1.0, 0], [-1, 0]]), t=0.5) == pytest.approx(-2)

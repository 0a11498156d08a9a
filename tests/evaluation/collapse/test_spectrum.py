"""Ranks: known spectra, their bounds, and what they must not depend on."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scarce_cli.evaluation.collapse import effective_rank, entropy_rank, numerical_rank, rankme, singular_values

STEADY = settings(max_examples=40, deadline=None, derandomize=True)


def features(films: int = 60, dimensions: int = 8, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((films, dimensions))


def with_spectrum(values: list[float], films: int = 40, dimensions: int = 12) -> np.ndarray:
    """Features whose centred singular values are ``values``."""
    rng = np.random.default_rng(0)
    left = rng.standard_normal((films, len(values)))
    u = np.linalg.qr(left - left.mean(axis=0))[0]
    v = np.linalg.qr(rng.standard_normal((dimensions, len(values))))[0]
    return u * values @ v.T


@pytest.mark.parametrize("values", [[3.0], [2.0, 2.0, 2.0], [5.0, 1.0, 0.1]])
def test_a_known_spectrum(values: list[float]) -> None:
    x = with_spectrum(values) + 7.0  # the mean is taken off
    found = singular_values(x, centred=True)
    np.testing.assert_allclose(found[: len(values)], values, rtol=1e-9)
    p = np.array(values) / sum(values)
    assert effective_rank(x) == pytest.approx(np.exp(-(p * np.log(p)).sum()))
    assert numerical_rank(x) == len(values)


def test_equal_values_have_the_rank_of_their_number() -> None:
    assert entropy_rank(np.ones(7)) == pytest.approx(7)
    assert entropy_rank(np.array([1.0, 0.0, 0.0])) == 1
    assert entropy_rank(np.zeros(3)) is None


@STEADY
@given(st.integers(0, 1000), st.floats(-6, 6))
def test_scale_and_rotation_do_not_matter(seed: int, exponent: float) -> None:
    x = features(seed=seed)
    turn = np.linalg.qr(features(8, 8, seed + 1))[0]
    for function in (effective_rank, rankme):
        assert function(10**exponent * x @ turn) == pytest.approx(function(x), rel=1e-9)


def test_a_large_mean_drags_rankme_down_but_not_the_centred_rank() -> None:
    x = features()
    rank, me = effective_rank(x), rankme(x)
    assert rank is not None
    assert me is not None
    assert effective_rank(x + 100) == pytest.approx(rank)
    assert rankme(x + 100) < me / 2  # type: ignore[operator]


def test_rankme_adds_to_every_share() -> None:
    x = with_spectrum([1.0, 1.0])
    p = np.full(12, 1e-7)
    p[:2] += 0.5
    assert rankme(x) == pytest.approx(np.exp(-(p * np.log(p)).sum()), rel=1e-9)


def test_constant_features_have_no_centred_rank() -> None:
    x = np.tile(features(1, 8), (20, 1))
    assert effective_rank(x) is None
    assert rankme(x, centred=True) is None
    assert numerical_rank(x) == 0
    assert effective_rank(x, centred=False) == pytest.approx(1)


def test_a_constant_up_to_float32_rounding_is_a_constant() -> None:
    """What a collapsed network gives: the last bits depend on the batch."""
    rng = np.random.default_rng(0)
    row = rng.uniform(0.5, 1, 64)
    noisy = (row * (1 + 1e-7 * rng.standard_normal((50, 64)))).astype(np.float32)
    assert effective_rank(noisy) is None
    assert numerical_rank(noisy + 1e-3 * features(50, 64).astype(np.float32)) == 49

"""Ranks and the power law: known spectra, their bounds, what they must not depend on, and where a Gram matrix ends."""

from __future__ import annotations

import importlib
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scarce_cli.evaluation.collapse import (
    effective_rank,
    entropy_rank,
    numerical_rank,
    power_law,
    rankme,
    singular_values,
    spectrum,
)

MODULE = importlib.import_module("scarce_cli.evaluation.collapse.spectrum")  # the package's name is the function's
STEADY = settings(max_examples=40, deadline=None, derandomize=True)
Array = np.ndarray


def features(films: int = 60, dimensions: int = 8, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal((films, dimensions))


def with_spectrum(values: Array | list[float], films: int = 40, dimensions: int = 12) -> Array:
    """Features whose centred singular values are ``values``."""
    rng = np.random.default_rng(0)
    left = rng.standard_normal((films, len(values)))
    u = np.linalg.qr(left - left.mean(axis=0))[0]
    v = np.linalg.qr(rng.standard_normal((dimensions, len(values))))[0]
    return u * values @ v.T


def decomposed(x: Array, *, centred: bool) -> Array:
    """The singular values by their definition."""
    return np.linalg.svd(x - x.mean(axis=0) if centred else x, compute_uv=False)


@pytest.fixture
def decompositions(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Shapes of what was decomposed because a Gram matrix would not do."""
    shapes: list[tuple[int, ...]] = []
    true: Callable[[Array], Array] = MODULE._decomposed

    def heard(x: Array) -> Array:
        shapes.append(x.shape)
        return true(x)

    monkeypatch.setattr(MODULE, "_decomposed", heard)
    return shapes


@pytest.mark.parametrize("values", [[3.0], [2.0, 2.0, 2.0], [5.0, 1.0, 0.1]])
def test_a_known_spectrum(values: list[float]) -> None:
    x = with_spectrum(values) + 7.0  # the mean is taken off
    for found in (singular_values(x, centred=True), spectrum(x, centred=True)):
        np.testing.assert_allclose(found[: len(values)], values, rtol=1e-9)
        np.testing.assert_allclose(found[len(values) :], 0.0, atol=1e-12)
    p = np.array(values) / sum(values)
    assert effective_rank(x) == pytest.approx(np.exp(-(p * np.log(p)).sum()), rel=1e-9)
    assert numerical_rank(x) == len(values)


def test_equal_values_have_the_rank_of_their_number() -> None:
    assert entropy_rank(np.ones(7)) == pytest.approx(7)
    assert entropy_rank(np.array([1.0, 0.0, 0.0])) == 1
    assert entropy_rank(np.zeros(3)) is None


@STEADY
@given(st.integers(0, 1000), st.floats(-150, 150))
def test_scale_and_rotation_do_not_matter(seed: int, exponent: float) -> None:
    x = features(seed=seed)
    turned = 10**exponent * x @ np.linalg.qr(features(8, 8, seed + 1))[0]
    for function in (effective_rank, rankme):
        assert function(turned) == pytest.approx(function(x), rel=1e-9)
    np.testing.assert_allclose(spectrum(turned, centred=True), 10**exponent * spectrum(x, centred=True), rtol=1e-9)


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
    assert power_law(x, spectrum(x, centred=True)) is None
    assert numerical_rank(x) == 0
    assert effective_rank(x, centred=False) == pytest.approx(1, rel=1e-9)
    assert rankme(np.zeros((5, 3))) is None


@pytest.mark.parametrize(("films", "dimensions"), [(50, 64), (600, 700)])
def test_a_constant_up_to_float32_rounding_is_a_constant(films: int, dimensions: int) -> None:
    """What a collapsed network gives: the last bits depend on the batch. A spread of 1e-5 is none of rounding."""
    rng = np.random.default_rng(0)
    row, noise = rng.uniform(0.5, 1, dimensions), rng.standard_normal((films, dimensions))
    assert effective_rank((row * (1 + 1e-7 * noise)).astype(np.float32)) is None
    assert effective_rank((row * (1 + 1e-5 * noise)).astype(np.float32)) is not None
    assert numerical_rank((row * (1 + 1e-3 * noise)).astype(np.float32)) == films - 1


@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize(
    ("films", "dimensions", "dead"), [(300, 100, 0), (300, 100, 50), (100, 300, 0), (100, 100, 0), (100, 300, 250)]
)
def test_features_of_a_healthy_network_need_no_decomposition(
    films: int, dimensions: int, dead: int, centred: bool, decompositions: list[tuple[int, ...]]
) -> None:
    """Non-negative, with a mean, a tail and dead dimensions; as exact as a decomposition."""
    scales = np.arange(1, dimensions + 1) ** -0.5
    x = np.maximum(scales * (features(films, dimensions) + 1), 0).astype(np.float32)
    x[:, dimensions - dead :] = 0.0
    found, wanted = spectrum(x, centred=centred), decomposed(x.astype(np.float64), centred=centred)
    assert not decompositions
    np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-13 * wanted[0])
    assert entropy_rank(found) == pytest.approx(entropy_rank(wanted), rel=1e-12)


STEEP = {
    "constant and noise": lambda: np.linspace(-2, 3, 48) + 1e-6 * features(80, 48),
    "one direction and noise": lambda: features(80, 1) @ features(1, 48, 1) + 1e-9 * features(80, 48, 2),
    "five directions": lambda: features(80, 5) @ features(5, 48, 1),
    "the same film twice": lambda: np.repeat(features(30, 48), 2, axis=0),
    "falling fast": lambda: with_spectrum(10.0 ** -np.arange(12.0)),
}


@pytest.mark.parametrize("name", STEEP)
def test_what_falls_too_steeply_is_decomposed(name: str, decompositions: list[tuple[int, ...]]) -> None:
    """Where squares would not do: uncentred or centred, whichever is steep, is found right."""
    x = STEEP[name]()
    for centred in (True, False):
        found, wanted = entropy_rank(spectrum(x, centred=centred)), entropy_rank(decomposed(x, centred=centred))
        assert found == pytest.approx(wanted, rel=1e-9)
    assert decompositions


def test_a_gram_matrix_alone_would_be_wrong_there() -> None:
    """What the bound is for: squares of five directions' rounding look like directions."""
    x = STEEP["five directions"]()
    deviations = x - x.mean(axis=0)
    values = np.sqrt(np.linalg.eigvalsh(deviations.T @ deviations).clip(min=0))
    exact = effective_rank(x)
    assert abs(entropy_rank(values) / exact - 1) > 1e-7  # type: ignore[operator]


@STEADY
@given(
    st.floats(0, 6), st.integers(20, 60), st.integers(20, 60), st.floats(0, 100), st.booleans(), st.integers(0, 1000)
)
def test_a_rank_is_exact_however_steep_and_however_large_the_mean(
    exponent: float, films: int, dimensions: int, mean: float, centred: bool, seed: int
) -> None:
    x = np.arange(1.0, dimensions + 1) ** -exponent * features(films, dimensions, seed) + mean
    wanted = entropy_rank(decomposed(x, centred=centred))
    assert entropy_rank(spectrum(x, centred=centred)) == pytest.approx(wanted, rel=1e-9)


def test_near_collapse_two_directions_are_two() -> None:
    """Exact in float32: a float32 mean is not, and makes a third direction of its rounding."""
    rng = np.random.default_rng(0)
    films, dimensions, step = 512, 256, 2.0**-22
    mean = rng.integers(2**21, 2**22, dimensions)
    two = 16 * rng.integers(-1, 2, (films, 2)) @ rng.integers(-1, 2, (2, dimensions))
    x = ((mean + two) * step).astype(np.float32)
    p = np.linalg.svd(two - two.mean(axis=0), compute_uv=False)
    p = p[:2] / p[:2].sum()
    assert effective_rank(x) == pytest.approx(np.exp(-(p * np.log(p)).sum()), rel=1e-6)
    low = np.linalg.svd(x - x.mean(axis=0), compute_uv=False)
    assert entropy_rank(low) > 2.1  # type: ignore[operator]


@pytest.mark.parametrize("exponent", [0.5, 1.0, 2.3])
def test_a_known_power_law(exponent: float) -> None:
    i = np.arange(1.0, 121)
    x = with_spectrum(i ** (-exponent / 2), 200, 150) + 3
    found = power_law(x, spectrum(x, centred=True))
    assert found is not None
    assert found.alpha == pytest.approx(exponent, rel=1e-7)
    assert (found.first, found.last) == (6, 100)


def test_the_fit_is_a_weighted_straight_line_over_indices_6_to_100() -> None:
    x = features(300, 150) * np.linspace(0.1, 3, 150) ** 2
    i, squares = np.arange(6, 101), decomposed(x, centred=True)[5:100] ** 2
    slope, _ = np.polyfit(np.log(i), np.log(squares), 1, w=i**-0.5)  # polyfit squares its weights
    found = power_law(x, spectrum(x, centred=True))
    assert found is not None
    assert found.alpha == pytest.approx(-slope, rel=1e-9)


def test_the_fit_ends_before_rounding_and_needs_ten_values() -> None:
    """Thirty directions in float32: all others are its rounding."""
    low = (features(200, 30) @ features(30, 120, 1)).astype(np.float32)
    found = power_law(low, spectrum(low, centred=True))
    assert found is not None
    assert (found.first, found.last) == (6, 30)
    for directions, fitted in ((14, False), (15, True)):
        x = features(200, directions) @ features(directions, 120, 1)
        assert (power_law(x, spectrum(x, centred=True)) is not None) == fitted

"""From raw values to 8 bits: windows, levels kept, rounding, and films without contrast."""

from __future__ import annotations

import numpy as np
import pytest

from scarce_cli.data.decode import Film
from scarce_cli.data.film import Settings, prepare, to_square, window_of
from scarce_cli.data.resize import lanczos_matrix
from scarce_cli.errors import UsageError


def chest(marker: bool = False, size: int = 256) -> np.ndarray:
    """16-bit: two dark lungs with fine texture in a brighter body, values 4,200 to 18,500, and a lead marker."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    lungs = ((np.abs(x) - 0.45) / 0.3) ** 2 + (y / 0.7) ** 2 < 1
    film = np.where(lungs, 6500 + 900 * y, 14000 + 2500 * x) + rng.normal(0, 250, (size, size))
    film = np.clip(film, 4200, 18500)
    if marker:
        film[5:17, 5:17] = 65535
    return film.astype(np.uint16)


def reference(pixels: np.ndarray, low: float, high: float, size: int) -> np.ndarray:
    """The stretched and resampled film in float64, before any rounding."""
    wide = (np.clip(pixels.astype(np.float64), low, high) - low) / (high - low) * 255
    small = lanczos_matrix(pixels.shape[0], size) @ wide @ lanczos_matrix(pixels.shape[1], size).T
    return np.clip(small, 0, 255)


@pytest.mark.parametrize("window", ["percentile", "minmax"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.float64])
def test_error_is_that_of_rounding_alone(window: str, dtype: type) -> None:
    pixels = (chest() >> 8 if dtype == np.uint8 else chest()).astype(dtype)
    square, low, high = prepare(Film(pixels, "PNG", "L", 16), Settings(64, window, "squash"))
    error = square - reference(pixels, low, high, 64)
    assert np.abs(error).max() <= 0.51
    assert abs(error.mean()) <= 0.01


def test_quantising_first_is_worse_as_published() -> None:
    pixels = chest()
    low, high = window_of(pixels, "minmax")
    first = ((pixels.astype(np.float32) - low) / (high - low) * 255).astype(np.uint8).astype(np.float64)
    small = np.rint(lanczos_matrix(256, 64) @ first @ lanczos_matrix(256, 64).T)
    assert (small - reference(pixels, low, high, 64)).mean() < -0.4


def test_percentiles_are_values_of_the_film() -> None:
    for pixels in (chest(), chest().astype(np.float32), (chest() >> 8).astype(np.uint8)):
        ordered = np.sort(pixels.ravel())
        tail = int(0.005 * (pixels.size - 1))
        assert window_of(pixels, "percentile") == (ordered[tail], ordered[-1 - tail])
    odd = (chest()[:-1, :-1] >> 8).astype(np.uint8)
    assert window_of(odd, "percentile") == window_of(odd.astype(np.float32), "percentile")


def test_percentiles_of_a_tall_film_come_from_every_nth_row() -> None:
    pixels = np.random.default_rng(0).normal(30000, 5000, (1100, 90)).astype(np.uint16)
    every = np.sort(pixels[::4].ravel())
    tail = int(0.005 * (every.size - 1))
    found = window_of(pixels, "percentile")
    assert found == (every[tail], every[-1 - tail])
    exact = np.quantile(pixels, [0.005, 0.995])
    assert np.abs(exact - found).max() < 0.02 * (exact[1] - exact[0])


def test_percentile_keeps_levels_that_a_burned_in_marker_would_take() -> None:
    """Why percentile is the default: with a marker, minmax leaves the lungs a quarter of the levels."""
    lungs = (slice(16, 48), slice(8, 56))
    levels = {
        (marker, window): len(np.unique(prepare(Film(chest(marker), "PNG", "L", 16), Settings(64, window))[0][lungs]))
        for marker in (False, True)
        for window in ("percentile", "minmax")
    }
    assert levels[True, "percentile"] >= 2 * levels[True, "minmax"]
    assert levels[True, "percentile"] >= 0.95 * levels[False, "percentile"]


def test_a_marker_leaves_no_halo() -> None:
    with_marker, without = (prepare(Film(chest(m), "PNG", "L", 16), Settings(64))[0] for m in (True, False))
    assert np.abs(with_marker[8:, 8:].astype(int) - without[8:, 8:]).max() <= 3


@pytest.mark.parametrize("value", [0, 200])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_a_constant_film_is_black(value: int, dtype: type) -> None:
    square, low, high = prepare(Film(np.full((50, 70), value, dtype), "PNG", "L", 8), Settings(32))
    assert low == high == value
    assert not square.any()


def test_nearly_constant_film_falls_back_on_its_extremes() -> None:
    pixels = np.zeros((64, 64), np.uint8)
    pixels[30:33, 30:33] = 9
    square, low, high = prepare(Film(pixels, "PNG", "L", 8), Settings(64))
    assert (low, high) == (0, 9)
    assert square.max() == 255


@pytest.mark.parametrize("scale", [1e-30, 1.0, 3e38])
def test_any_float_range(scale: float) -> None:
    pixels = (np.linspace(-1, 1, 64 * 64).reshape(64, 64) * scale).astype(np.float32)
    square, _, _ = prepare(Film(pixels, "TIFF", "F", 32), Settings(32))
    assert square[0, 0] <= 2
    assert square[-1, -1] >= 253


def test_16_bit_keeps_256_levels_of_a_narrow_range() -> None:
    ramp = np.repeat(np.linspace(4200, 18500, 256).astype(np.uint16)[None], 256, axis=0)
    square, _, _ = prepare(Film(ramp, "PNG", "I;16", 16), Settings(256, "minmax"))
    assert len(np.unique(square)) >= 250


def test_pad_is_black_and_the_rest_is_the_film() -> None:
    square = to_square(np.full((40, 20), 9, np.uint8), 0, 9, Settings(64))
    assert (square[:, 16:48] == 255).all()
    assert not square[:, :16].any()
    assert not square[:, 48:].any()


@pytest.mark.parametrize(
    "values", [(100, "percentile", "pad"), (0, "percentile", "pad"), (64, "auto", "pad"), (64, "minmax", "fill")]
)
def test_wrong_settings_are_named(values: tuple[int, str, str]) -> None:
    with pytest.raises(UsageError, match=r"--(size|window|fit)"):
        Settings(*values)

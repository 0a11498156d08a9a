"""Lanczos against the image library's, against a float64 product, and against what no filter may change."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from scarce_cli.data import resize
from scarce_cli.data.resize import lanczos_matrix


def fit_to(image: np.ndarray, size: int, fit: str) -> tuple[np.ndarray, tuple[slice, slice]]:
    """Without cutting."""
    return resize.fit_to(image, float(image.min()), float(image.max()), size, fit)


def film(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0, 4000, (height, width)).astype(np.float32)


@pytest.mark.parametrize("shape", [(200, 333), (64, 64), (31, 500), (96, 96), (1, 700), (97, 95)])
def test_agrees_with_the_image_library(shape: tuple[int, int]) -> None:
    image = film(*shape)
    reference = np.asarray(Image.fromarray(image).resize((96, 96), Image.Resampling.LANCZOS))
    ours, _ = fit_to(image, 96, "squash")
    assert np.abs(ours - reference).max() < 4000 * 1e-5


@pytest.mark.parametrize("shape", [(512, 400), (700, 701)])
def test_float32_is_enough(shape: tuple[int, int]) -> None:
    image = film(*shape)
    exact = lanczos_matrix(shape[0], 64) @ image.astype(np.float64) @ lanczos_matrix(shape[1], 64).T
    assert np.abs(fit_to(image, 64, "squash")[0] - exact).max() < 4000 * 2e-6


def test_crop_is_the_resampled_centre() -> None:
    image = film(120, 200)
    reference = Image.fromarray(image).resize((32, 32), Image.Resampling.LANCZOS, box=(40, 0, 160, 120))
    assert np.abs(fit_to(image, 32, "crop")[0] - np.asarray(reference)).max() < 0.04


@pytest.mark.parametrize(("shape", "inner"), [((100, 50), (64, 32)), ((50, 100), (32, 64)), ((1000, 1), (64, 1))])
def test_pad_keeps_the_aspect_and_centres(shape: tuple[int, int], inner: tuple[int, int]) -> None:
    small, (rows, columns) = fit_to(film(*shape), 64, "pad")
    assert small.shape == inner == (rows.stop - rows.start, columns.stop - columns.start)
    assert abs(rows.start - (64 - rows.stop)) <= 1
    assert abs(columns.start - (64 - columns.stop)) <= 1


def test_invariances() -> None:
    image = film(150, 90)
    small = fit_to(image, 64, "squash")[0]
    assert np.allclose(fit_to(np.full((150, 90), 7, np.float32), 64, "squash")[0], 7, atol=1e-5)
    assert np.allclose(fit_to(image[::-1, ::-1].copy(), 64, "squash")[0], small[::-1, ::-1], atol=0.02)
    assert np.allclose(fit_to(image.T.copy(), 64, "squash")[0], small.T, atol=0.02)
    assert np.allclose(fit_to(image * 3 + 5, 64, "squash")[0], small * 3 + 5, atol=0.1)


def test_same_size_is_the_identity() -> None:
    image = film(64, 64)
    assert np.allclose(fit_to(image, 64, "pad")[0], image, atol=1e-2)


def test_fine_stripes_are_averaged_not_aliased() -> None:
    stripes = np.tile(np.array([0, 100], np.float32), (512, 256))
    assert np.abs(fit_to(stripes, 64, "squash")[0][:, 4:-4] - 50).max() < 1


def test_unknown_fit() -> None:
    with pytest.raises(ValueError, match="pad, squash or crop"):
        fit_to(film(8, 8), 32, "stretch")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_values_are_cut_before_they_are_resampled(dtype: type) -> None:
    image = (film(100, 80) / 16).astype(dtype)
    cut = np.clip(image.astype(np.float32), 40, 200)
    assert np.abs(resize.fit_to(image, 40, 200, 32, "squash")[0] - fit_to(cut, 32, "squash")[0]).max() < 1e-3

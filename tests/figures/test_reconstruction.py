"""The composite: visible pixels exact, hidden ones without influence."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from scarce_cli.figures.reconstruction import Row, composite, draw_reconstructions, rescale_prediction

STEADY = settings(max_examples=30, deadline=None, derandomize=True)


def row(seed: int = 0, patch: int = 8, side: int = 4, shown: float = 0.4, name: str = "a/film.png") -> Row:
    rng = np.random.default_rng(seed)
    visible = rng.random((side, side)) < shown
    size = patch * side
    return Row(
        name=name,
        original=rng.random((size, size)).astype(np.float32),
        visible=visible.repeat(patch, 0).repeat(patch, 1),
        prediction=rng.standard_normal((size, size)).astype(np.float32),
        patch=patch,
    )


@STEADY
@given(st.integers(0, 1000), st.sampled_from([1, 4, 8, 16]), st.floats(0, 1))
def test_visible_pixels_stay_exact_and_hidden_ones_have_no_influence(seed: int, patch: int, shown: float) -> None:
    one = row(seed, patch, shown=shown)
    noise = np.random.default_rng(seed + 1).random(one.original.shape).astype(np.float32)
    other = replace(one, original=np.where(one.visible, one.original, noise))
    for function in (composite, rescale_prediction):
        assert np.array_equal(function(one), function(other))
    assert np.array_equal(composite(one)[one.visible], one.original[one.visible])


@STEADY
@given(st.integers(0, 1000), st.floats(0, 1))
def test_grey_values_stay_in_range(seed: int, shown: float) -> None:
    painted = composite(row(seed, shown=shown))
    assert painted.dtype == np.float32
    assert np.isfinite(painted).all()
    assert painted.min() >= -1e-6
    assert painted.max() <= 1 + 1e-6


def test_a_prediction_has_mean_and_spread_of_the_visible_pixels() -> None:
    one = row(shown=0.5)
    quiet = replace(one, original=0.4 + 0.05 * (one.original - 0.5))
    shown, painted = quiet.original[quiet.visible], rescale_prediction(quiet)
    standard = quiet.prediction * shown.std() + shown.mean()
    np.testing.assert_allclose(painted, standard.clip(0, 1), atol=1e-6)


def test_inside_a_large_hole_stands_the_prediction_and_at_its_edge_the_surroundings() -> None:
    size = 96
    visible = np.ones((size, size), bool)
    visible[16:80, 16:80] = False
    flat = Row("x", np.full((size, size), 0.2, np.float32), visible, np.zeros((size, size), np.float32), 32)
    stripes = replace(
        flat, original=np.where(np.arange(size) % 2 == 0, 0.1, 0.3).astype(np.float32)[None].repeat(size, 0)
    )
    painted = composite(replace(stripes, prediction=np.full((size, size), 3.0, np.float32)))
    assert painted[48, 48] == pytest.approx(0.2 + 3 * 0.1, abs=1e-3)  # mean 0.2, spread 0.1
    edge, inner = painted[48, 16], painted[48, 24]
    assert 0.2 < edge < inner < painted[48, 48] + 1e-6
    np.testing.assert_allclose(composite(flat), 0.2, atol=1e-6)  # no seam where both agree


@pytest.mark.parametrize("shown", [0.0, 1.0])
def test_nothing_shown_and_everything_shown(shown: float) -> None:
    one = row(shown=shown)
    assert one.visible.all() == bool(shown)
    assert np.isfinite(composite(one)).all()
    assert np.array_equal(composite(one), one.original) == bool(shown)


@pytest.mark.parametrize("count", [1, 3])
def test_one_row_for_each_film(tmp_path: Path, count: int) -> None:
    path = tmp_path / "x.png"
    draw_reconstructions([row(n) for n in range(count)], "spark, epoch 1", path)
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert image.width == 1118
        assert image.height == pytest.approx(130 * (2.1 * count + 0.6), abs=1)


def test_hostile_names_are_drawn_without_a_warning(tmp_path: Path) -> None:
    names = ["$\\frac{a}{", "_x_", "<img src=x>", "a\nb", "x" * 300, "caf\udce9.png", "肺.png"]
    draw_reconstructions([row(name=name) for name in names], "$" * 3 + "\x1b[31m" + "y" * 300, tmp_path / "x.png")
    assert [path.name for path in tmp_path.iterdir()] == ["x.png"]

"""LiDAR against its definition written out, in closed form, and what it must not depend on."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.linalg import fractional_matrix_power

from scarce_cli.evaluation.collapse import lidar

Array = np.ndarray


def views(q: int = 3, films: int = 40, dimensions: int = 10, within: float = 0.5, seed: int = 0) -> Array:
    rng = np.random.default_rng(seed)
    film = rng.standard_normal((films, dimensions)) * np.linspace(0.1, 2, dimensions)
    return film + within * rng.standard_normal((q, films, dimensions))


def defined(x_QND: Array) -> float:
    """The paper's formula, film by film and view by view."""
    q, n, d = x_QND.shape
    means = [x_QND[:, i].mean(axis=0) for i in range(n)]
    between, within = np.zeros((d, d)), np.zeros((d, d))
    for i in range(n):
        between += np.outer(means[i] - np.mean(means, axis=0), means[i] - np.mean(means, axis=0)) / (n - 1)
        for view in x_QND[:, i]:
            within += np.outer(view - means[i], view - means[i]) / (n * (q - 1))
    root = fractional_matrix_power(within + 1e-4 * np.eye(d), -0.5)
    values = np.linalg.eigvalsh(root @ between @ root).clip(min=0)
    p = values / values.sum() + 1e-7
    return float(np.exp(-(p * np.log(p)).sum()))


@pytest.mark.parametrize("shape", [(2, 40, 10), (5, 40, 10), (2, 6, 10), (3, 2, 10), (2, 10, 10)])
def test_it_is_what_the_paper_defines(shape: tuple[int, int, int]) -> None:
    x = views(*shape)
    assert lidar(x) == pytest.approx(defined(x), rel=1e-9)
    assert lidar(x + 5) == pytest.approx(defined(x), rel=1e-9)
    assert lidar(x.astype(np.float32)) == pytest.approx(defined(x), rel=1e-5)


def test_the_order_of_films_and_of_views_and_a_rotation_do_not_matter() -> None:
    x, rng = views(), np.random.default_rng(1)
    turn = np.linalg.qr(rng.standard_normal((10, 10)))[0]
    for same in (x[::-1], x[:, rng.permutation(40)], x @ turn):
        assert lidar(same) == pytest.approx(lidar(x), rel=1e-9)


def test_directions_in_which_views_differ_as_much_as_films_count_for_little() -> None:
    """Four directions tell films apart; six more are as wide, but differ from view to view."""
    rng = np.random.default_rng(0)
    x = 1e-2 * rng.standard_normal((4, 2000, 10))
    x[:, :, :4] += rng.standard_normal((2000, 4))
    x[:, :, 4:] += rng.standard_normal((4, 2000, 6))
    assert lidar(x) == pytest.approx(4, rel=0.02)
    assert lidar(x[:1].repeat(2, axis=0)) == pytest.approx(10, rel=0.02)  # one view: all ten tell films apart


def test_films_at_the_corners_of_a_simplex_fill_all_its_directions() -> None:
    """The centred rows of the identity have N - 1 equal singular values; views that agree leave 1e-4 within."""
    p = np.append(np.full(7, 1 / 7 + 1e-7), 1e-7)
    wanted = np.exp(-(p * np.log(p)).sum())
    assert lidar(np.stack([np.eye(8), np.eye(8)])) == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize("value", [0.0, 3.3])
def test_films_with_the_same_mean_have_none(value: float) -> None:
    assert lidar(np.full((2, 9, 5), value)) is None
    row = np.random.default_rng(0).uniform(1, 2, 5)
    noise = 1e-7 * np.random.default_rng(1).standard_normal((2, 9, 5))
    assert lidar((row + noise).astype(np.float32)) is None
    assert lidar(row + noise) is not None

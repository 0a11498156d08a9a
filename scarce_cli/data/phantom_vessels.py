"""The vessels of a phantom's lungs: a random tree of points per lung, spread out on the film's grid."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Floats = NDArray[np.floating[Any]]
Points = NDArray[np.float32]  # (K, 3): u, v and weight

_STEPS = 14  # points on one vessel between two forks


def vessel_tree(source: np.random.Generator, side: float, width: float) -> list[Points]:
    """Points on a tree that branches from one hilum, ever thinner. Five levels of (K, 3): u, v, weight."""
    start = np.stack([np.full(9, 0.15), source.uniform(-0.12, 0.10, 9)], axis=1)
    heading = np.linspace(-1.35, 1.25, 9) + source.normal(0, 0.12, 9)
    length = 0.21 * width / 0.67 * (1 + 0.25 * np.sin(heading) ** 2)
    along = np.arange(_STEPS) / _STEPS
    levels = []
    for level in range(5):
        turned = heading[:, None] + source.normal(0, 0.35, len(heading))[:, None] * along
        step = np.stack([np.cos(turned), np.sin(turned)], axis=2) * (length[:, None, None] / _STEPS)
        path = start[:, None] + np.cumsum(step, axis=1)
        weight = 0.55**level * length[:, None] * (1.1 - 0.3 * along)
        levels.append(np.dstack([side * path[..., 0], path[..., 1], weight]).reshape(-1, 3).astype(np.float32))
        start = np.repeat(path[:, -1], 2, axis=0)
        fork = np.array([1.0, -1.0]) * source.uniform(0.1, 0.6, (len(heading), 2))
        heading = (turned[:, -1:] + fork).ravel()
        length = np.repeat(length, 2) * source.uniform(0.6, 0.95, len(heading))
    return levels


def vessel_map(
    trunks_XYW: Points, twigs_XYW: Points, place: Callable[[Floats, Floats], tuple[Floats, Floats]], size: int
) -> Floats:
    """Density of the lungs' vessels on a (size, size) grid. ``place``: (u, v) to (column, row) in pixels."""
    trunks = _scatter(trunks_XYW, place, size)
    twigs = _scatter(twigs_XYW, place, size)
    scale = np.float32(5 * (size / 256) ** 2)
    blur = size / 256
    result: Floats = scale * (ndimage.gaussian_filter(trunks, 1.9 * blur) + ndimage.gaussian_filter(twigs, 0.8 * blur))
    return result


def _scatter(points_XYW: Points, place: Callable[[Floats, Floats], tuple[Floats, Floats]], size: int) -> Floats:
    """Each point's weight, shared out between the four pixels around it."""
    column, row = place(points_XYW[:, 0], points_XYW[:, 1])
    inside = (column >= 0) & (row >= 0) & (column < size - 1) & (row < size - 1)
    column, row, weight = column[inside], row[inside], points_XYW[inside, 2]
    left, top = column.astype(np.intp), row.astype(np.intp)
    right_part, lower_part = column - left, row - top
    corner = top * size + left
    total = np.zeros(size * size)
    for offset, share in (
        (0, (1 - right_part) * (1 - lower_part)),
        (1, right_part * (1 - lower_part)),
        (size, (1 - right_part) * lower_part),
        (size + 1, right_part * lower_part),
    ):
        total += np.bincount(corner + offset, weight * share, minlength=size * size)
    return total.reshape(size, size).astype(np.float32)

"""Lanczos resampling of float images as two banded matrix products.

A resampling along one axis is a matrix: row ``i`` holds the weights with which output sample ``i`` takes its
neighbours among the input samples. For a reduction by ``s`` only about ``6 s`` entries of a row differ from
zero, so the rows are taken in blocks, and each block multiplies only the input samples that it touches. The
result is exact to float32, nothing is rounded to grey levels in between.

The weights are those of a windowed sinc with three lobes, widened by the reduction so that fine structure is
averaged instead of aliased: ``w(x) = sinc(x) sinc(x / 3)`` for ``|x| < 3``, cut at the border and normalised
to sum one (Duchon, 1979).
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

LOBES = 3
BLOCK = 8  # output samples per matrix product: fewer wastes calls, more wastes zeros

Float = npt.NDArray[np.float32]
Band = tuple[int, int, int, int, Float]  # output from, output to, input from, input to, weights


def lanczos_matrix(length: int, out: int, start: float = 0.0, stop: float | None = None) -> npt.NDArray[np.float64]:
    """(out, length) float64 weights that resample the stretch ``start..stop`` of ``length`` samples to ``out``.

    Positions are edges of samples: the whole input is ``0..length``. Every row sums to one.
    """
    stop = float(length) if stop is None else stop
    scale = (stop - start) / out
    reach = max(scale, 1.0)
    centre = start + (np.arange(out) + 0.5) * scale
    offset = (np.arange(length) + 0.5)[None, :] - centre[:, None]
    x = offset / reach
    weights = np.where(np.abs(x) < LOBES, np.sinc(x) * np.sinc(x / LOBES), 0.0)
    return weights / weights.sum(axis=1, keepdims=True)


@lru_cache(maxsize=64)
def _bands(length: int, out: int, start: float, stop: float) -> tuple[Band, ...]:
    matrix = lanczos_matrix(length, out, start, stop)
    bands = []
    for top in range(0, out, BLOCK):
        rows = matrix[top : top + BLOCK]
        used = np.flatnonzero(rows.any(axis=0))
        left, right = int(used[0]), int(used[-1]) + 1
        weights = np.ascontiguousarray(rows[:, left:right], dtype=np.float32)
        bands.append((top, top + len(rows), left, right, weights))
    return tuple(bands)


def resample_rows(image: npt.NDArray[Any], out: int, start: float, stop: float, low: float, high: float) -> Float:
    """(out, W) float32: the rows ``start..stop`` of ``image`` (H, W) of any type, cut to ``low..high``.

    Cutting and making floats is done band by band, where the values are still in the processor's cache.
    """
    result = np.empty((out, image.shape[1]), dtype=np.float32)
    least, most = image.dtype.type(low), image.dtype.type(high)
    for top, bottom, left, right, weights in _bands(image.shape[0], out, start, stop):
        band = np.clip(image[left:right], least, most).astype(np.float32, copy=False)
        np.matmul(weights, band, out=result[top:bottom])
    return result


def resample_columns(image: Float, out: int, start: float, stop: float) -> Float:
    """(H, out) float32: the columns ``start..stop`` of ``image`` (H, W) resampled to ``out`` columns."""
    result = np.empty((image.shape[0], out), dtype=np.float32)
    for top, bottom, left, right, weights in _bands(image.shape[1], out, start, stop):
        result[:, top:bottom] = image[:, left:right] @ weights.T
    return result


def placement(height: int, width: int, size: int, fit: str) -> tuple[slice, slice]:
    """Rows and columns of the ``size`` x ``size`` square that hold the film; the rest is border (``pad``)."""
    if fit not in ("pad", "squash", "crop"):
        raise ValueError(f"fit must be pad, squash or crop, not {fit!r}")
    if fit != "pad":
        return slice(0, size), slice(0, size)
    longest = max(height, width)
    inner = [max(1, round(length * size / longest)) for length in (height, width)]
    starts = [(size - length) // 2 for length in inner]
    return slice(starts[0], starts[0] + inner[0]), slice(starts[1], starts[1] + inner[1])


def fit_to(image: npt.NDArray[Any], low: float, high: float, size: int, fit: str) -> tuple[Float, tuple[slice, slice]]:
    """Cut ``image`` (H, W) to ``low..high`` and resample it for a square of ``size``; returns float32 values,
    still in the film's own units, and where they lie in the square.

    ``pad`` keeps the aspect and leaves a border, ``squash`` fills the square with both axes scaled apart,
    ``crop`` keeps the aspect and takes the largest centred square. Values may overshoot the input's range.
    """
    height, width = image.shape
    where = placement(height, width, size, fit)
    rows, columns = (0.0, float(height)), (0.0, float(width))
    if fit == "crop":
        side = min(height, width)
        rows = (height - side) / 2, (height + side) / 2
        columns = (width - side) / 2, (width + side) / 2
    tall, wide = (part.stop - part.start for part in where)
    return resample_columns(resample_rows(image, tall, *rows, low, high), wide, *columns), where

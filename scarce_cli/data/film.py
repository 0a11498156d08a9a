"""One film from raw grey values to a small 8-bit square: stretch, resample, quantise once at the end."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from scarce_cli.data.decode import Film
from scarce_cli.data.resize import fit_to
from scarce_cli.errors import UsageError

PIXELS_VERSION = 1  # raised whenever the same film and settings would give other pixels
WINDOWS = ("percentile", "minmax")
FITS = ("pad", "squash", "crop")
TAIL = 0.005  # share of pixels cut off at either end by the percentile window
ROWS = 256  # of a larger film every n-th row, at least so many, is enough to find the percentiles


@dataclass(frozen=True)
class Settings:
    """What decides the pixels of a prepared film. ``size`` in pixels, a multiple of 32 from 32 to 4096."""

    size: int
    window: str = "percentile"
    fit: str = "pad"

    def __post_init__(self) -> None:
        if not (32 <= self.size <= 4096 and self.size % 32 == 0):
            raise UsageError(f"--size {self.size} is not a multiple of 32 from 32 to 4096", "try --size 256")
        if self.window not in WINDOWS:
            raise UsageError(f"--window {self.window}: no such window", f"one of: {', '.join(WINDOWS)}")
        if self.fit not in FITS:
            raise UsageError(f"--fit {self.fit}: no such fit", f"one of: {', '.join(FITS)}")

    def as_dict(self) -> dict[str, Any]:
        """The settings by name, with the version of the pixel arithmetic."""
        return {**asdict(self), "pixels_version": PIXELS_VERSION}


def window_of(pixels: npt.NDArray[Any], window: str) -> tuple[float, float]:
    """Raw values that become black and white: the extremes, or values with 0.5 % of the pixels beyond each.

    The percentiles are values that occur in the film (no interpolation), taken over every n-th row where
    there are more than 511. Where they coincide (nearly all of the film has one value) the extremes are
    taken instead.
    """
    if window == "percentile":
        low, high = _percentiles(pixels[:: max(1, len(pixels) // ROWS)])
        if high > low:
            return low, high
    return float(pixels.min()), float(pixels.max())


def _percentiles(pixels: npt.NDArray[Any]) -> tuple[float, float]:
    last = pixels.size - 1
    ranks = int(TAIL * last), last - int(TAIL * last)
    if pixels.dtype.kind == "u":
        low, high = np.searchsorted(np.cumsum(_histogram(pixels)), ranks, side="right")
    else:
        low, high = np.partition(pixels, ranks, axis=None)[list(ranks)]
    return float(low), float(high)


def _histogram(pixels: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """How often each value occurs. Of 8-bit pixels two at a time are counted as one 16-bit value: twice as
    fast, and the sum of rows and columns of that table is the histogram."""
    flat = np.ascontiguousarray(pixels).ravel()
    if flat.dtype != np.uint8 or flat.size % 2:
        return np.bincount(flat)
    pairs = np.bincount(flat.view(np.uint16), minlength=1 << 16).reshape(256, 256)
    return np.asarray(pairs.sum(axis=0) + pairs.sum(axis=1))


def to_square(pixels: npt.NDArray[Any], low: float, high: float, settings: Settings) -> npt.NDArray[np.uint8]:
    """(size, size) uint8 from raw values: ``low`` becomes 0, ``high`` 255, what lies beyond is cut off.

    Cutting comes before the resampling, so that a burned-in marker leaves no halo. The stretch may come
    after it, where there are fewer pixels: both are linear. Rounding comes last, once. A constant film
    becomes 0 everywhere.
    """
    square = np.zeros((settings.size, settings.size), dtype=np.uint8)
    if not high > low:
        return square
    if pixels.dtype.kind == "u":
        base, span = low, high - low
        small, where = fit_to(pixels, low, high, settings.size, settings.fit)
    else:  # any range at all, even beyond what float32 can subtract
        share = (np.clip(pixels, low, high).astype(np.float64) - low) / (high - low)
        base, span = 0.0, 1.0
        small, where = fit_to(share.astype(np.float32), 0.0, 1.0, settings.size, settings.fit)
    grey = (small - np.float32(base)) * np.float32(255.0 / span)
    square[where] = np.clip(np.rint(grey), 0, 255)
    return square


def prepare(film: Film, settings: Settings) -> tuple[npt.NDArray[np.uint8], float, float]:
    """The (size, size) uint8 square of a film and the raw values that became black and white."""
    low, high = window_of(film.pixels, settings.window)
    return to_square(film.pixels, low, high, settings), low, high

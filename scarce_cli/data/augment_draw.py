"""What is drawn for a view: every random number is a function of (seed, epoch, film, view) and of nothing else.

Shape suffixes: B films.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scarce_cli.config import AugmentSettings

_CROP_TRIES = 10  # torchvision's RandomResizedCrop gives up after ten and takes the centre
_COLUMNS = 4 * _CROP_TRIES + 9
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class ViewParameters:
    """What was drawn for each film of a batch; every array has length B."""

    top: Floats  # px in the stored film
    left: Floats
    height: Floats
    width: Floats
    flip: NDArray[np.bool_]
    angle: Floats  # degrees, counter-clockwise
    jitter: NDArray[np.bool_]
    contrast_first: NDArray[np.bool_]  # torchvision's ColorJitter draws the order of its two steps
    brightness: Floats  # factor
    contrast: Floats  # factor
    blur: NDArray[np.bool_]
    kernel: Ints  # px, odd
    sigma: Floats  # px
    noise_seed: NDArray[np.uint64]


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of SplitMix64 (Steele et al., 2014): every input bit reaches every output bit."""
    with np.errstate(over="ignore"):
        values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _streams(seed: int, epoch: int, films: Ints, view: int) -> NDArray[np.uint64]:
    """One 64-bit state for each film: (B,)."""
    state = np.full(len(films), np.uint64(seed))
    for part in (np.full(len(films), epoch), films, np.full(len(films), view)):
        with np.errstate(over="ignore"):
            state = _mix(state * np.uint64(3) + part.astype(np.uint64) + _GOLDEN)
    return state


def _uniforms(streams: NDArray[np.uint64], count: int) -> Floats:
    """(B, count) numbers in [0, 1), with 53 random bits each."""
    with np.errstate(over="ignore"):
        counters = streams[:, None] + _GOLDEN * np.arange(1, count + 1, dtype=np.uint64)[None]
    return (_mix(counters) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def draw_parameters(
    settings: AugmentSettings, stored: int, *, seed: int, epoch: int, films: Ints, view: int
) -> ViewParameters:
    """Draw one view for each film.

    Args:
        stored: S, side of the stored films in px.
        films: (B,) numbers of the films in the data set.
        view: which of the method's views this is.
    """
    streams = _streams(seed, epoch, films, view)
    u = _uniforms(streams, _COLUMNS)
    top, left, height, width = _draw_crops(settings, stored, u[:, 9:])
    half = (np.asarray(settings.blur_kernel) - 1) // 2
    return ViewParameters(
        top=top,
        left=left,
        height=height,
        width=width,
        flip=u[:, 0] < settings.flip_probability,
        angle=(2 * u[:, 1] - 1) * settings.rotation_degrees,
        jitter=u[:, 2] < settings.jitter_probability,
        contrast_first=u[:, 3] < 0.5,
        brightness=_factor(u[:, 4], settings.brightness),
        contrast=_factor(u[:, 5], settings.contrast),
        blur=u[:, 6] < settings.blur_probability,
        kernel=2 * (half[0] + np.floor(u[:, 7] * (half[1] - half[0] + 1)).astype(np.int64)) + 1,
        sigma=settings.blur_sigma[0] + u[:, 8] * (settings.blur_sigma[1] - settings.blur_sigma[0]),
        noise_seed=_mix(streams),
    )


def _factor(u: Floats, strength: float) -> Floats:
    low = max(0.0, 1.0 - strength)
    return low + u * (1.0 + strength - low)


def _draw_crops(settings: AugmentSettings, stored: int, u: Floats) -> tuple[Floats, Floats, Floats, Floats]:
    """RandomResizedCrop's distribution (torchvision): area uniform, log of the ratio uniform, whole pixels,
    the first of ten tries that fits, else the centre. Returns top, left, height, width in px."""
    u_area, u_ratio, u_top, u_left = (u[:, i * _CROP_TRIES : (i + 1) * _CROP_TRIES] for i in range(4))
    low, high = settings.crop_scale
    area = stored * stored * (low + u_area * (high - low))
    log_low, log_high = np.log(settings.crop_ratio)
    ratio = np.exp(log_low + u_ratio * (log_high - log_low))
    width, height = np.round(np.sqrt(area * ratio)), np.round(np.sqrt(area / ratio))
    fits = (width > 0) & (width <= stored) & (height > 0) & (height <= stored)
    first = fits.argmax(axis=1)
    pick = (np.arange(len(u)), first)
    found = fits[pick]
    # The films are square, so the fallback keeps the whole side that the nearest allowed ratio permits.
    centre = np.full(len(u), float(stored))
    height = np.where(found, height[pick], np.round(centre / max(1.0, settings.crop_ratio[0])))
    width = np.where(found, width[pick], np.round(centre * min(1.0, settings.crop_ratio[1])))
    top = np.where(found, np.floor(u_top[pick] * (stored - height + 1)), np.floor((stored - height) / 2))
    left = np.where(found, np.floor(u_left[pick] * (stored - width + 1)), np.floor((stored - width) / 2))
    return top, left, height, width

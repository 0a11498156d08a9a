"""Random views of films, made in batches on the training device, in one channel.

The order is that of the published listing: crop and flip (and rotation, all three in ONE resampling of the
stored pixels), brightness and contrast, blur, noise, normalisation. Every random number is a function of
(seed, epoch, film, view), so a view does not depend on the batch it is in, on threads or on workers.

Shape suffixes: B films, H and W pixels of the view, S pixels of the stored film, K taps of a kernel.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

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


@dataclass(frozen=True)
class View:
    """A batch of views. ``clean_BCHW`` is the same without noise: what a reconstruction should aim at."""

    image_BCHW: Tensor  # float32, normalised
    clean_BCHW: Tensor


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


def warp(films_BSS: Tensor, parameters: ViewParameters, size: int, taps: int) -> Tensor:
    """Crop, flip and rotate in one resampling of the stored pixels.

    Each view pixel is the mean of ``taps`` x ``taps`` bilinear samples spread over its own footprint, so
    that shrinking does not alias. Where a rotated crop reaches beyond the film, the film is mirrored.

    Args:
        films_BSS: uint8.

    Returns:
        (B, 1, size, size) float32 in [0, 1].
    """
    theta = torch.from_numpy(_affine(parameters, films_BSS.shape[-1]).astype(np.float32))
    films_B1SS = films_BSS.unsqueeze(1).to(torch.float32).div_(255.0)
    fine = size * taps
    grid = F.affine_grid(theta.to(films_BSS.device), [len(films_BSS), 1, fine, fine], align_corners=False)
    views = F.grid_sample(films_B1SS, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    return F.avg_pool2d(views, taps) if taps > 1 else views


def _affine(p: ViewParameters, stored: int) -> Floats:
    """(B, 2, 3): from positions in the view to positions in the film, both in [-1, 1]."""
    cos, sin = np.cos(np.deg2rad(p.angle)), np.sin(np.deg2rad(p.angle))
    mirror = np.where(p.flip, -1.0, 1.0)
    scale_x, scale_y = p.width / stored, p.height / stored
    centre_x, centre_y = (2 * p.left + p.width) / stored - 1, (2 * p.top + p.height) / stored - 1
    rows = [
        [scale_x * mirror * cos, -scale_x * mirror * sin, centre_x],
        [scale_y * sin, scale_y * cos, centre_y],
    ]
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=1)


def taps_for(settings: AugmentSettings, stored: int, size: int) -> int:
    """Samples per view pixel and direction: as many as the largest crop has stored pixels for one."""
    return max(1, round(stored * settings.crop_scale[1] ** 0.5 / size))


def jitter(views_BCHW: Tensor, parameters: ViewParameters) -> Tensor:
    """Brightness and contrast as torchvision's ColorJitter, each clamped to [0, 1], in the order drawn."""
    p = parameters
    brightness = np.where(p.jitter, p.brightness, 1.0)
    contrast = np.where(p.jitter, p.contrast, 1.0)
    for stage in (0, 1):
        is_contrast = p.contrast_first if stage == 0 else ~p.contrast_first
        factor = _column(np.where(is_contrast, contrast, brightness), views_BCHW)
        about_mean = _column(np.where(is_contrast, 1.0, 0.0), views_BCHW)
        pivot = views_BCHW.mean(dim=(1, 2, 3), keepdim=True) * about_mean
        views_BCHW = ((views_BCHW - pivot) * factor + pivot).clamp_(0.0, 1.0)
    return views_BCHW


def _column(values: NDArray[np.floating], like: Tensor) -> Tensor:
    return torch.from_numpy(values.astype(np.float32)).to(like.device).view(-1, 1, 1, 1)


def gaussian_kernels(kernel: Ints, sigma: Floats) -> Tensor:
    """(B, K) float32 kernels that sum to 1, zero outside each film's own width (torchvision's weights)."""
    half = int(kernel.max()) // 2
    x = np.arange(-half, half + 1, dtype=np.float64)[None]
    weights = np.exp(-0.5 * (x / sigma[:, None]) ** 2)
    weights[np.abs(x) > (kernel[:, None] - 1) / 2] = 0.0
    return torch.from_numpy((weights / weights.sum(axis=1, keepdims=True)).astype(np.float32))


def blur(views_B1HW: Tensor, parameters: ViewParameters) -> Tensor:
    """Gaussian blur of the films chosen for it, each with its own kernel size and sigma; edges mirrored."""
    chosen = np.flatnonzero(parameters.blur)
    if len(chosen) == 0:
        return views_B1HW
    kernels_BK = gaussian_kernels(parameters.kernel[chosen], parameters.sigma[chosen]).to(views_B1HW.device)
    rows = torch.from_numpy(chosen).to(views_B1HW.device)
    half = kernels_BK.shape[1] // 2
    stack = views_B1HW[rows].transpose(0, 1)  # one "image" of B channels, so that a grouped convolution
    stack = F.pad(stack, (half, half, half, half), mode="reflect")  # gives every film its own kernel
    stack = F.conv2d(stack, kernels_BK[:, None, :, None], groups=len(chosen))
    stack = F.conv2d(stack, kernels_BK[:, None, None, :], groups=len(chosen))
    return views_B1HW.index_copy(0, rows, stack.transpose(0, 1))


def noise(views_BCHW: Tensor, std: float, seeds: NDArray[np.uint64]) -> Tensor:
    """Add Gaussian noise, each film's from its own seed."""
    if std == 0.0:
        return views_BCHW
    generator = torch.Generator(device=views_BCHW.device)
    values = torch.empty_like(views_BCHW)
    for film, seed in zip(values, seeds, strict=True):
        film.normal_(0.0, std, generator=generator.manual_seed(int(seed >> np.uint64(1))))
    return views_BCHW + values


def make_view(
    films_BSS: Tensor,
    settings: AugmentSettings,
    parameters: ViewParameters,
    *,
    size: int,
    mean: float,
    std: float,
) -> View:
    """Apply drawn parameters to stored films.

    Args:
        films_BSS: uint8, on the device where the views are wanted.
        size: side of the views in px.
        mean, std: grey value taken off and divided by, films in [0, 1].

    Returns:
        Views (B, 1, size, size), float32.
    """
    views = warp(films_BSS, parameters, size, taps_for(settings, films_BSS.shape[-1], size))
    views = blur(jitter(views, parameters), parameters)
    noisy = noise(views, settings.noise_std, parameters.noise_seed)
    image = (noisy - mean) / std
    return View(image_BCHW=image, clean_BCHW=image if noisy is views else (views - mean) / std)

"""What the tests of views share: films, parameters that change nothing, and each step on a whole batch."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scarce_cli.config import AugmentSettings
from scarce_cli.data import augment_geometry, augment_pixels
from scarce_cli.data.augment_draw import ViewParameters, draw_parameters
from scarce_cli.data.augment_table import Workspace, on_device
from scarce_cli.data.phantom import draw_phantom

CPU = torch.device("cpu")
PUBLISHED = AugmentSettings(rotation_degrees=10.0)


def draw(settings: AugmentSettings = PUBLISHED, stored: int = 256, count: int = 2000, **changes: int) -> ViewParameters:
    """Drawn for films 0 to ``count`` - 1."""
    key = {"seed": 1, "epoch": 2, "view": 0, **changes}
    return draw_parameters(settings, stored, films=np.arange(count), **key)


def still(count: int, stored: int, **changes: NDArray) -> ViewParameters:
    """Parameters of the whole film, unchanged, but for ``changes``."""
    zero, one, no = np.zeros(count), np.ones(count), np.zeros(count, bool)
    values = {
        "top": zero, "left": zero, "height": one * stored, "width": one * stored, "flip": no, "angle": zero,
        "jitter": no, "contrast_first": no, "brightness": one, "contrast": one, "blur": no,
        "kernel": np.full(count, 9), "sigma": one, "noise_seed": np.arange(count, dtype=np.uint64),
    }  # fmt: skip
    return ViewParameters(**{**values, **changes})


def smooth_films(count: int, side: int) -> Tensor:
    """(count, side, side) uint8 without detail or noise."""
    y, x = np.mgrid[:side, :side] / side
    films = [127 + 120 * np.sin(4 * x + n) * np.cos(3 * y + 0.5 * n) for n in range(count)]
    return torch.from_numpy(np.stack(films).round().astype(np.uint8))


def random_films(count: int, side: int) -> Tensor:
    """(count, side, side) uint8, every pixel by itself."""
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (count, side, side), dtype=np.uint8))


def phantom_films(count: int, side: int) -> Tensor:
    """(count, side, side) uint8: chest-like, with quantum noise, the range of grey values used."""
    films = []
    for index in range(count):
        pixels = draw_phantom(0, index, size=side).pixels.astype(np.float64)
        low, high = np.percentile(pixels, [0.5, 99.5])
        films.append(((pixels - low) / (high - low)).clip(0, 1) * 255)
    return torch.from_numpy(np.stack(films).round().astype(np.uint8))


def warped(films_BSS: Tensor, p: ViewParameters, size: int, taps: int = 1) -> Tensor:
    """(B, size, size), grey values 0 to 255."""
    rows = on_device(augment_geometry.warp_rows(p, films_BSS.shape[-1]), CPU)
    return augment_geometry.warp(films_BSS, augment_geometry.grid_terms(rows, size * taps), taps, Workspace(CPU))


def published(films_BSS: Tensor, p: ViewParameters, size: int) -> Tensor:
    """(B, size, size), grey values 0 to 255."""
    terms = augment_geometry.published_terms(on_device(augment_geometry.published_rows(p), CPU), size)
    return augment_geometry.published(films_BSS, terms, size, Workspace(CPU), turn=bool(p.angle.any()))


def jittered(views_BHW: Tensor, p: ViewParameters, mean: float = 0.0, std: float = 1.0) -> Tensor:
    """Of views in [0, 1]; normalised."""
    rows = on_device(augment_pixels.jitter_rows(p), CPU)
    terms, out = augment_pixels.jitter_terms(rows, views_BHW.shape[-1], std), torch.empty_like(views_BHW)
    assert augment_pixels.jitter(views_BHW * 255, terms, mean, std, out) is out
    return out


def blurred(views_BHW: Tensor, p: ViewParameters) -> Tensor:
    """A copy."""
    views, half = views_BHW.clone(), int(p.kernel.max()) // 2
    rows = on_device(augment_pixels.blur_rows(p, len(views_BHW)), CPU)
    terms = augment_pixels.blur_terms(rows, views.shape[-1], half)
    augment_pixels.blur_(views, terms, int(p.blur.sum()), half, Workspace(CPU))
    return views


def noise(count: int, size: int, seeds: NDArray[np.uint64] | None = None, std: float = 1.0) -> Tensor:
    """(count, size, size): what is added to views of zeros."""
    changes = {} if seeds is None else {"noise_seed": seeds}
    rows = on_device(augment_pixels.noise_rows(still(count, size, **changes)), CPU)
    zeros, terms = torch.zeros(count, size, size), augment_pixels.noise_terms(rows)
    return augment_pixels.add_noise(zeros, terms, std, torch.empty_like(zeros), Workspace(CPU))

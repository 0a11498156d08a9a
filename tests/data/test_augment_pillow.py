"""Our views beside Pillow's and torchvision's with the same drawn parameters, in grey values of 0 to 255.

Measured as the mean of the absolute difference over a view; of 24 views their mean, and in brackets the largest:

    256 to 224 px                                                       phantoms        real films
    crop, resize, flip and pixels, in float32                           0.06 (0.38)     0.04 (0.26)
    crop, resize and flip, whole grey values                            0.34 (0.53)     0.30 (0.39)
    one affine transform and pixels, in float32                         0.00 (0.00)     0.00 (0.00)
    one affine transform, whole grey values                             0.50 (0.50)     0.48 (0.50)
    resize, then bicubic rotation: two resamplings, in float32          0.73 (1.32)     0.35 (0.71)
    the plain way as a whole, whole grey values                         0.83 (1.21)     0.77 (1.09)

From 512 px: 0.21 (0.69), 0.54 (0.84), 0.00, 0.40, 0.90 (1.38), 0.84 (1.48) for phantoms. In the last line nearly all is
Pillow's: it cuts off the fraction of a grey value in brightness and again in contrast, and so darkens by about one.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import functional as TF

from scarce_cli.config import AugmentSettings
from scarce_cli.data.augment import ViewParameters, make_view
from scarce_cli.data.augment_geometry import taps_for
from tests.data.view_helpers import draw, phantom_films

Geometry = Callable[[np.ndarray, ViewParameters, int, int, int], Image.Image]
DRAWS = 24
STILL = AugmentSettings(noise_std=0.0)
TURNING = AugmentSettings(noise_std=0.0, rotation_degrees=10.0)
PLAIN = {"jitter_probability": 0.0, "blur_probability": 0.0}
LOCAL = {"crop_scale": (0.05, 0.14)}  # DINO's local crops
sizes = pytest.mark.parametrize(
    ("stored", "size", "crop"), [(256, 224, {}), (512, 224, {}), (256, 96, LOCAL)], ids=["256", "512", "local"]
)


def pixels(film: np.ndarray, *, rounded: bool) -> Image.Image:
    """As Pillow keeps them: whole grey values, or float32."""
    return Image.fromarray(film if rounded else film.astype(np.float32))


def cropped(film: np.ndarray, p: ViewParameters, n: int, size: int, taps: int, *, rounded: bool = False) -> Image.Image:
    """Crop, antialiased resize, flip."""
    box = (p.left[n], p.top[n], p.left[n] + p.width[n], p.top[n] + p.height[n])
    view = pixels(film, rounded=rounded).crop(box).resize((size, size), Image.Resampling.BILINEAR)
    return view.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if p.flip[n] else view


def turned(film: np.ndarray, p: ViewParameters, n: int, size: int, taps: int, *, rounded: bool = False) -> Image.Image:
    """Crop, flip and rotation as one affine transform of the film, mirrored at its edges; the mean of taps x taps."""
    stored, fine = len(film), size * taps
    cos, sin = np.cos(np.deg2rad(p.angle[n])), np.sin(np.deg2rad(p.angle[n]))
    a, b = np.array([cos, -sin]) * p.width[n] / fine * (-1 if p.flip[n] else 1)
    d, e = np.array([sin, cos]) * p.height[n] / fine
    x, y = stored + p.left[n] + p.width[n] / 2, stored + p.top[n] + p.height[n] / 2
    matrix = (a, b, x - (a + b) * fine / 2, d, e, y - (d + e) * fine / 2)
    beyond = pixels(np.pad(film, stored, mode="symmetric"), rounded=rounded)
    view = beyond.transform((fine, fine), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
    return view.reduce(taps) if taps > 1 else view


def resized_and_turned(film: np.ndarray, p: ViewParameters, n: int, size: int, taps: int) -> Image.Image:
    """A crop half as large again, resized, flipped, rotated about its middle by bicubic interpolation, cut to size."""
    stored, large = len(film), size + size // 4 * 2
    middle = np.array([stored + p.left[n] + p.width[n] / 2, stored + p.top[n] + p.height[n] / 2])
    reach = np.array([p.width[n], p.height[n]]) * large / size / 2
    beyond = pixels(np.pad(film, stored, mode="symmetric"), rounded=False)
    view = beyond.resize((large, large), Image.Resampling.BILINEAR, (*(middle - reach), *(middle + reach)))
    view = view.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if p.flip[n] else view
    edge = (large - size) // 2
    box = (edge, edge, edge + size, edge + size)
    return view.rotate(float(p.angle[n]), Image.Resampling.BICUBIC).crop(box)


def rounded(geometry: Callable[..., Image.Image]) -> Geometry:
    return lambda *arguments: geometry(*arguments, rounded=True)


def theirs(view: Image.Image, p: ViewParameters, n: int) -> np.ndarray:
    """Brightness, contrast and blur by torchvision: on the image where it is of whole grey values, else on a tensor."""
    image: Image.Image | Tensor = view
    if view.mode == "F":
        image = torch.from_numpy(np.array(view))[None] / 255
    if p.jitter[n]:
        steps = [(TF.adjust_brightness, p.brightness[n]), (TF.adjust_contrast, p.contrast[n])]
        for step, factor in steps[::-1] if p.contrast_first[n] else steps:
            image = step(image, float(factor))
    if p.blur[n]:
        image = TF.gaussian_blur(image, [int(p.kernel[n])] * 2, [float(p.sigma[n])] * 2)
    return image[0].numpy() * 255 if isinstance(image, Tensor) else np.asarray(image, np.float32)


def differences(films: Tensor, size: int, settings: AugmentSettings, geometry: Geometry) -> np.ndarray:
    """Of each view, the mean of the absolute difference in grey values: (DRAWS,)."""
    stored, rows = films.shape[-1], np.arange(DRAWS) % len(films)
    p, taps = draw(settings, stored, DRAWS, seed=5), taps_for(settings, stored, size)
    ours = make_view(films[rows], settings, p, size=size, mean=0.5, std=0.25).image_BCHW[:, 0].numpy() * 0.25 + 0.5
    return np.array([
        np.abs(ours[n] * 255 - theirs(geometry(films[row].numpy(), p, n, size, taps), p, n)).mean()
        for n, row in enumerate(rows)
    ])  # fmt: skip


@sizes
def test_a_view_without_rotation_is_pillows(stored: int, size: int, crop: dict[str, Any]) -> None:
    films, settings = phantom_films(4, stored), STILL.model_copy(update=crop)
    assert differences(films, size, settings, cropped).max() <= 1
    assert differences(films, size, settings.model_copy(update=PLAIN), rounded(cropped)).max() <= 1


@sizes
def test_a_view_with_rotation_is_pillows_affine_transform(stored: int, size: int, crop: dict[str, Any]) -> None:
    films, settings = phantom_films(4, stored), TURNING.model_copy(update=crop)
    assert differences(films, size, settings, turned).max() <= 0.02
    assert differences(films, size, settings.model_copy(update=PLAIN), rounded(turned)).max() <= 1


@pytest.mark.parametrize("stored", [256, 512])
def test_one_resampling_differs_little_from_two(stored: int) -> None:
    films = phantom_films(4, stored)
    assert differences(films, 224, TURNING, resized_and_turned).mean() <= 1
    assert differences(films, 224, TURNING.model_copy(update=PLAIN), resized_and_turned).mean() <= 1


@pytest.mark.parametrize(("stored", "size"), [(256, 224), (512, 224)])
def test_the_plain_way_as_a_whole_differs_by_a_grey_level_in_the_mean(stored: int, size: int) -> None:
    """Pillow's whole grey values after every step, on the published settings without rotation."""
    assert differences(phantom_films(4, stored), size, STILL, rounded(cropped)).mean() <= 1


@pytest.mark.cxr
@pytest.mark.parametrize(("stored", "size"), [(256, 224), (512, 224)])
def test_views_of_real_films_are_pillows(cxr: Path, stored: int, size: int) -> None:
    paths = sorted(path for path in (cxr / "images").rglob("*") if path.is_file())[:: 6102 // 6]
    side = (stored, stored)
    images = [np.asarray(Image.open(path).convert("L").resize(side, Image.Resampling.LANCZOS)) for path in paths]
    films = torch.from_numpy(np.stack(images))
    assert differences(films, size, STILL, cropped).max() <= 1
    assert differences(films, size, STILL, rounded(cropped)).mean() <= 1
    assert differences(films, size, TURNING, turned).max() <= 0.02
    assert differences(films, size, TURNING, resized_and_turned).mean() <= 1

"""What SparK paints: original, masked input, prediction and composite, one row for each film.

The published way (part 4 of the series) rescales predictions to the statistics of the visible pixels and
feathers the mask with a Gaussian. It feathers with the ORIGINAL film, so hidden pixels shine through at the
edges of the mask. Here nothing hidden is used: inside the mask the prediction is blended, towards the
edges, with the visible surroundings smoothed into the mask; visible pixels stay exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from scarce_cli.figures.page import page, plain

Image = NDArray[np.float32]

_FEATHER = 3.0 / 32  # sigma of the soft mask, in patches: 3 px at the published patch of 32 px
_SMOOTH = 2.0 / 32  # sigma of the smoothing of the prediction, in patches: 2 px there
_MASK_GREY = 0.5
_NAME, _TITLE = 30, 90  # characters beside a row, over the page


@dataclass(frozen=True)
class Row:
    """One film; all images (H, W) float32, grey values in [0, 1]."""

    name: str
    original: Image
    visible: NDArray[np.bool_]  # pixels that were shown
    prediction: Image  # in units of each patch's own mean and std
    patch: int  # px


def rescale_prediction(row: Row) -> Image:
    """The prediction in grey values, by mean and std of the visible pixels, clipped to [0, 1]."""
    shown = row.original[row.visible]
    mean, std = (float(shown.mean()), float(shown.std())) if shown.size else (0.5, 0.25)
    return np.clip(row.prediction * std + mean, 0.0, 1.0).astype(np.float32)


def composite(row: Row) -> Image:
    """Visible pixels exactly as they are; masked pixels from the prediction, feathered at the edges.

    Hidden pixels of the original have no influence.
    """
    shown, hidden = row.visible.astype(np.float32), (~row.visible).astype(np.float32)
    feather = _FEATHER * row.patch
    painted = _smooth_inside(rescale_prediction(row), hidden, _SMOOTH * row.patch)
    around = _smooth_inside(row.original, shown, feather)
    weight = gaussian_filter(hidden, feather)
    blend = (1 - weight) * around + weight * painted
    return np.where(row.visible, row.original, blend).astype(np.float32)


def _smooth_inside(image: Image, inside: Image, sigma: float) -> Image:
    """Gaussian mean of the pixels where ``inside`` is 1, everywhere; 0 where none is near."""
    weight = gaussian_filter(inside, sigma)
    smooth: Image = gaussian_filter(image * inside, sigma) / np.maximum(weight, 1e-6)
    return smooth


def draw_reconstructions(rows: Sequence[Row], title: str, path: Path) -> None:
    """One PNG with four columns, each film's name on the left. Raises ResourceError."""
    with page(path, len(rows), 4, size=(8.6, 2.1 * len(rows) + 0.6)) as (figure, axes):
        for line, row in zip(axes, rows, strict=True):
            masked = np.where(row.visible, row.original, _MASK_GREY)
            images = (row.original, masked, rescale_prediction(row), composite(row))
            for axis, image in zip(line, images, strict=True):
                axis.imshow(image, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
                axis.set(xticks=[], yticks=[])
                axis.spines[:].set_visible(False)
            line[0].set_ylabel(plain(row.name, _NAME), fontsize=7)
        for axis, name in zip(axes[0], ("original", "masked input", "prediction", "composite"), strict=True):
            axis.set_title(name, fontsize=9)
        figure.suptitle(plain(title, _TITLE), fontsize=9)

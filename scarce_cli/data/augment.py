"""Random views of films, made in batches on the training device, in one channel.

The order is that of the published listing: crop and flip (and rotation, all three in ONE resampling of the
stored pixels), brightness and contrast, blur, noise, normalisation. Every random number is a function of
(seed, epoch, film, view), so a view does not depend on the batch it is in, on threads or on workers.

A batch goes through in chunks of films whose pixels stay in the processor's cache from one step to the next; on a CPU
each thread takes chunks of its own. Nothing waits for a GPU, and one copy takes all drawn numbers there.

Shape suffixes: B films, H and W pixels of the view, S side of the stored film, V side of the view.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from scarce_cli.config import AugmentSettings
from scarce_cli.data.augment_draw import ViewParameters, draw_parameters
from scarce_cli.data.augment_geometry import (
    grid_terms,
    published,
    published_rows,
    published_terms,
    taps_for,
    warp,
    warp_rows,
)
from scarce_cli.data.augment_pixels import (
    add_noise,
    blur_,
    blur_rows,
    blur_terms,
    jitter,
    jitter_rows,
    jitter_terms,
    noise_rows,
    noise_terms,
    normalise,
)
from scarce_cli.data.augment_table import Row, Rows, Workspace, on_device, workspace
from scarce_cli.data.augment_threads import share_out

__all__ = ["View", "ViewParameters", "draw_parameters", "make_view"]

# Bytes of one float32 image of each film of a chunk; a step works on two to four of them.
_CHUNK_BYTES = {"cpu": 1 << 21, "cuda": 1 << 24}


@dataclass(frozen=True)
class View:
    """A batch of views. ``clean_BCHW`` is the same without noise: what a reconstruction should aim at."""

    image_BCHW: Tensor  # float32, normalised
    clean_BCHW: Tensor


@torch.inference_mode(False)
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
        size: V, side of the views in px.
        mean, std: grey value taken off and divided by, films in [0, 1].

    Returns:
        Views (B, 1, V, V), float32, without gradient, under autocast as well.
    """
    device, count = films_BSS.device, len(films_BSS)
    recipe = _Recipe.of(settings, parameters, films_BSS.shape[-1], size, mean, std)
    chunk = recipe.films_at_once(device)
    image = torch.empty(count, 1, size, size, device=device)
    clean = torch.empty_like(image) if recipe.noise else image

    def make(part: int) -> None:
        here, work = slice(part * chunk, (part + 1) * chunk), workspace(device)
        own, blurred = {name: term[here] for name, term in terms.items()}, int(parameters.blur[here].sum())
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            recipe.clean(films_BSS[here], own, blurred, clean[here, 0], work)
            if recipe.noise:
                add_noise(clean[here, 0], own, recipe.noise, image[here, 0], work)

    if count:
        terms = recipe.terms(on_device(recipe.rows(parameters, chunk), device))
        share_out(make, -(-count // chunk), device)
    return View(image_BCHW=image, clean_BCHW=clean)


@dataclass(frozen=True)
class _Recipe:
    """What is the same for all films of a batch. A step is left out where the settings never ask for it."""

    geometry: str
    stored: int
    size: int
    mean: float
    std: float
    taps: int
    turn: bool
    jitter: bool
    half: int  # of the largest blur kernel, without its middle
    noise: float  # spread, in normalised values

    @classmethod
    def of(
        cls, settings: AugmentSettings, p: ViewParameters, stored: int, size: int, mean: float, std: float
    ) -> _Recipe:
        may_jitter = settings.jitter_probability > 0 and (settings.brightness > 0 or settings.contrast > 0)
        return cls(
            geometry=settings.geometry,
            stored=stored,
            size=size,
            mean=mean,
            std=std,
            taps=taps_for(settings, stored, size) if settings.geometry == "warp" else 1,
            turn=settings.rotation_degrees > 0 or bool(p.angle.any()),
            jitter=may_jitter or bool(p.jitter.any()),
            half=max(settings.blur_kernel[1], int(p.kernel.max(initial=1))) // 2,
            noise=settings.noise_std / std,
        )

    def films_at_once(self, device: torch.device) -> int:
        pixels = max(self.size * self.taps, self.stored) ** 2
        return max(1, _CHUNK_BYTES[device.type] // (4 * pixels))

    def rows(self, p: ViewParameters, chunk: int) -> dict[str, Row]:
        """What is drawn for each film."""
        geometry = warp_rows(p, self.stored) if self.geometry == "warp" else published_rows(p)
        jitters = jitter_rows(p) if self.jitter else {}
        noises = noise_rows(p) if self.noise else {}
        return {**geometry, **jitters, **blur_rows(p, chunk), **noises}

    def terms(self, rows: Rows) -> Rows:
        """What follows from that before a pixel is looked at, for all films at once."""
        if self.geometry == "warp":
            geometry = grid_terms(rows, self.size * self.taps)
        else:
            geometry = published_terms(rows, self.size)
        jitters = jitter_terms(rows, self.size, self.std) if self.jitter else {}
        noises = noise_terms(rows) if self.noise else {}
        return {**geometry, **jitters, **blur_terms(rows, self.size, self.half), **noises}

    def clean(self, films_nSS: Tensor, terms: Rows, blurred: int, out_nVV: Tensor, work: Workspace) -> None:
        """Views without noise, normalised, into ``out_nVV``."""
        if self.geometry == "warp":
            views_nVV = warp(films_nSS, terms, self.taps, work)
        else:
            views_nVV = published(films_nSS, terms, self.size, work, turn=self.turn)
        if self.jitter:
            jitter(views_nVV, terms, self.mean, self.std, out_nVV)
        else:
            normalise(views_nVV, self.mean, self.std, out_nVV)
        blur_(out_nVV, terms, blurred, self.half, work)

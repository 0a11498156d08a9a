"""Whole films through a method that can paint what it does not see."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from scarce_cli.checkpoint import EncoderInfo
from scarce_cli.data.cache import Cache
from scarce_cli.data.loader import load_films, whole_films
from scarce_cli.errors import UsageError
from scarce_cli.figures.reconstruction import Row
from scarce_cli.methods.base import Method


@runtime_checkable
class Reconstructing(Protocol):
    """What a method offers that masks films and paints them."""

    def reconstruct(self, images_BCHW: Tensor, generator: torch.Generator) -> Any:
        """``visible_B1FF`` bool, ``prediction_BCHW`` float32 and ``patch`` in px."""


def reconstruct_films(
    method: Method, info: EncoderInfo, cache: Cache, *, count: int, seed: int, device: torch.device
) -> list[Row]:
    """Mask and paint ``count`` films drawn by the seed.

    Raises:
        UsageError: the method does not reconstruct.
    """
    if not isinstance(method, Reconstructing):
        raise UsageError(f"{type(method).__name__} does not reconstruct films", "nothing to draw for it")
    rows = np.random.default_rng(seed).permutation(len(cache.names))[:count]
    images = whole_films(load_films(cache, rows, device), size=info.size, mean=info.mean, std=info.std)
    generator = torch.Generator(device).manual_seed(seed)
    result = method.to(device).reconstruct(images, generator)
    patch: int = result.patch
    visible = F.interpolate(result.visible_B1FF.float(), scale_factor=float(patch), mode="nearest").bool()
    films = (images * info.std + info.mean).clamp(0, 1)
    return [
        Row(cache.names[row], film[0], shown[0], painted[0], patch)
        for row, film, shown, painted in zip(
            rows,
            films.cpu().numpy(),
            visible.cpu().numpy(),
            result.prediction_BCHW.cpu().numpy(),
            strict=True,
        )
    ]

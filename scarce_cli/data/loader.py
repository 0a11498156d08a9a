"""Batches by index from the mapped cache, in the main process: nothing is decoded, copied twice or pickled."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from scarce_cli.data.cache import Cache, gather


def load_films(cache: Cache, rows: NDArray[np.int64], device: torch.device) -> Tensor:
    """Stored films on the device: (B, S, S) uint8."""
    films = torch.from_numpy(gather(cache, rows))
    if device.type == "cuda":
        return films.pin_memory().to(device, non_blocking=True)
    return films


def whole_films(films_BSS: Tensor, *, size: int, mean: float, std: float) -> Tensor:
    """Films as evaluation sees them: the whole film, resized with antialiasing, normalised.

    Args:
        films_BSS: uint8.

    Returns:
        (B, 1, size, size) float32.
    """
    films = films_BSS.unsqueeze(1).to(torch.float32).div_(255.0)
    if films.shape[-1] != size:
        films = F.interpolate(films, size=(size, size), mode="bilinear", antialias=True, align_corners=False)
    return (films - mean) / std


def iterate_films(cache: Cache, rows: NDArray[np.int64], batch_size: int, device: torch.device) -> Iterator[Tensor]:
    """All films of ``rows`` in order, in batches: (<=B, S, S) uint8."""
    for start in range(0, len(rows), batch_size):
        yield load_films(cache, rows[start : start + batch_size], device)

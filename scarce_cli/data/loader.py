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
    """Stored films on the device: (B, S, S) uint8. To a GPU they go by way of pinned memory, into which they are read
    from the cache directly, and nothing waits for the copy."""
    if device.type != "cuda":
        return torch.from_numpy(gather(cache, rows))
    films = torch.empty(len(rows), cache.size, cache.size, dtype=torch.uint8, pin_memory=True)
    gather(cache, rows, films.numpy())
    return films.to(device, non_blocking=True)


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

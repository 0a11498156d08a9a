"""Which films an encoder has seen: kept in its checkpoints, so that nobody tests on them unawares."""

from __future__ import annotations

import torch
from torch import Tensor

from scarce_cli.data.cache import Cache
from scarce_cli.data.manifest import pixel_hashes, pixel_keys


def own_keys(cache: Cache) -> Tensor:
    """(films,) int64 keys of the films in a cache, ascending (`pixel_keys`); none where one of them is not known."""
    hashes = pixel_hashes(cache.folder, cache.names)
    return torch.from_numpy(pixel_keys(hashes if all(hashes) else ()))


def joined_keys(own: Tensor, before: Tensor | None) -> Tensor:
    """All films that an encoder has seen, here and before: ascending, distinct; none where either is not known.

    Args:
        own: no keys: not known, for want of a manifest.
        before: None: nothing was seen before; no keys: not known.
    """
    if before is None:
        return own
    return torch.unique(torch.cat([own, before])) if len(own) and len(before) else own[:0]

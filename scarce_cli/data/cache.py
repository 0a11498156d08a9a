"""The cache: all prepared films in one plain .npy file that is mapped, not read, with a JSON beside it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from scarce_cli.data.manifest import find_dataset, read_dataset
from scarce_cli.errors import DamagedData, UnsafeInput, UsageError

__all__ = ["CACHE", "INDEX", "Cache", "find_dataset", "gather", "open_cache"]

CACHE, INDEX = "cache.npy", "cache.json"
BLOCK_BYTES = 1 << 24  # one digest per block of so many bytes, in whole films


@dataclass(frozen=True)
class Cache:
    """An open cache. ``images`` (N, size, size) uint8: a read-only map of the file. ``names``: row -> source
    film's path inside the source folder. ``mean`` and ``std`` over the set, grey values scaled to [0, 1]."""

    folder: Path
    images: npt.NDArray[np.uint8]
    names: tuple[str, ...]
    size: int
    mean: float
    std: float
    digest: str


def open_cache(folder: Path) -> Cache:
    """Map the cache of the data set in ``folder``. Takes no memory of its own and reads no pixels.

    Raises UsageError (none built, or made from other films or settings), DamagedData (cut or broken),
    UnsafeInput (an index that nobody sane wrote).
    """
    rebuild = f"rebuild it: scarce cache {folder} --rebuild"
    index = read_index(folder)
    dataset = read_dataset(folder)
    if index["settings"] != dataset.settings.as_dict():
        raise UsageError(f"the cache in {folder} was made with other settings than the data set", rebuild)
    if index["films"] != dataset.films:
        raise UsageError(f"the cache in {folder} is stale: the data set's films have changed", rebuild)
    shape = tuple(index["shape"])
    path = folder / CACHE
    expected = index["offset"] + shape[0] * shape[1] * shape[2]
    actual = path.stat().st_size if path.exists() else 0
    if actual != expected:
        raise DamagedData(f"{path} has {actual} bytes where {expected} belong", rebuild)
    images = np.memmap(path, np.uint8, "r", index["offset"], shape)
    return Cache(
        folder, images, tuple(index["order"]), shape[1], index["mean"], index["std"], index["digest"]
    )


def read_index(folder: Path) -> dict[str, Any]:
    """cache.json, checked before anything is allocated."""
    path = folder / INDEX
    if not path.exists():
        raise UsageError(f"{folder} has no cache yet", f"run: scarce cache {folder}")
    try:
        index: dict[str, Any] = json.loads(path.read_bytes())
    except ValueError as error:
        raise DamagedData(f"{path} cannot be read: {error}", f"scarce cache {folder} --rebuild") from None
    if len(index["shape"]) != 3 or not all(isinstance(n, int) and 0 < n < 2**40 for n in index["shape"]):
        raise UnsafeInput(f"{path}: impossible shape {index['shape']}", f"scarce cache {folder} --rebuild")
    return index


def gather(
    cache: Cache, rows: npt.NDArray[np.integer[Any]], out: npt.NDArray[np.uint8] | None = None
) -> npt.NDArray[np.uint8]:
    """(B, size, size) uint8: the films of ``rows`` (B,), into ``out`` when given (no allocation then)."""
    if out is None:
        out = np.empty((len(rows), cache.size, cache.size), dtype=np.uint8)
    return np.take(cache.images, rows, axis=0, out=out, mode="clip")

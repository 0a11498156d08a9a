"""Building the cache under a temporary name, and renaming it when it is whole."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import xxhash

from scarce_cli.data.bad_film import BadFilm
from scarce_cli.data.cache import BLOCK_BYTES, CACHE, INDEX
from scarce_cli.data.decode import decode
from scarce_cli.data.manifest import DONE, Dataset, Row, read_dataset, read_manifest
from scarce_cli.data.worker import read_bytes
from scarce_cli.errors import DamagedData, ResourceError, UsageError
from scarce_cli.files import folder_lock, free_bytes, fsync_folder, write_json

PART = ".cache.npy.part"


def header(shape: tuple[int, int, int]) -> bytes:
    """The .npy header of a (N, size, size) uint8 array in C order."""
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return buffer.getvalue()


def build_cache(folder: Path, progress: Callable[[int, int, int], None]) -> int:
    """Build the cache of the prepared films in ``folder``; the number of films."""
    dataset = read_dataset(folder)
    if not dataset.complete:
        raise UsageError(f"{folder} is not finished", f"run again: scarce preprocess --src {dataset.source}")
    rows = [row for row in read_manifest(folder) if row.status == DONE]
    if not rows:
        raise UsageError(f"{folder} holds no film", "see its bad_files.csv")
    with folder_lock(folder, "another scarce command is working in it"):
        _fill(folder, dataset, rows, progress)
    return len(rows)


def _fill(folder: Path, dataset: Dataset, rows: list[Row], progress: Callable[[int, int, int], None]) -> None:
    size = dataset.settings.size
    shape = (len(rows), size, size)
    head = header(shape)
    needed = len(head) + len(rows) * size * size
    part = folder / PART
    descriptor = os.open(part, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            os.posix_fallocate(descriptor, 0, needed)
        except OSError as error:
            raise ResourceError(
                f"not enough disk for {folder / CACHE}: {needed} bytes needed, {free_bytes(folder)} free",
                "free some space or prepare smaller films",
            ) from error
        os.ftruncate(descriptor, needed)
        os.pwrite(descriptor, head, 0)
        for index, row in enumerate(rows):
            try:
                pixels = decode(read_bytes(folder / row.output)).pixels
            except BadFilm as error:
                raise DamagedData(
                    f"{folder / row.output}: {error}", "delete it and preprocess again"
                ) from None
            os.pwrite(descriptor, pixels.tobytes(), len(head) + index * size * size)
            progress(index + 1, len(rows), 0)
        os.fsync(descriptor)
        blocks = _digests(descriptor, len(head), len(rows), size)
    finally:
        os.close(descriptor)
    order = [row.path for row in rows]
    digest = xxhash.xxh3_128("\0".join([str(size), *blocks, *order]).encode("utf-8", "surrogateescape"))
    (folder / INDEX).unlink(missing_ok=True)
    os.replace(part, folder / CACHE)
    fsync_folder(folder)
    write_json(
        folder / INDEX,
        {
            "format": 1,
            "shape": shape,
            "offset": len(head),
            "settings": dataset.settings.as_dict(),
            "films": dataset.films,
            "mean": dataset.mean,
            "std": dataset.std,
            "digest": digest.hexdigest(),
            "block_films": max(1, BLOCK_BYTES // size**2),
            "blocks": blocks,
            "order": order,
        },
        label="cache",
    )


def _digests(descriptor: int, offset: int, films: int, size: int) -> list[str]:
    per_block = max(1, BLOCK_BYTES // size**2)
    blocks = []
    for first in range(0, films, per_block):
        count = min(per_block, films - first)
        data = os.pread(descriptor, count * size * size, offset + first * size * size)
        blocks.append(xxhash.xxh3_64_hexdigest(data))
    return blocks

"""The file that becomes the cache: reserved in full, filled row by row, renamed when it is whole.

It never has the cache's name before that, so a reader's map is never cut or changed under it.
"""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import xxhash

from scarce_cli.data.cache import CACHE, INDEX, index_digest
from scarce_cli.data.dataset import Dataset
from scarce_cli.errors import ResourceError
from scarce_cli.files import as_resource_error, fault_point, free_bytes, fsync_folder, write_json

BLOCK_BYTES = 1 << 24  # one digest for so many bytes, in whole films
_PATTERN = ".cache-*.part"


def npy_header(shape: tuple[int, int, int]) -> bytes:
    """What stands before the first pixel of a (N, size, size) uint8 array in an .npy file."""
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return buffer.getvalue()


class Part:
    """``rows`` reserved places for films of ``size`` x ``size``. ``key`` tells what is being built: a part
    with another key, or of another length, is of no use and removed. ``resumed``: it was there already."""

    def __init__(self, folder: Path, key: str, rows: int, size: int) -> None:
        self.folder, self.rows, self.size = folder, rows, size
        self.path = folder / f".cache-{key}.part"
        self.offset = len(npy_header((rows, size, size)))
        self.bytes = self.offset + rows * size * size
        for other in folder.glob(_PATTERN):
            if other != self.path:
                other.unlink()
        self.resumed = self.path.exists() and self.path.stat().st_size == self.bytes
        if not self.resumed:
            self._reserve()

    def _reserve(self) -> None:
        """Take the disk space now: a mapped or positioned write into a full disk would come too late."""
        self.path.unlink(missing_ok=True)
        free = free_bytes(self.folder)
        try:
            if free < self.bytes:
                raise OSError
            fault_point("cache.pre_reserve")
            with open(self.path, "xb") as handle:
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(handle.fileno(), 0, self.bytes)
                handle.truncate(self.bytes)
        except OSError as error:
            self.path.unlink(missing_ok=True)
            if isinstance(error, PermissionError):
                raise as_resource_error(error, self.path) from error
            raise ResourceError(
                f"not enough disk for {self.folder / CACHE}: {self.bytes:,} bytes "
                f"({self.bytes / 2**30:.2f} GiB) needed, {free:,} free",
                "free some space, or prepare smaller films (--size)",
            ) from None

    def sync(self) -> None:
        """Bring what was written so far to the disk, before it is noted as done."""
        with open(self.path, "rb+") as handle:
            os.fsync(handle.fileno())

    def row(self, place: int) -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
        """(size, size) uint8: what was written at a place."""
        with open(self.path, "rb") as handle:
            data = os.pread(handle.fileno(), self.size**2, self.offset + place * self.size**2)
        return np.frombuffer(data, np.uint8).reshape(self.size, self.size)

    def publish(self, dataset: Dataset, places: Sequence[int], names: Sequence[str]) -> None:
        """Make it the cache: film ``i`` is what was written at ``places[i]``, its name ``names[i]``.

        Places are their own position except where a film takes the place of a bad one (see cache_order).
        Readers of an older cache keep it; the index, renamed last, makes the new one valid.
        """
        shape = (len(places), self.size, self.size)
        per_block = max(1, BLOCK_BYTES // self.size**2)
        with open(self.path, "rb+") as handle:
            self._settle(handle.fileno(), places, npy_header(shape))
            handle.seek(self.offset)
            blocks = [
                xxhash.xxh3_64_hexdigest(handle.read(per_block * self.size**2))
                for _ in range(0, len(places), per_block)
            ]
        fault_point("cache.pre_rename")
        (self.folder / INDEX).unlink(missing_ok=True)
        os.replace(self.path, self.folder / CACHE)
        fault_point("cache.post_rename")
        fsync_folder(self.folder)
        index = {
            "format": 1,
            "shape": shape,
            "offset": self.offset,
            "settings": {**dataset.settings.as_dict(), "pixels_version": dataset.pixels_version},
            "films": dataset.films,
            "mean": dataset.mean,
            "std": dataset.std,
            "digest": index_digest(self.size, blocks, tuple(names)),
            "block_films": per_block,
            "blocks": blocks,
            "order": list(names),
        }
        write_json(self.folder / INDEX, index, label="index")

    def _settle(self, descriptor: int, places: Sequence[int], header: bytes) -> None:
        """Bring each film to its position, write the header, cut what is left over, and sync."""
        assert len(header) == self.offset  # it is padded, so that its length does not depend on the count
        for position, place in enumerate(places):
            if place != position:
                os.pwrite(descriptor, self.row(place).tobytes(), self.offset + position * self.size**2)
        os.pwrite(descriptor, header, 0)
        os.ftruncate(descriptor, self.offset + len(places) * self.size**2)
        os.fsync(descriptor)

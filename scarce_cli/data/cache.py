"""The cache: all prepared films in one plain .npy file that is mapped, not read, with a JSON beside it.

The map takes no memory of its own: its pages are the page cache's, shared by all processes that use it.
"""

from __future__ import annotations

import contextlib
import io
import json
import mmap
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import xxhash

from scarce_cli.data.dataset import Dataset, find_dataset, read_dataset
from scarce_cli.data.manifest import check_paths
from scarce_cli.errors import DamagedData, UnsafeInput, UsageError

__all__ = ["CACHE", "INDEX", "Cache", "advise", "copied", "find_dataset", "gather", "open_cache", "verify_cache"]

CACHE, INDEX = "cache.npy", "cache.json"
_MOST_INDEX_BYTES = 1 << 30
_MOST_PIXELS = 1 << 44


@dataclass(frozen=True)
class Cache:
    """An open cache. ``images`` (N, size, size) uint8: a read-only map of the file. ``names``: row -> source
    film's path inside the source folder. ``mean`` and ``std`` over the set, grey values scaled to [0, 1].
    ``digest``: one for pixels and order. ``file``: what is mapped, cache.npy or its copy in memory, from
    ``offset`` on. ``map`` keeps it open: what is rebuilt under that name is another file."""

    folder: Path
    images: npt.NDArray[np.uint8]
    names: tuple[str, ...]
    size: int
    mean: float
    std: float
    digest: str
    file: Path
    offset: int
    map: mmap.mmap
    in_memory: bool = False


@dataclass(frozen=True)
class Index:
    """cache.json: ``settings`` and ``films`` of the data set it was made from, ``blocks``: a digest for each
    ``block_films`` films, ``order``: the films' paths."""

    films_shape: tuple[int, int, int]
    offset: int
    settings: dict[str, Any]
    films: str
    mean: float
    std: float
    digest: str
    block_films: int
    blocks: list[str]
    order: tuple[str, ...]

    @property
    def file_bytes(self) -> int:
        """How long the .npy file must be."""
        count, height, width = self.films_shape
        return self.offset + count * height * width


def open_cache(folder: Path) -> Cache:
    """Map the cache of the data set in ``folder``. Reads no pixels and takes no memory for them.

    Raises UsageError (none built, or made from other films or settings), DamagedData (cut or broken),
    UnsafeInput (an index that scarce cannot have written).
    """
    try:
        index = open(folder / INDEX, "rb")  # noqa: SIM115  closed below
    except OSError:
        return _open(folder)  # it says what is wrong
    with index:
        cache = _open(folder)
        return cache if _is_at(folder / INDEX, index) else open_cache(folder)


def _open(folder: Path) -> Cache:
    index = read_index(folder)
    check_current(index, read_dataset(folder))
    check_file(folder, index)
    path, size, about = folder / CACHE, index.films_shape[1], (index.mean, index.std, index.digest)
    images, mapped = _map(folder, path, index)
    return Cache(folder, images, index.order, size, *about, path, index.offset, mapped)


def _is_at(path: Path, handle: IO[bytes]) -> bool:
    """Whether an open file still has that name. A rebuild meanwhile would join the films of one to another's names."""
    with contextlib.suppress(OSError):
        return os.path.samestat(path.stat(), os.fstat(handle.fileno()))
    return False


def copied(cache: Cache, path: Path) -> Cache:
    """The cache with its films read from ``path``, a copy of its file in memory. Raises as `open_cache`."""
    index = read_index(cache.folder)
    if index.digest != cache.digest:
        raise DamagedData(f"the cache in {cache.folder} changed while it was copied", "run the same command again")
    images, mapped = _map(cache.folder, path, index)
    return replace(cache, images=images, file=path, map=mapped, in_memory=True)


def _map(folder: Path, path: Path, index: Index) -> tuple[npt.NDArray[np.uint8], mmap.mmap]:
    try:
        with open(path, "rb") as handle:
            mapped = mmap.mmap(handle.fileno(), index.file_bytes, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:  # ValueError: it is shorter
        raise DamagedData(f"{path} cannot be mapped: {error}", _rebuild(folder)) from None
    return np.frombuffer(mapped, np.uint8, offset=index.offset).reshape(index.films_shape), mapped


def _rebuild(folder: Path) -> str:
    return f"rebuild it: scarce cache {folder} --rebuild"


def read_index(folder: Path) -> Index:
    """cache.json, checked for sense before anything is allocated."""
    path = folder / INDEX
    try:
        if path.stat().st_size > _MOST_INDEX_BYTES:
            raise UnsafeInput(f"{path} is larger than any that scarce writes", _rebuild(folder))
        value = json.loads(path.read_bytes())
        index = _index(value)
    except (FileNotFoundError, NotADirectoryError):
        read_dataset(folder)  # its message, if this is no data set at all
        raise UsageError(f"{folder} has no cache yet", f"build it: scarce cache {folder}") from None
    except (OSError, LookupError, TypeError, ValueError, ArithmeticError, RecursionError) as error:
        message = f"{path} is not what scarce wrote: {type(error).__name__} {error}"
        raise DamagedData(message, _rebuild(folder)) from None
    _check_sense(folder, index)
    return index


def _index(value: Any) -> Index:
    shape = tuple(int(length) for length in value["shape"])
    if len(shape) != 3:
        raise ValueError(f"shape {shape}")
    return Index(
        films_shape=shape,
        offset=int(value["offset"]),
        settings=dict(value["settings"]),
        films=str(value["films"]),
        mean=float(value["mean"]),
        std=float(value["std"]),
        digest=str(value["digest"]),
        block_films=int(value["block_films"]),
        blocks=[str(block) for block in value["blocks"]],
        order=tuple(value["order"]),
    )


def _check_sense(folder: Path, index: Index) -> None:
    """UnsafeInput for numbers and names that would make a later step allocate or read what it must not."""
    path, (count, height, width) = folder / INDEX, index.films_shape
    plausible = (
        count > 0 and 0 < height == width <= 4096 and count * height * width <= _MOST_PIXELS
        and 0 < index.offset <= 4096 and count == len(index.order)
        and index.block_films > 0 and len(index.blocks) == -(-count // index.block_films)
    )  # fmt: skip
    plausible = plausible and 0 <= index.mean <= 1 and 0 <= index.std <= 1
    if not plausible:
        raise UnsafeInput(f"{path} declares films that cannot be: shape {index.films_shape}", _rebuild(folder))
    if not all(isinstance(name, str) for name in index.order):
        raise UnsafeInput(f"{path} names films by something else than text", _rebuild(folder))
    check_paths(index.order, path)


def check_current(index: Index, dataset: Dataset) -> None:
    """UsageError naming the settings, or saying that the films, are no longer those of the data set."""
    now = {**dataset.settings.as_dict(), "pixels_version": dataset.pixels_version}
    names = sorted({*now, *index.settings})
    differing = [
        f"{name} {index.settings.get(name)} in the cache, {now.get(name)} in the data set"
        for name in names
        if now.get(name) != index.settings.get(name)
    ]
    if differing:
        message = f"the cache in {dataset.folder} was made with other settings: {'; '.join(differing)}"
        raise UsageError(message, _rebuild(dataset.folder))
    if index.films != dataset.films:
        message = f"the cache in {dataset.folder} is stale: the films of the data set have changed since"
        raise UsageError(message, _rebuild(dataset.folder))


def check_file(folder: Path, index: Index) -> None:
    """DamagedData unless the .npy file has the header and the length that the index says."""
    path = folder / CACHE
    try:
        with open(path, "rb") as handle:
            actual = os.fstat(handle.fileno()).st_size
            header = _npy_header(handle.read(index.offset))
    except FileNotFoundError:
        raise DamagedData(f"{path} is missing", _rebuild(folder)) from None
    except OSError as error:
        raise DamagedData(f"{path} cannot be read: {error.strerror}", _rebuild(folder)) from None
    if actual != index.file_bytes:
        message = f"{path} has {actual} bytes where {index.file_bytes} belong"
        raise DamagedData(message, _rebuild(folder))
    if header != index.films_shape:
        raise DamagedData(f"{path} is not the array that {INDEX} describes", _rebuild(folder))


def _npy_header(data: bytes) -> tuple[int, ...] | None:
    """Shape of a uint8 array in C order from the bytes before its first element; None for anything else."""
    handle = io.BytesIO(data)
    try:
        if np.lib.format.read_magic(handle) != (1, 0):
            return None
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(handle)
    except (ValueError, TypeError, SyntaxError, RecursionError):
        return None
    return shape if not fortran and dtype == np.uint8 and handle.tell() == len(data) else None


def gather(
    cache: Cache, rows: npt.NDArray[np.integer[Any]], out: npt.NDArray[np.uint8] | None = None
) -> npt.NDArray[np.uint8]:
    """(B, size, size) uint8: the films of ``rows`` (B,), into ``out`` when given (no allocation then).

    Reading a map behind the end of a cut file ends the process with SIGBUS, so the length of the open file is
    looked at first (half a microsecond). A cut after that look and before the copy is done is not caught.

    Raises IndexError (a row that is not there), DamagedData (the file was cut since it was opened).
    """
    _check_rows(cache, rows)
    _check_whole(cache)
    if out is None:
        out = np.empty((len(rows), cache.size, cache.size), dtype=np.uint8)
    return np.take(cache.images, rows, axis=0, out=out, mode="clip")  # "raise" would copy the output


def _check_rows(cache: Cache, rows: npt.NDArray[np.integer[Any]]) -> None:
    if len(rows) and not (rows.min() >= 0 and rows.max() < len(cache.images)):
        raise IndexError(f"rows from {rows.min()} to {rows.max()} of a cache with {len(cache.images)}")


def _check_whole(cache: Cache) -> None:
    """The open file's length, not its name's: a rebuild puts another file there and leaves this one whole."""
    there, needed = cache.map.size(), len(cache.map)
    if there < needed:
        rebuild = "" if cache.in_memory else f"{_rebuild(cache.folder)}; "
        raise DamagedData(
            f"the cache {cache.file} changed while it was read: {there} bytes where {needed} belong",
            f"{rebuild}then the same command again; a training run goes on with --resume",
        )


def advise(cache: Cache, rows: npt.NDArray[np.integer[Any]]) -> None:
    """Ask the kernel to read the films of ``rows`` (B,), those of the next batches, in the background.

    So a process without workers need not wait for the disk. Does nothing for films in memory, and never fails but
    by IndexError for a row that is not there: `gather` says what is wrong.
    """
    _check_rows(cache, rows)
    if cache.in_memory:
        return
    length = cache.size**2
    with contextlib.suppress(OSError):
        for row in rows.tolist():
            first = cache.offset + row * length
            start = first - first % mmap.PAGESIZE
            cache.map.madvise(mmap.MADV_WILLNEED, start, first + length - start)


def verify_cache(folder: Path) -> Index:
    """Read every byte; DamagedData naming the first block that is not as it was written, and its films."""
    index = read_index(folder)
    check_file(folder, index)
    size = index.films_shape[1]
    with open(folder / CACHE, "rb") as handle:
        handle.seek(index.offset)
        for number, expected in enumerate(index.blocks):
            first = number * index.block_films
            last = min(first + index.block_films, index.films_shape[0]) - 1
            if xxhash.xxh3_64_hexdigest(handle.read((last - first + 1) * size**2)) != expected:
                names = f"{index.order[first]!r} to {index.order[last]!r}"
                message = f"{folder / CACHE}: block {number} of {len(index.blocks)} is damaged"
                raise DamagedData(f"{message} (films {first} to {last}, {names})", _rebuild(folder))
    if index_digest(size, index.blocks, index.order) != index.digest:
        raise DamagedData(f"{folder / INDEX}: the order of the films is damaged", _rebuild(folder))
    return index


def index_digest(size: int, blocks: list[str], order: tuple[str, ...]) -> str:
    """One hexadecimal digest for pixels and order."""
    return xxhash.xxh3_128_hexdigest("\0".join([str(size), *blocks, *order]).encode("utf-8", "surrogatepass"))

"""How much memory and disk a cache needs and there is, and the cache held in memory where the disk is slow."""

from __future__ import annotations

import atexit
import os
import tempfile
from contextlib import suppress
from pathlib import Path

from scarce_cli.data.cache import CACHE, Cache, copied, read_index

SHARED_MEMORY = Path("/dev/shm")
_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")


def available_memory() -> int:
    """Bytes that can be used without swapping: of the machine, or of this job's share of it."""
    machine = _from_meminfo() or os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with suppress(OSError, ValueError):
        limit = int((_CGROUP / "memory.max").read_text())
        return max(0, min(machine, limit - int((_CGROUP / "memory.current").read_text())))
    return machine


def _from_meminfo() -> int:
    with suppress(OSError, ValueError, IndexError):
        for line in _MEMINFO.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return 0


def cache_bytes(films: int, size: int) -> int:
    """How large the cache of so many films is, header aside."""
    return films * size * size


def size_advice(films: int, size: int, free_disk: int, memory: int) -> list[str]:
    """Lines to print before a cache is built: how large it will be, and how to go on if that is much."""
    needed = cache_bytes(films, size)
    lines = [
        f"{films:,} films of {size} x {size}: {needed / 2**30:.2f} GiB "
        f"(disk: {free_disk / 2**30:.2f} GiB free; memory: {memory / 2**30:.2f} GiB available)"
    ]
    if needed > memory:
        lines.append(
            "That is more than the memory: training works all the same, but reads what does not fit from "
            "the disk again in every epoch; a fast local disk helps."
        )
        fitting = int((memory / max(films, 1)) ** 0.5) // 32 * 32
        if fitting >= 32:
            lines.append(f"Films of --size {fitting} would fit.")
    return lines


def hold_in_memory(cache: Cache, where: Path = SHARED_MEMORY) -> tuple[Cache, str]:
    """The cache with its films in shared memory, and "" ; or, if they do not fit, the cache as it is and why.

    The copy has the digest in its name, so that all processes of a machine that ask for the same cache share
    it. Its name is removed when the first of them ends; those that have it open keep it.
    """
    needed = cache.images.nbytes
    reason = _does_not_fit(needed, where)
    if reason:
        return cache, f"{reason}: the films are read through the page cache instead"
    path = where / f"scarce-{os.getuid()}-{cache.digest}.npy"
    if not _is_ours(path, cache):
        _copy(cache.folder / CACHE, path)
    atexit.register(path.unlink, missing_ok=True)
    return copied(cache, path), ""


def _does_not_fit(needed: int, where: Path) -> str:
    try:
        status = os.statvfs(where)
    except OSError as error:
        return f"{where} cannot be used ({error.strerror})"
    free = status.f_bavail * status.f_frsize
    for what, there in ((str(where), free), ("the memory", available_memory())):
        if there < needed:
            return f"{what} has {there / 2**30:.2f} GiB free where {needed / 2**30:.2f} GiB are needed"
    return ""


def _is_ours(path: Path, cache: Cache) -> bool:
    """Whether another process of the same user has put the same cache there already."""
    with suppress(OSError):
        status = path.lstat()
        index = read_index(cache.folder)
        return status.st_uid == os.getuid() and status.st_size == index.file_bytes and path.is_file()
    return False


def _copy(source: Path, target: Path) -> None:
    """Copy under a temporary name, readable by this user only, and rename."""
    descriptor, temporary = tempfile.mkstemp(prefix=".scarce-", dir=target.parent)
    try:
        with open(source, "rb") as reader, open(descriptor, "wb") as writer:
            while block := reader.read(1 << 24):
                writer.write(block)
        os.replace(temporary, target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


__all__ = ["available_memory", "cache_bytes", "hold_in_memory", "size_advice"]

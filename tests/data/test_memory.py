"""How large a cache is, and the cache in shared memory; C9."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from scarce_cli.data import memory
from scarce_cli.data.build import build_from_images
from scarce_cli.data.cache import Cache, gather, open_cache
from scarce_cli.data.film import Settings
from scarce_cli.data.memory import available_memory, hold_in_memory, size_advice
from scarce_cli.data.preprocess import Request, preprocess


@pytest.fixture
def cache(make_films: Callable[..., Path], tmp_path: Path, fork_workers: None) -> Cache:
    folder = tmp_path / "films-32"
    preprocess(Request(make_films(6), folder, Settings(32), workers=1))
    build_from_images(folder, workers=1)
    return open_cache(folder)


@dataclass
class _Disk:
    f_bavail: int
    f_frsize: int = 1


def test_the_size_of_the_whole_nih_set() -> None:
    (line,) = size_advice(112_120, 256, 100 << 30, 64 << 30)
    assert line.startswith("112,120 films of 256 x 256: 6.84 GiB (disk: 100.00 GiB free; memory: 64.00 GiB")


def test_advice_when_memory_is_too_small() -> None:
    lines = size_advice(112_120, 256, 100 << 30, 6 << 30)
    assert len(lines) == 3
    assert "works all the same" in lines[1]
    assert "--size 224 would fit" in lines[2]
    assert len(size_advice(112_120, 256, 100 << 30, 1 << 20)) == 2


def test_available_memory_is_plausible(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert 1 << 26 < available_memory() < 1 << 45
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    (tmp_path / "memory.max").write_text("50000000\n")
    (tmp_path / "memory.current").write_text("20000000\n")
    assert available_memory() == 30_000_000
    (tmp_path / "memory.max").write_text("max\n")
    assert available_memory() > 30_000_000


def test_held_in_memory_gives_the_same_batches_and_is_shared(cache: Cache, tmp_path: Path) -> None:
    where = tmp_path / "shm"
    where.mkdir()
    held, reason = hold_in_memory(cache, where)
    assert reason == ""
    rows = np.array([5, 0, 0, 3])
    assert np.array_equal(gather(held, rows), gather(cache, rows))
    assert (held.names, held.mean, held.digest) == (cache.names, cache.mean, cache.digest)
    (copy,) = where.iterdir()
    inode = copy.stat().st_ino
    again, _ = hold_in_memory(cache, where)
    assert copy.stat().st_ino == inode
    assert np.array_equal(again.images, cache.images)
    assert copy.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("short", ["shm", "memory", "nowhere"])
def test_c9_falls_back_on_the_map_and_says_so(
    cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, short: str
) -> None:
    free = 1000 if short == "shm" else 1 << 40
    if short != "nowhere":
        monkeypatch.setattr(os, "statvfs", lambda path: _Disk(free))
    monkeypatch.setattr(memory, "available_memory", lambda: 1000 if short == "memory" else 1 << 40)
    held, reason = hold_in_memory(cache, tmp_path / "shm")
    assert held is cache
    assert "through the page cache" in reason
    assert {"shm": "shm has", "memory": "the memory has", "nowhere": "cannot be used"}[short] in reason


def test_an_interrupted_copy_leaves_nothing(cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(source: object, target: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(memory.os, "replace", stop)
    with pytest.raises(KeyboardInterrupt):
        hold_in_memory(cache, tmp_path)
    assert not list(tmp_path.glob("*scarce-*"))

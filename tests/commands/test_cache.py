"""``scarce cache`` as a user meets it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def films() -> Path:
    folder = Path("nih")
    folder.mkdir()
    for number in range(6):
        pixels = np.random.default_rng(number).integers(0, 256, (40, 50), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


def test_build_then_up_to_date_then_verify(films: Path, scarce: Callable[..., Any]) -> None:
    assert scarce("preprocess", "--src", films, "--size", 32).code == 0
    done = scarce("cache", "nih-32")
    assert done.code == 0, done.err
    assert "6 films of 32 x 32: 0.00 GiB (disk: " in done.out
    assert "nih-32/cache.npy is built: 6 films of 32 x 32" in done.out
    assert np.load("nih-32/cache.npy", mmap_mode="r").shape == (6, 32, 32)
    inode = Path("nih-32/cache.npy").stat().st_ino
    done = scarce("cache", "nih-32")
    assert "is up to date" in done.out
    assert Path("nih-32/cache.npy").stat().st_ino == inode
    done = scarce("cache", "nih-32", "--verify")
    assert done.code == 0
    assert "as it was written: 1 blocks, 6 films" in done.out
    assert scarce("cache", "nih-32", "--rebuild").code == 0
    assert Path("nih-32/cache.npy").stat().st_ino != inode


def test_straight_from_films(films: Path, scarce: Callable[..., Any]) -> None:
    done = scarce("cache", films, "--size", 32)
    assert done.code == 0, done.err
    assert "nih-32/cache.npy is built: 6 films" in done.out
    assert sorted(path.name for path in Path("nih-32").iterdir() if path.name != ".lock") == [
        "bad_files.csv", "cache.json", "cache.npy", "dataset.json", "manifest.csv",
    ]  # fmt: skip
    assert "is up to date" in scarce("cache", films, "--size", 32).out
    assert "is up to date" in scarce("cache", "nih-32").out
    shutil.copy(films / "0.png", films / "7.png")
    done = scarce("cache", "nih-32")
    assert done.code == 2
    assert "nih-32 is stale: 1 added" in done.err
    assert scarce("cache", "nih-32", "--rebuild").code == 0
    done = scarce("preprocess", "--src", films, "--size", 32)
    assert done.code == 2
    assert "images False there, True now" in done.err


def test_straight_from_films_with_bad_ones(films: Path, scarce: Callable[..., Any]) -> None:
    (films / "2.png").write_bytes(b"")
    done = scarce("cache", films, "--size", 32)
    assert done.code == 3
    assert "1 of 6 files could not be used" in done.err
    assert np.load("nih-32/cache.npy", mmap_mode="r").shape == (5, 32, 32)
    assert scarce("cache", films, "--size", 32, "--max-bad", 0.5).code == 0


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["nowhere"], 2, "nowhere: no such folder"),
        (["nih"], 2, "scarce preprocess --src nih --size 256"),
        (["nih", "--size", "33"], 2, "--size 33"),
        (["nih", "--verify"], 2, "no prepared data set"),
        ([], 2, "DATASET"),
    ],
)
def test_usage_errors(films: Path, scarce: Callable[..., Any], arguments: list[str], code: int, message: str) -> None:
    done = scarce("cache", *arguments)
    assert done.code == code
    assert message in done.err
    assert [path.name for path in Path().iterdir()] == ["nih"]


def test_damage_and_other_size(films: Path, scarce: Callable[..., Any]) -> None:
    scarce("preprocess", "--src", films, "--size", 32)
    done = scarce("cache", "nih-32", "--size", 64)
    assert done.code == 2
    assert "holds films of size 32, not 64" in done.err
    scarce("cache", "nih-32")
    with open("nih-32/cache.npy", "rb+") as handle:
        handle.seek(3000)
        handle.write(b"\xff\x00\xff")
    done = scarce("cache", "nih-32", "--verify")
    assert done.code == 5
    assert "block 0 of 1 is damaged" in done.err
    assert "scarce cache nih-32 --rebuild" in done.err
    with open("nih-32/cache.npy", "rb+") as handle:
        handle.truncate(3000)
    done = scarce("cache", "nih-32")
    assert done.code == 5
    assert "3000 bytes where" in done.err
    assert scarce("cache", "nih-32", "--rebuild").code == 0
    assert scarce("cache", "nih-32", "--verify").code == 0

"""The cache: opened without reading it, verified, refused when it is not what it should be; C3 to C10."""

from __future__ import annotations

import faulthandler
import json
import mmap
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scarce_cli.data import cache as cache_module
from scarce_cli.data.build import build_from_images, check_cache
from scarce_cli.data.cache import advise, copied, gather, open_cache, verify_cache
from scarce_cli.data.decode import decode_png
from scarce_cli.data.film import Settings
from scarce_cli.data.manifest import read_manifest
from scarce_cli.data.preprocess import Request, preprocess
from scarce_cli.errors import DamagedData, ScarceError, UnsafeInput, UsageError

pytestmark = pytest.mark.usefixtures("fork_workers")


@pytest.fixture
def built(make_films: Callable[..., Path], tmp_path: Path) -> Path:
    """A data set of nine films of 32 px with its cache."""
    folder = tmp_path / "films-32"
    preprocess(Request(make_films(9), folder, Settings(32), workers=1))
    assert build_from_images(folder, workers=1) == 9
    return folder


def edit(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def test_holds_the_prepared_films_in_order(built: Path) -> None:
    cache = open_cache(built)
    rows = read_manifest(built)
    assert cache.names == tuple(row.path for row in rows)
    for name, image, row in zip(cache.names, cache.images, rows, strict=True):
        assert row.path == name
        assert np.array_equal(image, decode_png((built / row.output).read_bytes()).pixels)
    assert (cache.size, cache.images.shape, cache.images.dtype) == (32, (9, 32, 32), np.uint8)
    assert cache.mean == pytest.approx((cache.images / 255).mean())
    assert cache.std == pytest.approx((cache.images / 255).std())
    assert not cache.images.flags.writeable
    assert np.array_equal(np.load(built / "cache.npy", mmap_mode="r"), cache.images)


def test_gather(built: Path) -> None:
    cache = open_cache(built)
    rows = np.array([8, 0, 3, 3])
    assert np.array_equal(gather(cache, rows), cache.images[rows])
    out = np.empty((4, 32, 32), np.uint8)
    assert gather(cache, rows, out) is out
    assert np.array_equal(out, cache.images[rows])
    assert gather(cache, rows[:0]).shape == (0, 32, 32)
    for wrong in ([9], [-1]):
        with pytest.raises(IndexError):
            gather(cache, np.array(wrong))


def test_opening_maps_a_cache_far_larger_than_the_memory(tmp_path: Path, built: Path) -> None:
    """A sparse file of 30 GiB: mapped, not read."""
    index = json.loads((built / "cache.json").read_text())
    count = 500_000
    path = built / "cache.npy"
    from scarce_cli.data.part import npy_header

    with open(path, "wb") as handle:
        handle.write(npy_header((count, 256, 256)))
        handle.truncate(index["offset"] + count * 256 * 256)
    per_block = index["block_films"]
    index |= {"shape": [count, 256, 256], "order": ["x"] * count, "blocks": ["0"] * -(-count // per_block)}
    index["settings"]["size"] = 256
    (built / "cache.json").write_text(json.dumps(index))
    edit(built / "dataset.json", lambda value: value["settings"].update(size=256))
    cache = open_cache(built)
    assert cache.images.shape == (count, 256, 256)
    assert len(cache.map) == index["offset"] + count * 256 * 256
    assert not cache.images[count - 1].any()


def test_not_built_yet_and_no_data_set(built: Path, tmp_path: Path) -> None:
    (built / "cache.json").unlink()
    with pytest.raises(UsageError, match="no cache yet") as error:
        open_cache(built)
    assert f"scarce cache {built}" in error.value.remedy
    with pytest.raises(UsageError, match="no prepared data set"):
        open_cache(tmp_path / "nowhere")


@pytest.mark.parametrize("length", [0, 100, 5000, 9343, 9345, 20000])
def test_c3_a_file_of_the_wrong_length(built: Path, length: int) -> None:
    with open(built / "cache.npy", "rb+") as handle:
        handle.truncate(length)
    for action in (open_cache, verify_cache, check_cache):
        with pytest.raises(DamagedData, match=rf"has {length} bytes where 9344 belong") as error:
            action(built)
        assert f"scarce cache {built} --rebuild" in error.value.remedy


def test_c3_missing_or_not_an_array(built: Path) -> None:
    data = (built / "cache.npy").read_bytes()
    (built / "cache.npy").write_bytes(b"\0" * len(data))
    with pytest.raises(DamagedData, match="not the array"):
        open_cache(built)
    (built / "cache.npy").unlink()
    with pytest.raises(DamagedData, match="missing"):
        open_cache(built)


def test_c4_readers_survive_a_rebuild(built: Path, make_films: Callable[..., Path]) -> None:
    cache = open_cache(built)
    before = cache.images.copy()
    films = make_films(2, first=20)
    preprocess(Request(films, built, Settings(32), workers=1))
    build_from_images(built, workers=1)
    assert np.array_equal(cache.images, before)
    assert len(open_cache(built).images) == 11


def test_c4_a_rebuild_while_it_is_opened_never_joins_films_to_the_names_of_others(
    built: Path, make_films: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many films as before, so that nothing but the index tells one from the other."""

    def rebuild(folder: Path, index: Any) -> None:
        monkeypatch.setattr(cache_module, "check_file", check_file)
        films = make_films(1, first=20)
        (films / "f000.png").unlink()
        shutil.rmtree(built)
        preprocess(Request(films, built, Settings(32), workers=1))
        build_from_images(built, workers=1)
        check_file(folder, index)

    check_file = cache_module.check_file
    monkeypatch.setattr(cache_module, "check_file", rebuild)
    cache = open_cache(built)
    assert cache.names[-1] == "f020.png"
    for name, image in zip(cache.names, cache.images, strict=True):
        assert np.array_equal(image, decode_png((built / "images" / name).read_bytes()).pixels)


def test_c4_a_copy_of_a_cache_that_was_rebuilt_meanwhile_is_refused(built: Path) -> None:
    cache = open_cache(built)
    edit(built / "cache.json", lambda index: index.update(digest="0" * 32))
    with pytest.raises(DamagedData, match="changed while it was copied") as error:
        copied(cache, built / "cache.npy")
    assert error.value.remedy


@pytest.mark.parametrize("held", [False, True], ids=["mapped", "in memory"])
def test_t21_a_cache_cut_while_it_is_open_is_a_message_not_a_sigbus(built: Path, held: bool, tmp_path: Path) -> None:
    cache, rows = open_cache(built), np.arange(9)
    if held:
        cache = copied(cache, Path(shutil.copy(built / "cache.npy", tmp_path / "copy.npy")))
    before = gather(cache, rows)
    for length in (9343, 5000, 128, 0):
        os.truncate(cache.file, length)
        for out in (None, np.zeros_like(before)):
            with pytest.raises(DamagedData) as error:
                gather(cache, rows, out)
            assert error.value.exit_code == 5
            assert error.value.message == (
                f"the cache {cache.file} changed while it was read: {length} bytes where 9344 belong"
            )
            assert error.value.remedy.endswith("then the same command again; a training run goes on with --resume")
            assert (f"scarce cache {built} --rebuild" in error.value.remedy) == (not held)


def test_t21_without_the_check_the_process_would_be_killed(built: Path, in_child: Callable[..., int]) -> None:
    """Otherwise the test above would test nothing."""
    cache = open_cache(built)
    os.truncate(built / "cache.npy", 0)

    def read() -> int:
        faulthandler.disable()
        return int(cache.images.sum())

    assert in_child(read) == -signal.SIGBUS


def test_t21_what_happens_to_the_name_does_not_matter_to_who_has_it_open(built: Path) -> None:
    cache, rows = open_cache(built), np.arange(9)
    before = gather(cache, rows)
    for length in (9344, 10):
        (built / "new.npy").write_bytes(bytes(length))
        (built / "new.npy").replace(built / "cache.npy")
        assert np.array_equal(gather(cache, rows), before)
    (built / "cache.npy").unlink()
    assert np.array_equal(gather(cache, rows), before)


class _Advised:
    """Stands in for a map and notes which of its bytes the kernel is asked for."""

    def __init__(self, length: int) -> None:
        self.wanted = np.zeros(length, bool)

    def madvise(self, option: int, start: int, length: int) -> None:
        assert option == mmap.MADV_WILLNEED
        assert start % mmap.PAGESIZE == 0  # or the kernel refuses
        assert start + length <= len(self.wanted)
        self.wanted[start : start + length] = True


def test_advise_asks_for_the_pages_of_the_films_and_for_no_others(built: Path) -> None:
    count, rows, opened = 40, np.array([39, 0, 7, 7, 20]), open_cache(built)
    for size in (32, 96, 250):
        noted = _Advised(128 + count * size**2)
        images = np.zeros((count, size, size), np.uint8)
        cache = replace(opened, images=images, size=size, map=noted)  # type: ignore[arg-type]
        advise(cache, rows)
        films = np.zeros(len(noted.wanted), bool)
        for row in rows:
            films[128 + row * size**2 : 128 + (row + 1) * size**2] = True
        pages = set(np.flatnonzero(films) // mmap.PAGESIZE)
        assert noted.wanted[films].all()
        assert set(np.flatnonzero(noted.wanted) // mmap.PAGESIZE) == pages
        noted.wanted[:] = False
        advise(replace(cache, in_memory=True), rows)
        advise(cache, rows[:0])
        assert not noted.wanted.any()


def test_advise_by_the_kernel_changes_nothing_and_never_fails(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache, rows = open_cache(built), np.arange(9)
    before = gather(cache, rows)
    advise(cache, rows)
    assert np.array_equal(gather(cache, rows), before)
    for wrong in ([9], [-1]):
        with pytest.raises(IndexError):
            advise(cache, np.array(wrong))

    class Refusing:
        def madvise(self, *arguments: int) -> None:
            raise OSError(11, "Resource temporarily unavailable")

    advise(replace(cache, map=Refusing()), rows)  # type: ignore[arg-type]
    os.truncate(built / "cache.npy", 0)
    advise(cache, rows)


@pytest.mark.parametrize("position", [128, 5000, 9343])
def test_c5_a_flipped_bit_is_found_by_verify(built: Path, position: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scarce_cli.data.part.BLOCK_BYTES", 2 * 32 * 32)
    build_from_images(built, workers=1)
    assert len(verify_cache(built).blocks) == 5
    with open(built / "cache.npy", "rb+") as handle:
        handle.seek(position)
        byte = handle.read(1)[0]
        handle.seek(position)
        handle.write(bytes([byte ^ 4]))
    block = (position - 128) // 2048
    with pytest.raises(DamagedData, match=rf"block {block} of 5 is damaged \(films {2 * block} to") as error:
        verify_cache(built)
    assert "--rebuild" in error.value.remedy
    open_cache(built)  # opening does not read pixels


def test_c5_a_changed_order_is_found_by_verify(built: Path) -> None:
    edit(built / "cache.json", lambda index: index["order"].reverse())
    with pytest.raises(DamagedData, match="order"):
        verify_cache(built)


def test_c6_other_settings_are_named(built: Path) -> None:
    edit(built / "dataset.json", lambda value: value["settings"].update(window="minmax", pixels_version=0))
    with pytest.raises(UsageError, match="pixels_version 1 in the cache, 0 in the data set; window percentile"):
        open_cache(built)


def test_c7_sources_added_removed_changed(built: Path, make_films: Callable[..., Path]) -> None:
    assert check_cache(built)
    films = make_films(3, first=9)
    (films / "f000.png").unlink()
    (films / "f001.png").write_bytes((films / "f002.png").read_bytes())
    with pytest.raises(UsageError, match="stale: 3 added, 1 removed, 1 changed") as error:
        check_cache(built)
    assert "scarce preprocess --src" in error.value.remedy
    assert "--rebuild" in error.value.remedy
    open_cache(built)  # training on what was prepared is still right
    preprocess(Request(films, built, Settings(32), workers=1))
    with pytest.raises(UsageError, match="stale: the films of the data set have changed"):
        open_cache(built)
    build_from_images(built, workers=1)
    assert check_cache(built)
    assert len(open_cache(built).names) == 11


def test_c7_without_the_sources_the_cache_still_stands(built: Path, make_films: Callable[..., Path]) -> None:
    films = make_films(0)
    films.rename(films.parent / "moved away")
    assert check_cache(built)


@pytest.mark.parametrize(
    "change",
    [
        lambda index: index.update(shape=[2**50, 32, 32]),
        lambda index: index.update(shape=[9, 2**40, 2**40]),
        lambda index: index.update(shape=[-9, 32, 32]),
        lambda index: index.update(shape=[0, 0, 0], order=[], blocks=[]),
        lambda index: index.update(shape=[9, 32, 64]),
        lambda index: index.update(offset=-5),
        lambda index: index.update(offset=10**12),
        lambda index: index.update(block_films=0),
        lambda index: index.update(mean=float("nan")),
        lambda index: index["order"].append("more"),
        lambda index: index["order"].__setitem__(3, "../../etc/passwd"),
        lambda index: index["order"].__setitem__(3, "/etc/passwd"),
        lambda index: index["order"].__setitem__(3, {"not": "text"}),
    ],
)
def test_c10_a_hostile_index_is_refused_before_anything_is_allocated(
    built: Path, change: Callable[[dict[str, Any]], None]
) -> None:
    edit(built / "cache.json", change)
    for action in (open_cache, verify_cache):
        with pytest.raises(UnsafeInput) as error:
            action(built)
        assert error.value.exit_code == 4


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", "nonsense", '{"shape": [1, 2]}', '{"shape": "abc"}', '{"shape": [1e999, 1, 1]}', "[" * 99_999],
)
def test_a_broken_index_is_damage(built: Path, text: str) -> None:
    (built / "cache.json").write_text(text)
    with pytest.raises(DamagedData):
        open_cache(built)


def test_300_flips_and_100_truncations_of_the_index_never_end_in_anything_else(built: Path) -> None:
    data = (built / "cache.json").read_bytes()
    rng = np.random.default_rng(0)
    for trial in range(400):
        mutant = bytearray(data)
        if trial % 4 == 0:
            del mutant[int(rng.integers(len(data) - 2)) :]
        else:
            mutant[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(7))
        (built / "cache.json").write_bytes(mutant)
        try:
            verify_cache(built)
            open_cache(built)
        except ScarceError as error:
            assert error.exit_code in (2, 4, 5)  # noqa: PT017

"""Building the cache: resumed, killed, on a full disk, by two at once; from images and straight from films."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from scarce_cli.data import build
from scarce_cli.data.build import build_from_films, build_from_images
from scarce_cli.data.cache import open_cache, verify_cache
from scarce_cli.data.dataset import read_dataset
from scarce_cli.data.film import Settings
from scarce_cli.data.manifest import read_manifest
from scarce_cli.data.preprocess import Request, preprocess
from scarce_cli.errors import DamagedData, Interrupted, Locked, ResourceError, ScarceError, UsageError
from scarce_cli.files import folder_lock

pytestmark = pytest.mark.usefixtures("fork_workers")

OUT = Path("films-32")


def request(films: Path, **options: object) -> Request:
    options.setdefault("workers", 1)
    return Request(films, OUT, Settings(32), **options)  # type: ignore[arg-type]


@pytest.fixture
def prepared(make_films: Callable[..., Path]) -> Path:
    """A data set of thirty films of 32 px, without a cache."""
    preprocess(request(make_films(30)))
    return OUT


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".") and path.name != ".lock"]


@pytest.mark.parametrize("bad", [(), (0,), (3, 4), (28, 29), (0, 15, 29)])
def test_straight_from_films_is_the_same_cache(make_films: Callable[..., Path], bad: tuple[int, ...]) -> None:
    films = make_films(30)
    for number in bad:
        (films / f"f{number:03d}.png").write_bytes(b"not a film")
    preprocess(request(films))
    build_from_images(OUT, workers=2)
    expected = {name: digest(OUT / name) for name in ("cache.npy", "cache.json")}
    shutil.rmtree(OUT)
    outcome = build_from_films(request(films, workers=2))
    assert {name: digest(OUT / name) for name in expected} == expected
    assert len(open_cache(OUT).names) == 30 - len(bad) == outcome.dataset.counts["films"]  # type: ignore[union-attr]
    assert not read_dataset(OUT).images
    assert not (OUT / "images").exists()
    assert not leftovers(OUT)
    assert build_from_films(request(films)).new == 0


def test_straight_from_films_with_dedupe(make_films: Callable[..., Path]) -> None:
    films = make_films(5)
    shutil.copy(films / "f003.png", films / "a.png")
    build_from_films(request(films, dedupe=True))
    assert sorted(open_cache(OUT).names) == ["a.png", "f000.png", "f001.png", "f002.png", "f004.png"]
    verify_cache(OUT)


def test_straight_from_films_refuses_what_is_stale_until_rebuilt(make_films: Callable[..., Path]) -> None:
    films = make_films(4)
    build_from_films(request(films))
    make_films(2, first=4)
    (films / "f000.png").unlink()
    with pytest.raises(UsageError, match="stale: 2 added, 1 removed") as error:
        build_from_films(request(films))
    assert "--rebuild" in error.value.remedy
    build_from_films(request(films), rebuild=True)
    assert open_cache(OUT).names == ("f001.png", "f002.png", "f003.png", "f004.png", "f005.png")


def test_no_usable_film_leaves_no_cache(make_films: Callable[..., Path]) -> None:
    films = make_films(1)
    (films / "f000.png").write_bytes(b"x")
    outcome = build_from_films(request(films))
    assert outcome.dataset
    assert outcome.dataset.counts["films"] == 0
    with pytest.raises(UsageError, match="no cache yet"):
        open_cache(OUT)
    shutil.rmtree(OUT)
    preprocess(request(films))
    with pytest.raises(UsageError, match="holds no film"):
        build_from_images(OUT)


def test_an_unfinished_data_set_is_refused(make_films: Callable[..., Path]) -> None:
    preprocess(request(make_films(4), shard=(1, 2)))
    with pytest.raises(UsageError, match="is not finished") as error:
        build_from_images(OUT)
    assert "scarce preprocess --src" in error.value.remedy


@pytest.mark.parametrize("data", [b"", b"\x89PNG\r\n\x1a\nrubbish"])
def test_a_prepared_film_that_was_damaged_is_named(prepared: Path, data: bytes) -> None:
    (prepared / "images" / "f007.png").write_bytes(data)
    with pytest.raises(DamagedData, match=r"f007\.png") as error:
        build_from_images(prepared, workers=1)
    assert "delete it" in error.value.remedy
    (prepared / "images" / "f007.png").unlink()
    assert preprocess(request(read_dataset(prepared).source)).new == 1
    assert build_from_images(prepared, workers=1) == 30


def test_a_prepared_film_of_another_size_is_named(prepared: Path) -> None:
    from PIL import Image

    Image.new("L", (64, 64)).save(prepared / "images" / "f007.png")
    with pytest.raises(DamagedData, match=r"f007\.png has 64 x 64 pixels, not 32"):
        build_from_images(prepared, workers=1)


@pytest.mark.parametrize("straight", [False, True])
def test_going_on_after_an_interruption(
    make_films: Callable[..., Path], straight: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    films, noted = make_films(60), []
    if not straight:
        preprocess(request(films))

    def run(progress: Callable[[int, int, int], None]) -> None:
        if straight:
            build_from_films(request(films), progress=progress)
        else:
            build_from_images(OUT, workers=1, progress=progress)

    def stop(done: int, total: int, bad: int) -> None:
        if done >= 30:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted, match=r"stopped: \d+ of 60 films done"):
        run(stop)
    assert not (OUT / "cache.npy").exists()
    run(lambda done, total, bad: noted.append(done))
    assert noted[0] >= 30  # what had been done was not done again
    verify_cache(OUT)
    assert not leftovers(OUT)


def _kill_loop(kills: int, kill_until: Callable[..., None], films: Path) -> None:
    """C1: at every moment the old cache is valid or there is none; the rest is finished by the next run."""
    preprocess(request(films))
    build_from_images(OUT, workers=1)
    expected = digest(OUT / "cache.npy")

    def work() -> int:
        try:
            build_from_images(OUT, workers=1)
        except Locked:
            return 6
        return 0

    def check(_: int) -> None:
        if (OUT / "cache.json").exists():
            verify_cache(OUT)
            assert digest(OUT / "cache.npy") == expected

    kill_until(work, kills, within=0.1, after_each=check)
    time.sleep(0.2)
    build_from_images(OUT, workers=1)
    assert digest(OUT / "cache.npy") == expected
    assert not leftovers(OUT)


def test_c1_twenty_kills(kill_until: Callable[..., None], make_films: Callable[..., Path]) -> None:
    _kill_loop(20, kill_until, make_films(60))


@pytest.mark.skipif("SCARCE_LONG" not in os.environ, reason="most of a minute: set SCARCE_LONG=1")
def test_c1_two_hundred_kills(kill_until: Callable[..., None], make_films: Callable[..., Path]) -> None:
    _kill_loop(200, kill_until, make_films(60))


@pytest.mark.parametrize("point", ["cache.pre_rename", "cache.post_rename", "index.pre_rename", "index.post_rename"])
@pytest.mark.parametrize("straight", [False, True])
def test_c1_killed_at_each_named_point(
    make_films: Callable[..., Path], in_child: Callable[..., int], point: str, straight: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    films = make_films(12)
    (films / "f002.png").write_bytes(b"bad")
    if not straight:
        preprocess(request(films))

    def run() -> None:
        if straight:
            build_from_films(request(films))
        else:
            build_from_images(OUT, workers=1)

    monkeypatch.setenv("SCARCE_FAULT", f"{point}:1:kill")
    assert in_child(run) == -9
    monkeypatch.delenv("SCARCE_FAULT")
    try:
        open_cache(OUT)
    except ScarceError as error:
        assert error.exit_code in (2, 5)  # noqa: PT017
    run()
    verify_cache(OUT)
    assert len(open_cache(OUT).names) == 11
    assert not leftovers(OUT)


def test_c2_a_full_disk_is_noticed_before_the_first_film(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("scarce_cli.data.part.free_bytes", lambda folder: 1000)
        with pytest.raises(ResourceError, match=r"30,848 bytes \(0\.00 GiB\) needed, 1,000 free"):
            build_from_images(prepared, workers=1)
    monkeypatch.setenv("SCARCE_FAULT", "cache.pre_reserve:1:enospc")
    with pytest.raises(ResourceError, match="needed"):
        build_from_images(prepared, workers=1)
    assert leftovers(prepared) in ([], [".parts"])


def test_c2_on_a_disk_that_really_is_full(make_films: Callable[..., Path], tmp_path: Path) -> None:
    if subprocess.run(["sh", "-c", "unshare -rm true"], capture_output=True, check=False).returncode:
        pytest.skip("needs a private mount namespace")
    films = make_films(40)
    (tmp_path / "disk").mkdir()
    script = (
        f"mount -t tmpfs -o size=1m tmpfs disk && {sys.executable} -m scarce_cli cache {films} --size 256 "
        "--out disk/out; echo code $?; ls -A disk/out"
    )
    import os

    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment,
        check=False,
    )
    lines = done.stdout.splitlines()
    assert "code 8" in lines, done.stderr
    assert "2,621,568 bytes" in done.stderr
    assert not [line for line in lines if line.endswith(".part")]


def test_c8_two_builders(prepared: Path, in_child: Callable[..., int]) -> None:
    with folder_lock(prepared, "a test"), pytest.raises(Locked, match=r"process \d+ on "):
        build_from_images(prepared)
    build_from_images(prepared, workers=1)


def test_c8_twenty_races(prepared: Path) -> None:
    """Two builders at the same moment: one builds, the other is told so, and the cache is whole."""
    import os

    for _ in range(20):
        children = []
        for _ in range(2):
            child = os.fork()
            if child == 0:
                code = 1
                try:
                    build_from_images(prepared, workers=1)
                    code = 0
                except Locked as error:
                    code = error.exit_code
                finally:
                    os._exit(code)
            children.append(child)
        codes = sorted(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children)
        assert codes in ([0, 6], [0, 0])
        verify_cache(prepared)


def test_a_part_of_something_else_is_removed(prepared: Path) -> None:
    (prepared / ".cache-0123456789abcdef.part").write_bytes(b"old")
    build_from_images(prepared, workers=1)
    assert not leftovers(prepared)


def test_rows_are_noted_as_done_only_after_their_pixels_are_on_the_disk(
    prepared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGKILL cannot show a missing fsync, so the order of the calls is looked at."""
    calls: list[str] = []
    real_sync, real_add = build.Part.sync, build.Journal.add
    monkeypatch.setattr(build, "_SECONDS_BETWEEN_NOTES", 0.0)
    monkeypatch.setattr(build.Part, "sync", lambda part: (calls.append("sync"), real_sync(part))[1])
    monkeypatch.setattr(build.Journal, "add", lambda j, rows: (calls.append("note"), real_add(j, rows))[1])
    build_from_images(prepared, workers=1)
    assert len(calls) >= 4
    assert calls == ["sync", "note"] * (len(calls) // 2)


def test_the_cache_is_synced_before_its_name_and_the_index_comes_last(
    prepared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os

    calls: list[str] = []
    real_replace, real_fsync = os.replace, os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (calls.append("fsync"), real_fsync(fd))[1])
    monkeypatch.setattr(os, "replace", lambda a, b: (calls.append(Path(b).name), real_replace(a, b))[1])
    build_from_images(prepared, workers=1)
    assert calls[-6:] == ["fsync", "cache.npy", "fsync", "fsync", "cache.json", "fsync"]


def test_index_describes_the_cache(prepared: Path) -> None:
    build_from_images(prepared, workers=2)
    index = json.loads((prepared / "cache.json").read_text())
    assert index["shape"] == [30, 32, 32]
    assert index["order"] == [row.path for row in read_manifest(prepared)]
    assert (prepared / "cache.npy").stat().st_size == index["offset"] + 30 * 32 * 32

"""Preparing a folder: what is done, kept, resumed, refused; the fault cases P1 to P17."""

from __future__ import annotations

import errno
import faulthandler
import hashlib
import io
import multiprocessing
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scarce_cli.data import worker
from scarce_cli.data.dataset import read_dataset
from scarce_cli.data.decode import decode, decode_png
from scarce_cli.data.film import Settings, prepare
from scarce_cli.data.manifest import DONE, DUPLICATE, SKIPPED, read_manifest
from scarce_cli.data.preprocess import Outcome, Request, check_bad, preprocess
from scarce_cli.errors import Interrupted, Locked, ResourceError, Terminated, TooManyBadFiles, UsageError
from scarce_cli.files import folder_lock

pytestmark = pytest.mark.usefixtures("fork_workers")

OUT = Path("prepared")


def request(source: Path, **options: object) -> Request:
    options.setdefault("workers", 2)
    return Request(source, OUT, Settings(32), **options)  # type: ignore[arg-type]


def contents(folder: Path) -> dict[str, str]:
    """Every visible file with its digest; dataset.json and manifest.csv included."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


def test_a_clean_run(make_films: Callable[..., Path]) -> None:
    films = make_films(5)
    (films / "deep").mkdir()
    Image.fromarray(np.random.default_rng(9).integers(0, 60000, (40, 64)).astype(np.uint16)).save(
        films / "deep" / "x.tif"
    )
    seen: list[tuple[int, int, int]] = []
    outcome = preprocess(request(films), lambda *counts: seen.append(counts))
    assert [row.status for row in outcome.rows] == [DONE] * 6
    assert outcome.new == 6
    assert seen[0] == (0, 6, 0)
    assert seen[-1] == (6, 6, 0)
    rows = read_manifest(OUT)
    assert rows == outcome.rows
    assert [row.path for row in rows] == ["deep/x.tif", *(f"f{n:03d}.png" for n in range(5))]
    for row in rows:
        film = decode((films / row.path).read_bytes())
        expected, low, high = prepare(film, Settings(32))
        assert np.array_equal(decode_png((OUT / row.output).read_bytes()).pixels, expected)
        assert (row.low, row.high, row.width, row.height) == (low, high, *film.pixels.shape[::-1])
    dataset = read_dataset(OUT)
    assert dataset.complete
    assert dataset.counts["films"] == 6
    pixels = np.stack([decode_png((OUT / row.output).read_bytes()).pixels for row in rows]) / 255
    assert (dataset.mean, dataset.std) == (pytest.approx(pixels.mean()), pytest.approx(pixels.std()))
    assert sorted(path.name for path in OUT.iterdir()) == [
        ".lock",
        "bad_files.csv",
        "dataset.json",
        "images",
        "manifest.csv",
    ]


def test_same_bytes_whatever_the_number_of_workers(make_films: Callable[..., Path]) -> None:
    films = make_films(9)
    found = []
    for workers in (1, 2, 4):
        preprocess(request(films, workers=workers))
        found.append(contents(OUT))
        shutil.rmtree(OUT)
    assert found[0] == found[1] == found[2]


def test_a_rerun_does_only_what_is_missing_or_changed(make_films: Callable[..., Path]) -> None:
    films = make_films(6)
    preprocess(request(films))
    before = contents(OUT)
    assert preprocess(request(films)).new == 0
    assert contents(OUT) == before
    make_films(2, first=6)
    (OUT / "images" / "f001.png").unlink()
    (OUT / "images" / "f002.png").write_bytes(b"cut")
    shutil.copy(films / "f006.png", films / "f003.png")
    (films / "f004.png").unlink()
    outcome = preprocess(request(films))
    assert outcome.new == 5
    assert [row.path for row in outcome.rows] == [f"f{n:03d}.png" for n in (0, 1, 2, 3, 5, 6, 7)]
    assert not (OUT / "images" / "f004.png").exists()
    assert outcome.dataset
    assert outcome.dataset.counts["duplicates"] == 1


def test_what_was_skipped_is_tried_again(make_films: Callable[..., Path]) -> None:
    films = make_films(2)
    good = (films / "f001.png").read_bytes()
    (films / "f001.png").write_bytes(good[:-9])
    os.utime(films / "f001.png", ns=(1, 1))
    assert [row.status for row in preprocess(request(films)).rows] == [DONE, SKIPPED]
    (films / "f001.png").write_bytes(good)
    outcome = preprocess(request(films))
    assert [row.status for row in outcome.rows] == [DONE, DONE]
    assert outcome.new == 1


def test_dedupe_drops_restores_and_follows_the_original(make_films: Callable[..., Path]) -> None:
    films = make_films(3)
    shutil.copy(films / "f000.png", films / "copy.png")
    assert preprocess(request(films)).dataset.counts["duplicates"] == 1  # type: ignore[union-attr]
    outcome = preprocess(request(films, dedupe=True))
    assert {row.path: row.status for row in outcome.rows}["f000.png"] == DUPLICATE
    assert not (OUT / "images" / "f000.png").exists()
    assert preprocess(request(films, dedupe=True)).new == 0
    (films / "copy.png").unlink()
    assert [row.status for row in preprocess(request(films, dedupe=True)).rows] == [DONE] * 3
    assert (OUT / "images" / "f000.png").exists()


def test_parts_of_an_array_and_the_merging_call(make_films: Callable[..., Path]) -> None:
    films = make_films(20)
    preprocess(request(films))
    whole = contents(OUT)
    shutil.rmtree(OUT)
    done = [preprocess(request(films, shard=(part, 3))) for part in (3, 1)]
    assert all(outcome.dataset is None for outcome in done)
    assert not read_dataset(OUT).complete
    assert not (OUT / "manifest.csv").exists()
    with folder_lock(OUT, "a part", shared=True):
        assert preprocess(request(films, shard=(2, 3))).dataset is None
        with pytest.raises(Locked):
            preprocess(request(films))
    merged = preprocess(request(films))
    assert merged.new == 0
    assert contents(OUT) == whole


def test_a_missing_part_is_done_by_the_merging_call(make_films: Callable[..., Path]) -> None:
    films = make_films(20)
    part = preprocess(request(films, shard=(1, 2)))
    assert preprocess(request(films)).new == 20 - len(part.rows)


def test_a_part_runs_once_at_a_time(make_films: Callable[..., Path]) -> None:
    films = make_films(4)
    preprocess(request(films, shard=(1, 2)))
    with folder_lock(OUT / ".parts", "a part", name="1-of-2.lock"):
        with pytest.raises(Locked, match="process"):
            preprocess(request(films, shard=(1, 2)))
        preprocess(request(films, shard=(2, 2)))


def _kill_loop(films: Path, kills: int, kill_until: Callable[..., None]) -> None:
    """P1: kill at random moments; whatever is there is whole, and the originals are as they were."""
    originals = contents(films)
    preprocess(request(films, workers=1))
    clean, images = contents(OUT), {path.name: path.read_bytes() for path in (OUT / "images").iterdir()}
    shutil.rmtree(OUT)

    def work() -> int:
        try:
            preprocess(request(films, workers=1))
        except Locked:  # the last worker of the one killed before is still on its way out
            return 6
        return 0

    def check(code: int) -> None:
        for path in OUT.glob("images/*"):
            assert path.read_bytes() == images[path.name]
        if (OUT / "manifest.csv").exists():
            assert hashlib.sha256((OUT / "manifest.csv").read_bytes()).hexdigest() == clean["manifest.csv"]
        if code == 0:
            assert contents(OUT) == clean
            shutil.rmtree(OUT)

    kill_until(work, kills, within=0.12, after_each=check)
    time.sleep(0.2)
    preprocess(request(films, workers=1))
    assert contents(OUT) == clean
    assert contents(films) == originals


def test_p1_twenty_kills(make_films: Callable[..., Path], kill_until: Callable[..., None]) -> None:
    _kill_loop(make_films(40, size=96), 20, kill_until)


@pytest.mark.skipif("SCARCE_LONG" not in os.environ, reason="most of a minute: set SCARCE_LONG=1")
def test_p1_two_hundred_kills(make_films: Callable[..., Path], kill_until: Callable[..., None]) -> None:
    _kill_loop(make_films(40, size=96), 200, kill_until)


@pytest.mark.parametrize("point", ["image.pre_rename", "manifest.pre_rename", "dataset.pre_rename"])
def test_p1_killed_at_each_named_point(
    make_films: Callable[..., Path], in_child: Callable[..., int], point: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    films = make_films(6)
    preprocess(request(films))
    clean = contents(OUT)
    shutil.rmtree(OUT)
    for count in (1, 2):
        monkeypatch.setenv("SCARCE_FAULT", f"{point}:{count}:kill")
        in_child(lambda: preprocess(request(films)) and None)
        monkeypatch.delenv("SCARCE_FAULT")
        preprocess(request(films))
        assert contents(OUT) == clean
        shutil.rmtree(OUT)


@pytest.mark.parametrize(("signal", "code"), [(KeyboardInterrupt, 130), (Terminated, 143)])
def test_p2_a_signal_ends_with_one_line_and_keeps_what_is_done(
    make_films: Callable[..., Path], signal: type[KeyboardInterrupt], code: int
) -> None:
    films = make_films(40)

    def stop(done: int, total: int, bad: int) -> None:
        if done >= 20:
            raise signal

    with pytest.raises(Interrupted, match=r"stopped: \d+ of 40 films done") as error:
        preprocess(request(films), stop)
    assert error.value.exit_code == code
    assert "run the same command again" in error.value.remedy
    assert not multiprocessing.active_children()
    assert 0 < preprocess(request(films)).new <= 20


def test_p3_p9_bad_files_are_skipped_and_listed(make_films: Callable[..., Path]) -> None:
    films = make_films(3)
    good = (films / "f000.png").read_bytes()
    (films / "empty.png").touch()
    (films / "text.png").write_text("I am not a film\n")
    (films / "cut.png").write_bytes(good[: len(good) // 2])
    (films / "fits.png").write_bytes(b"SIMPLE  =                    T" + b" " * 3000)
    (films / "lfs.png").write_text("version https://git-lfs.github.com/spec/v1\n")
    Image.open(films / "f001.png").save(films / "jpeg_named.png", "JPEG", quality=50)
    outcome = preprocess(request(films))
    reasons = {row.path: row.reason for row in outcome.rows if row.status == SKIPPED}
    assert reasons["empty.png"] == "the file is empty"
    assert "neither PNG" in reasons["text.png"]
    assert reasons["cut.png"] == "truncated PNG"
    assert "FITS" in reasons["fits.png"]
    assert "git lfs pull" in reasons["lfs.png"]
    assert {row.path: row.format for row in outcome.rows}["jpeg_named.png"] == "JPEG"
    listed = (OUT / "bad_files.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in listed] == [
        "path",
        "cut.png",
        "empty.png",
        "fits.png",
        "lfs.png",
        "text.png",
    ]
    with pytest.raises(TooManyBadFiles, match=r"5 of 9 .*\(55\.56%, allowed 0\.10%\)"):
        check_bad(outcome.rows, OUT, 0.001)
    check_bad(outcome.rows, OUT, 0.6)


def _misbehaving(monkeypatch: pytest.MonkeyPatch, what: Callable[[], None]) -> None:

    monkeypatch.setattr(worker, "decode", lambda data: what() if data == b"evil" else decode(data))


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        (lambda: os.kill(os.getpid(), 9), "crashed"),
        (lambda: (faulthandler.disable(), os.abort()), "crashed"),
        (lambda: time.sleep(99), "longer than 0.5 s"),
    ],
)
def test_p5_a_decoder_that_crashes_or_hangs_costs_its_file(
    make_films: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, what: Callable[[], None], reason: str
) -> None:
    films = make_films(8)
    (films / "f003.png").write_bytes(b"evil")
    _misbehaving(monkeypatch, what)
    outcome = preprocess(request(films, patience=0.5))
    assert [row.path for row in outcome.rows if row.status == SKIPPED] == ["f003.png"]
    assert reason in outcome.rows[3].reason


def test_p6_a_bomb_takes_no_memory(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.new("L", (8, 8)).save(buffer, "PNG")
    data = bytearray(buffer.getvalue())
    data[16:24] = struct.pack(">II", 100_000, 100_000)
    import zlib

    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    (tmp_path / "bomb.png").write_bytes(data)
    code = (
        "import pathlib\n"
        "from scarce_cli.data.bad_film import BadFilm\n"
        "from scarce_cli.data.decode import decode\n"
        "try: decode(pathlib.Path('bomb.png').read_bytes())\n"
        "except BadFilm as error:\n"
        "    lines = pathlib.Path('/proc/self/status').read_text().split('\\n')\n"
        "    print([int(line.split()[1]) // 1024 for line in lines if line.startswith('VmHWM')][0], error)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True
    ).stdout
    assert int(out.split()[0]) < 500
    assert "more than 64 megapixels" in out


def test_p10_constant_and_float_films_are_defined(make_films: Callable[..., Path]) -> None:
    films = make_films(1)
    Image.fromarray(np.full((40, 40), 9, np.uint8)).save(films / "flat.png")
    Image.fromarray(np.full((40, 40), np.nan, np.float32)).save(films / "nan.tif")
    Image.fromarray(np.linspace(-5, 5, 1600, dtype=np.float32).reshape(40, 40)).save(films / "float.tif")
    rows = {row.path: row for row in preprocess(request(films)).rows}
    assert rows["flat.png"].suspicion == "no contrast"
    assert rows["nan.tif"].reason == "no finite pixel"
    assert (rows["float.tif"].mode, rows["float.tif"].bits) == ("F", 32)
    assert (rows["float.tif"].low, rows["float.tif"].high) == (
        pytest.approx(-4.95, abs=0.01),
        pytest.approx(4.95, abs=0.01),
    )


def test_p11_a_full_disk_keeps_what_is_done(make_films: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    films = make_films(40)
    monkeypatch.setenv("SCARCE_FAULT", "image.pre_rename:12:enospc")
    monkeypatch.setattr("scarce_cli.data.preprocess.free_bytes", lambda folder: 10)
    with pytest.raises(ResourceError, match=r"disk is full.*need about 0\.\d MiB, 0\.0 MiB are free"):
        preprocess(request(films, workers=1))
    monkeypatch.delenv("SCARCE_FAULT")
    assert 11 <= len(list((OUT / "images").iterdir())) < 40  # the worker may begin its next chunk
    assert 0 < preprocess(request(films)).new < 40


def _unshared() -> bool:
    return shutil.which("unshare") is not None and subprocess.run(
        ["unshare", "-rm", "true"], capture_output=True, check=False
    ).returncode == 0  # fmt: skip


@pytest.mark.skipif(not _unshared(), reason="needs a private mount namespace")
def test_p11_on_a_disk_that_really_is_full(make_films: Callable[..., Path], tmp_path: Path) -> None:
    films = make_films(60, size=256)
    (tmp_path / "disk").mkdir()
    script = (
        f"mount -t tmpfs -o size=1m tmpfs disk && {sys.executable} -m scarce_cli preprocess "
        f"--src {films} --size 256 --out disk/out; echo code $?; ls disk/out/images | wc -l; ls -A disk/out/.work"
    )
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
    assert lines[0] == "code 8", done.stderr
    assert int(lines[1]) > 5
    assert "disk is full" in done.stderr
    assert "MiB are free" in done.stderr


def test_p12_unreadable_file_is_skipped_and_read_only_output_refused(
    make_films: Callable[..., Path], in_child: Callable[..., int]
) -> None:
    with tempfile.TemporaryDirectory() as place:
        films = Path(shutil.copytree(make_films(3), Path(place) / "films"))
        (films / "f001.png").chmod(0)
        (Path(place) / "read_only").mkdir(mode=0o555)
        (Path(place) / "writable").mkdir(mode=0o777)
        for folder in (Path(place), films, Path(place) / "writable"):
            folder.chmod(0o777)

        def skips() -> int:
            rows = preprocess(Request(films, Path(place) / "writable" / "out", Settings(32), workers=1)).rows
            return 0 if [row.reason for row in rows] == ["", "cannot be read: Permission denied", ""] else 3

        def refuses() -> int:
            try:
                preprocess(Request(films, Path(place) / "read_only" / "out", Settings(32), workers=1))
            except ResourceError as error:
                return error.exit_code
            return 0

        assert in_child(skips, user=65534) == 0
        assert in_child(refuses, user=65534) == 8


def test_p14_names_of_every_kind(tmp_path: Path) -> None:
    films = tmp_path / "films ü"
    films.mkdir()
    names = ["ü ñ.png", "line\nbreak.png", os.fsdecode(b"latin\xe9.png"), "-dash.png", "a" * 200 + ".png"]
    for number, name in enumerate(names):
        Image.fromarray(np.random.default_rng(number).integers(0, 256, (40, 40), np.uint8)).save(tmp_path / "x.png")
        os.rename(tmp_path / "x.png", films / name)
    assert sorted(row.path for row in preprocess(request(films)).rows if row.status == DONE) == sorted(names)
    assert preprocess(request(films)).new == 0
    assert {os.fsdecode(name) for name in os.listdir(os.fsencode(OUT / "images"))} == set(names)


def test_p14_a_name_too_long_for_the_output_is_skipped(tmp_path: Path, make_films: Callable[..., Path]) -> None:
    films = make_films(1)
    Image.open(films / "f000.png").save(tmp_path / "x.jpg")
    os.rename(tmp_path / "x.jpg", films / ("b" * 250 + ".jpg"))
    rows = preprocess(request(films)).rows
    assert [row.reason for row in rows] == ["its name is too long for the prepared film's", ""]


def test_p15_two_sources_for_one_output(make_films: Callable[..., Path]) -> None:
    films = make_films(1)
    image = Image.open(films / "f000.png")
    image.save(films / "a.jpg")
    image.save(films / "a.jpg.png")
    with pytest.raises(UsageError, match=r"a\.jpg' and 'a\.jpg\.png'"):
        preprocess(request(films))
    assert not OUT.exists()


def test_p16_other_settings_are_refused_by_name(make_films: Callable[..., Path]) -> None:
    films = make_films(2)
    preprocess(request(films))
    before = contents(OUT)
    with pytest.raises(UsageError, match="fit pad there, crop now") as error:
        preprocess(Request(films, OUT, Settings(32, fit="crop")))
    assert "--out" in error.value.remedy
    assert contents(OUT) == before


@pytest.mark.parametrize("out", [".", "inside", ".."])
def test_p17_output_and_source_must_lie_apart(make_films: Callable[..., Path], out: str) -> None:
    films = make_films(2)
    before = contents(films)
    with pytest.raises(UsageError, match="inside one another"):
        preprocess(Request(films, films / out, Settings(32)))
    (films.parent / "link").symlink_to(films)
    with pytest.raises(UsageError, match="inside one another"):
        preprocess(Request(films, films.parent / "link", Settings(32)))
    assert contents(films) == before


def test_an_output_folder_that_is_something_else_is_left_alone(make_films: Callable[..., Path]) -> None:
    films = make_films(1)
    OUT.write_text("a file")
    with pytest.raises(ResourceError, match="prepared"):
        preprocess(request(films))
    assert OUT.read_text() == "a file"


def test_an_error_of_the_disk_that_is_not_fullness(
    make_films: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(source: object, target: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    films = make_films(2)
    monkeypatch.setattr(worker.os, "replace", broken)
    with pytest.raises(ResourceError, match="Input/output error"):
        preprocess(request(films))


@pytest.mark.cxr
def test_the_odd_files_all_have_their_reason(cxr: Path) -> None:
    pytest.importorskip("pydicom")
    outcome: Outcome = preprocess(Request(cxr / "odd", OUT, Settings(96), workers=2))
    rows = {row.path: row for row in outcome.rows}
    assert sum(row.status == DONE for row in outcome.rows) == 31
    on_side = {path for path, row in rows.items() if row.suspicion == "on its side"}
    assert on_side == {path for path in rows if path.startswith("rotated90")}
    assert rows["png16_RG1_raw_mono1.png"].suspicion == "inverted"
    assert rows["gdcm-CR-MONO1-10-chest.dcm"].duplicate_of == "CR-MONO1-10-chest"
    assert rows["RG1_JLSN.dcm"].near_duplicate_of == "RG1_J2KI.dcm"

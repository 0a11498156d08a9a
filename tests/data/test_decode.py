"""Decoding by content: kinds, modes, orientation, bits, and what is refused with which reason."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from scarce_cli.data.bad_film import BadFilm
from scarce_cli.data.decode import decode, finite, luma, sniff, upright


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def grey(seed: int = 0, shape: tuple[int, int] = (24, 40)) -> Image.Image:
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    noise = np.random.default_rng(seed).integers(0, 20, shape)
    return Image.fromarray((rows * 3 + columns * 2 + noise).astype(np.uint8))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"SIMPLE  =                    T", "FITS"),
        (b"version https://git-lfs.github.com/spec/v1", "Git LFS"),
        (b"just some text", "neither PNG, JPEG, TIFF nor DICOM"),
        (b"GIF89a....", "GIF"),
        (b"<html>", "HTML"),
        (b"\0" * 200, "neither"),
    ],
)
def test_what_is_no_film_says_what_it_is(data: bytes, reason: str) -> None:
    with pytest.raises(BadFilm, match=reason):
        sniff(data)


def test_jpeg_in_colour_gives_its_own_luma() -> None:
    image = grey().convert("RGB")
    data = saved(image, "JPEG", quality=95)
    film = decode(data)
    with Image.open(io.BytesIO(data)) as again:
        reference = np.asarray(again.convert("RGB")).astype(float) @ [0.299, 0.587, 0.114]
    assert (film.format, film.mode, film.bits) == ("JPEG", "RGB", 8)
    assert np.abs(film.pixels - reference).max() <= 1


def test_cmyk_jpeg_is_neither_inverted_nor_lost() -> None:
    film = decode(saved(grey().convert("CMYK"), "JPEG", quality=98))
    assert film.mode == "CMYK"
    assert np.abs(film.pixels.astype(float) - np.asarray(grey(), dtype=float)).mean() < 4


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_as_the_image_library_applies_it(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = saved(grey(), "JPEG", exif=exif)
    with Image.open(io.BytesIO(data)) as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
    assert np.array_equal(decode(data).pixels, expected)
    with Image.open(io.BytesIO(saved(grey(), "PNG", exif=exif))) as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
    assert np.array_equal(decode(saved(grey(), "PNG", exif=exif)).pixels, expected)


def test_upright_of_a_corner() -> None:
    stored = np.array([[1, 2], [3, 4], [5, 6]])
    assert upright(stored, 6).tolist() == [[5, 3, 1], [6, 4, 2]]
    assert upright(stored, 8).tolist() == [[2, 4, 6], [1, 3, 5]]


def test_a_broken_exif_block_costs_nothing() -> None:
    film = decode(saved(grey(), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff"))
    assert film.pixels.shape == (24, 40)


@pytest.mark.parametrize(
    ("dtype", "expected"), [(np.uint16, np.uint16), (np.int32, np.float32), (np.float32, np.float32)]
)
def test_tiff_keeps_every_value(dtype: type, expected: type) -> None:
    values = np.random.default_rng(0).integers(0, 60000, (9, 13)).astype(dtype)
    if np.dtype(dtype).kind != "u":
        values -= 30000
    film = decode(saved(Image.fromarray(values), "TIFF"))
    assert film.pixels.dtype == expected
    assert np.array_equal(film.pixels, values)


def test_tiff_white_is_zero_is_turned_in_16_bits_as_in_8() -> None:
    values = np.random.default_rng(0).integers(0, 60000, (9, 13), np.uint16)
    film = decode(_with_tag(saved(Image.fromarray(values), "TIFF"), 262, 0))
    assert np.array_equal(film.pixels, values.max() - values)


def test_tiff_unsigned_32_bit_is_not_negative() -> None:
    values = np.array([[0, 2**31, 2**32 - 1]], np.uint32)
    data = _with_tag(saved(Image.fromarray(values.view(np.int32)), "TIFF"), 339, 1)
    assert np.array_equal(decode(data).pixels, values.astype(np.float64))


def _with_tag(data: bytes, tag: int, value: int) -> bytes:
    """A little-endian TIFF with one SHORT tag overwritten."""
    start = struct.unpack_from("<I", data, 4)[0]
    count = struct.unpack_from("<H", data, start)[0]
    changed = bytearray(data)
    for entry in range(start + 2, start + 2 + 12 * count, 12):
        if struct.unpack_from("<H", data, entry)[0] == tag:
            struct.pack_into("<I", changed, entry + 8, value)
            return bytes(changed)
    raise AssertionError("no such tag")


def test_tiff_with_several_frames_is_refused() -> None:
    data = saved(grey(), "TIFF", save_all=True, append_images=[grey(1)])
    with pytest.raises(BadFilm, match="several frames"):
        decode(data)


@pytest.mark.parametrize(("kind", "offsets"), [("JPEG", b"\xff\xc0\x00\x11\x08")])
def test_a_jpeg_bomb_is_refused_by_what_it_declares(kind: str, offsets: bytes) -> None:
    data = bytearray(saved(grey().convert("RGB"), kind))
    at = data.index(offsets) + len(offsets)
    data[at : at + 4] = struct.pack(">HH", 60000, 60000)
    with pytest.raises(BadFilm, match="more than 64 megapixels"):
        decode(bytes(data))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
def test_500_mutants_are_decoded_or_refused_and_nothing_else(kind: str) -> None:
    rng = np.random.default_rng(7)
    data = saved(grey(), kind)
    refused = 0
    for _ in range(500):
        mutant = bytearray(data)
        if rng.random() < 0.3:
            del mutant[int(rng.integers(1, len(data))) :]
        else:
            mutant[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
        if bytes(mutant) == data:
            continue
        try:
            film = decode(bytes(mutant))
        except BadFilm:
            refused += 1
            continue
        assert np.isfinite(film.pixels).all()
        assert film.format != "PNG"  # every change of a PNG is noticed by its checksums
    assert refused > 100


def test_finite_float_pixels() -> None:
    values = np.array([[np.nan, 1.0, -2.0, np.inf, -np.inf]], np.float32)
    assert finite(values).tolist() == [[-2.0, 1.0, -2.0, 1.0, -2.0]]
    with pytest.raises(BadFilm, match="no finite"):
        finite(np.full((2, 2), np.nan, np.float32))
    assert finite(np.array([[2**24 + 1, 0]], np.int32)).tolist() == [[2**24 + 1, 0]]


def test_luma_of_colour_has_no_rounding() -> None:
    colour = np.random.default_rng(0).integers(0, 65536, (5, 6, 3), np.uint16)
    assert np.allclose(luma(colour), colour @ np.array([0.299, 0.587, 0.114]), rtol=1e-6)


BAD_ODD = {
    "dicom_no_pixels_chrJapMulti.dcm": "without pixels",
    "empty.png": "empty",
    "git_lfs_pointer_nih_00009866_001.png": "Git LFS",
    "truncated.dcm": "damaged DICOM",
    "truncated.jpeg": "truncated",
    "truncated.png": "truncated",
}


@pytest.mark.cxr
def test_the_odd_files_are_decoded_or_refused_with_the_right_reason(cxr: Path) -> None:
    pytest.importorskip("pydicom")
    good = []
    for path in sorted(path for path in (cxr / "odd").iterdir() if path.suffix != ".csv"):
        if path.name in BAD_ODD:
            with pytest.raises(BadFilm, match=BAD_ODD[path.name]):
                decode(path.read_bytes())
        else:
            good.append(decode(path.read_bytes()))
    assert len(good) == 37 - len(BAD_ODD)
    assert sum(film.monochrome1 for film in good) == 5


@pytest.mark.cxr
def test_the_same_film_in_other_clothes_gives_the_same_grey(cxr: Path) -> None:
    pytest.importorskip("pydicom")
    odd = cxr / "odd"
    bare, proper = (
        decode((odd / name).read_bytes()).pixels for name in ("CR-MONO1-10-chest", "gdcm-CR-MONO1-10-chest.dcm")
    )
    assert np.array_equal(bare, proper)
    grey_alpha = decode((odd / "la_nih_00000317_003.png").read_bytes()).pixels.astype(float)
    for name in ("cmyk_nih_00000317_003.jpg", "exif_orientation6_nih_00000317_003.jpg", "jpeg_named.png"):
        assert np.abs(decode((odd / name).read_bytes()).pixels - grey_alpha).mean() < 3

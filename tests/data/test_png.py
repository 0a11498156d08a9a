"""PNG against the image library, and against an encoder of our own that uses every row filter."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from scarce_cli.data.bad_film import BadFilm
from scarce_cli.data.decode import decode_png
from scarce_cli.data.png import SIGNATURE, decode_16_bit, read_png, unfilter


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def encode(pixels: np.ndarray, colour: int, filters: list[int], *extra: bytes) -> bytes:
    """A PNG of (H, W, C) uint8 or uint16 with the given filter per row, pixel by pixel as the standard says."""
    height, width, channels = pixels.shape
    depth = pixels.dtype.itemsize * 8
    raw = pixels.astype(pixels.dtype.newbyteorder(">")).view(np.uint8).reshape(height, -1).astype(int)
    step, rows = channels * depth // 8, []
    for y in range(height):
        row = [filters[y % len(filters)]]
        for x in range(raw.shape[1]):
            left = raw[y, x - step] if x >= step else 0
            up = raw[y - 1, x] if y else 0
            corner = raw[y - 1, x - step] if y and x >= step else 0
            estimate = left + up - corner
            paeth = min((left, up, corner), key=lambda value, e=estimate: abs(e - value))
            row.append(int(raw[y, x] - (0, left, up, (left + up) // 2, paeth)[row[0]]) % 256)
        rows.append(bytes(row))
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    data = zlib.compress(b"".join(rows))
    return SIGNATURE + b"".join((_chunk(b"IHDR", header), *extra, _chunk(b"IDAT", data), _chunk(b"IEND", b"")))


@pytest.mark.parametrize(("colour", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_every_filter_and_colour_type(colour: int, channels: int, dtype: type) -> None:
    pixels = np.random.default_rng(colour).integers(0, np.iinfo(dtype).max + 1, (11, 7, channels), dtype)
    film = decode_png(encode(pixels, colour, [0, 1, 2, 3, 4]))
    if colour in (0, 4):
        assert np.array_equal(film.pixels, pixels[..., 0])
    else:
        assert np.allclose(film.pixels, pixels[..., :3] @ np.array([0.299, 0.587, 0.114]), rtol=1e-6)
    assert film.bits == np.dtype(dtype).itemsize * 8


def test_16_bit_grey_with_alpha_keeps_all_bits_where_the_library_keeps_eight() -> None:
    pixels = np.arange(2 * 4096, dtype=np.uint16).reshape(1, 4096, 2)
    data = encode(pixels, 4, [4])
    assert len(np.unique(decode_png(data).pixels)) == 4096
    with Image.open(io.BytesIO(data)) as image:
        assert len(np.unique(np.asarray(image.getchannel(0)))) < 64


@pytest.mark.parametrize("mode", ["L", "1", "LA", "P", "RGB", "RGBA", "I;16"])
def test_what_the_library_writes_is_read_as_the_library_reads_it(mode: str) -> None:
    rng = np.random.default_rng(1)
    grey = Image.fromarray(rng.integers(0, 256, (37, 53), np.uint8))
    image = Image.fromarray(rng.integers(0, 65536, (37, 53), np.uint16)) if mode == "I;16" else grey.convert(mode)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    expected = np.asarray(image if mode == "I;16" else image.convert("L"))
    assert np.array_equal(decode_png(buffer.getvalue()).pixels, expected)


def test_colour_channels_that_are_equal_are_not_rounded_on_the_way() -> None:
    grey = np.random.default_rng(2).integers(0, 256, (9, 9, 1), np.uint8)
    film = decode_png(encode(np.repeat(grey, 3, axis=2), 2, [4]))
    assert film.pixels.dtype == np.uint8
    assert np.array_equal(film.pixels, grey[..., 0])


def test_large_image_needs_several_stored_blocks() -> None:
    pixels = np.random.default_rng(3).integers(0, 256, (300, 700, 1), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels[..., 0]).save(buffer, "PNG")
    assert np.array_equal(decode_png(buffer.getvalue()).pixels, pixels[..., 0])


def test_unfilter_is_the_inverse_of_each_filter_alone() -> None:
    pixels = np.random.default_rng(4).integers(0, 256, (6, 5, 2), np.uint8)
    for kind in range(5):
        png = read_png(encode(pixels, 4, [kind]))
        rows = np.frombuffer(zlib.decompress(png.data), np.uint8).reshape(6, 11)
        assert np.array_equal(unfilter(rows[:, 0], rows[:, 1:].reshape(6, 5, 2)), pixels)


def test_every_single_flipped_byte_is_noticed() -> None:
    data = encode(np.arange(64, dtype=np.uint8).reshape(8, 8, 1), 0, [4])
    for position in range(len(data)):
        mutant = bytearray(data)
        mutant[position] ^= 0x10
        if mutant[:8] == SIGNATURE:
            with pytest.raises(BadFilm):
                decode_png(bytes(mutant))


def test_every_truncation_is_noticed() -> None:
    data = encode(np.arange(64, dtype=np.uint8).reshape(8, 8, 1), 0, [4])
    for length in range(8, len(data)):
        with pytest.raises(BadFilm, match=r"truncated|checksum"):
            decode_png(data[:length])


def test_a_bomb_is_refused_by_what_it_declares() -> None:
    header = struct.pack(">IIBBBBB", 60000, 60000, 16, 6, 0, 0, 0)
    data = SIGNATURE + _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(b"")) + _chunk(b"IEND", b"")
    with pytest.raises(BadFilm, match="60000 x 60000: more than 64 megapixels"):
        decode_png(data)


def test_more_data_than_declared_is_refused_without_inflating_it() -> None:
    header = struct.pack(">IIBBBBB", 8, 8, 8, 0, 0, 0, 0)
    bomb = zlib.compress(bytes(50_000_000))
    data = SIGNATURE + _chunk(b"IHDR", header) + _chunk(b"IDAT", bomb) + _chunk(b"IEND", b"")
    with pytest.raises(BadFilm, match="cannot be inflated"):
        decode_png(data)


def test_an_animation_is_refused() -> None:
    frames = _chunk(b"acTL", struct.pack(">II", 2, 0))
    data = encode(np.zeros((4, 4, 1), np.uint8), 0, [0], frames)
    with pytest.raises(BadFilm, match="several frames"):
        decode_png(data)


def test_a_filter_that_does_not_exist_is_refused() -> None:
    data = encode(np.zeros((2, 2, 2), np.uint16), 4, [0])
    png = read_png(data)
    raw = bytearray(zlib.decompress(png.data))
    raw[0] = 9
    forged = data.replace(_chunk(b"IDAT", png.data), _chunk(b"IDAT", zlib.compress(bytes(raw))))
    with pytest.raises(BadFilm, match="row filter"):
        decode_16_bit(read_png(forged))

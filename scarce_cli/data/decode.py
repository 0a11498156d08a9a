"""From a file's bytes to raw grey values, for PNG, JPEG, TIFF and DICOM.

The kind of file is taken from its first bytes, never from its name, and only the decoder for that kind is
asked. Nothing is scaled or rounded here: the values are the ones stored (colour becomes luma in float).
"""

from __future__ import annotations

import io
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

MAX_PIXELS = 64 * 10**6
LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601

_PNG = b"\x89PNG\r\n\x1a\n"
_OTHERS = (
    (b"version https://git-lfs", "a Git LFS pointer, not the film itself: run `git lfs pull`"),
    (b"SIMPLE  =", "a FITS file"),
    (b"GIF8", "a GIF file"),
    (b"BM", "a BMP file"),
    (b"\x00\x00\x00\x0cjP  ", "a bare JPEG 2000 file"),
    (b"\xff\x4f\xff\x51", "a bare JPEG 2000 stream"),
    (b"\x1f\x8b", "a gzip file"),
    (b"PK\x03\x04", "a zip file"),
    (b"%PDF", "a PDF file"),
    (b"<", "an HTML or XML page"),
)


class BadFilm(Exception):
    """The file cannot be used; the message is the reason, without the file's name."""


@dataclass(frozen=True)
class Film:
    """One decoded film. ``pixels`` (H, W): uint8, uint16 or float32, finite; high values are bright."""

    pixels: npt.NDArray[Any]
    format: str
    mode: str
    bits: int
    monochrome1: bool = False


def sniff(data: bytes) -> str:
    """``PNG``, ``JPEG``, ``TIFF`` or ``DICOM`` by content; BadFilm with what it is instead."""
    if not data:
        raise BadFilm("the file is empty")
    if data.startswith(_PNG):
        return "PNG"
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return "TIFF"
    if data[128:132] == b"DICM" or _looks_like_bare_dicom(data):
        return "DICOM"
    for start, what in _OTHERS:
        if data.startswith(start):
            raise BadFilm(f"not a film: {what}")
    raise BadFilm("not a film: neither PNG, JPEG, TIFF nor DICOM")


def _looks_like_bare_dicom(data: bytes) -> bool:
    """DICOM without preamble: it opens with an element of group 2 or 8 in little-endian order."""
    if len(data) < 16 or data[:2] not in (b"\x02\x00", b"\x08\x00") or data[3] != 0:
        return False
    explicit = data[4:6].isalpha() and data[4:6].isupper()
    implicit_length = int.from_bytes(data[4:8], "little")
    return explicit or implicit_length < min(len(data), 1024)


def decode(data: bytes) -> Film:
    """Decode the bytes of one file. Raises BadFilm with the reason for whatever cannot be used."""
    kind = sniff(data)
    if kind == "DICOM":
        from scarce_cli.data.dicom import decode_dicom

        return decode_dicom(data)
    if kind == "PNG":
        check_png(data)
    try:
        return _decode_image(data, kind)
    except (BadFilm, KeyboardInterrupt):
        raise
    except MemoryError:
        raise BadFilm("not enough memory to decode it") from None
    except Exception as error:  # decoders raise many kinds on damaged files
        raise BadFilm(f"damaged {kind}: {error}") from error


def check_png(data: bytes) -> None:
    """Walk the chunks of a PNG: all there, checksums right. The decoder itself passes over flipped bits."""
    position, view = len(_PNG), memoryview(data)
    while True:
        if position + 12 > len(data):
            raise BadFilm("truncated PNG")
        length = int.from_bytes(view[position : position + 4], "big")
        end = position + 8 + length
        if end + 4 > len(data):
            raise BadFilm("truncated PNG")
        if zlib.crc32(view[position + 4 : end]) != int.from_bytes(view[end : end + 4], "big"):
            raise BadFilm("damaged PNG: a checksum is wrong")
        if view[position + 4 : position + 8] == b"IEND":
            return
        position = end + 4


def check_pixels(width: int, height: int) -> None:
    """Refuse empty images and bombs by their declared size, before memory is taken for pixels."""
    if width < 1 or height < 1:
        raise BadFilm(f"declared size {width} x {height}: no pixels")
    if width * height > MAX_PIXELS:
        raise BadFilm(f"declared size {width} x {height}: more than {MAX_PIXELS // 10**6} megapixels")


def _decode_image(data: bytes, kind: str) -> Film:
    Image.MAX_IMAGE_PIXELS = (
        None  # check_pixels is ours: same limit for every format, an error and no warning
    )
    with Image.open(io.BytesIO(data), formats=[kind]) as image:
        check_pixels(*image.size)
        if getattr(image, "n_frames", 1) > 1 and kind != "JPEG":
            raise BadFilm("several frames in one file")
        mode, orientation = image.mode, image.getexif().get(0x0112, 1) if kind == "JPEG" else 1
        pixels = _grey(image)
    bits = {"1": 1, "I": 32, "F": 32}.get(mode, 16 if mode.startswith("I;16") else 8)
    return Film(np.ascontiguousarray(upright(pixels, orientation)), kind, mode, bits)


def _grey(image: Image.Image) -> npt.NDArray[Any]:
    """Stored grey values, alpha ignored; colour as luma."""
    if image.mode in ("1", "L"):
        return np.asarray(image.convert("L") if image.mode == "1" else image)
    if image.mode in ("LA", "La"):
        return np.asarray(image.getchannel(0))
    if image.mode.startswith("I;16"):
        return np.asarray(image).astype(np.uint16, copy=False)
    if image.mode in ("I", "F"):
        return finite(np.asarray(image))
    colour = image if image.mode in ("RGB", "RGBA", "RGBX") else image.convert("RGB")
    return luma(np.asarray(colour)[..., :3])


def luma(colour: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """(H, W) from (H, W, 3): the red channel where all are equal (no rounding), else float32 luma."""
    red, green, blue = colour[..., 0], colour[..., 1], colour[..., 2]
    if np.array_equal(red, green) and np.array_equal(red, blue):
        return np.ascontiguousarray(red)
    return colour.astype(np.float32) @ LUMA


def finite(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Signed or float values as float32 without NaN or infinity: NaN becomes the lowest finite value."""
    raw = values.astype(np.float64)
    good = np.isfinite(raw)
    if not good.any():
        raise BadFilm("no finite pixel")
    low, high = float(raw[good].min()), float(raw[good].max())
    raw = np.nan_to_num(raw, nan=low, posinf=high, neginf=low)
    return (raw - low).astype(np.float32) + np.float32(0) if abs(low) > 2**24 else raw.astype(np.float32)


def upright(pixels: npt.NDArray[Any], orientation: int) -> npt.NDArray[Any]:
    """Turn stored pixels as the EXIF orientation (1 to 8) says they are meant to be seen."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.T
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels

"""From a file's bytes to raw grey values, for PNG, JPEG, TIFF and DICOM.

The kind of file is taken from its first bytes, never from its name, and only the decoder for that kind is
asked. Nothing is scaled or rounded here: the values are those stored; colour becomes luma.
"""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from scarce_cli.data.bad_film import BadFilm, check_pixels
from scarce_cli.data.png import SIGNATURE, as_stored, decode_16_bit, read_png

LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601, as JPEG has it
EXACT = float(1 << 24)  # float32 holds every whole number up to here

_ORIENTATION, _BITS, _PHOTOMETRIC, _SAMPLE_FORMAT = 0x0112, 258, 262, 339
_COLOUR_TYPES = {0: "L", 2: "RGB", 3: "P", 4: "LA", 6: "RGBA"}
_OTHERS = (
    (b"version https://git-lfs", "a Git LFS pointer, not the film itself (run: git lfs pull)"),
    (b"SIMPLE  =", "a FITS file"),
    (b"GIF8", "a GIF file"),
    (b"BM", "a BMP file"),
    (b"RIFF", "a WebP or other RIFF file"),
    (b"\x00\x00\x00\x0cjP  ", "a bare JPEG 2000 file"),
    (b"\xff\x4f\xff\x51", "a bare JPEG 2000 stream"),
    (b"\x1f\x8b", "a gzip file"),
    (b"PK\x03\x04", "a zip file"),
    (b"%PDF", "a PDF file"),
    (b"<", "an HTML or XML page"),
)

Image.MAX_IMAGE_PIXELS = None  # check_pixels is ours: one limit for every format, an error and not a warning


@dataclass(frozen=True)
class Film:
    """One decoded film. ``pixels`` (H, W): uint8, uint16, float32 or float64, finite; high values are bright.

    ``mode`` as the file has it (``RGBA``, ``I;16``, ``MONOCHROME1``), ``bits`` per stored sample.
    """

    pixels: npt.NDArray[Any]
    format: str
    mode: str
    bits: int
    monochrome1: bool = False


def decode(data: bytes) -> Film:
    """Decode the bytes of one file. Raises BadFilm with the reason for whatever cannot be used."""
    kind = sniff(data)
    try:
        if kind == "DICOM":
            from scarce_cli.data.dicom import decode_dicom

            return decode_dicom(data)
        return decode_png(data) if kind == "PNG" else _decode_other(data, kind)
    except BadFilm:
        raise
    except MemoryError:
        raise BadFilm("not enough memory to decode it") from None
    except Exception as error:  # decoders raise many kinds of errors on damaged files
        raise BadFilm(f"damaged {kind}: {error}") from error


def sniff(data: bytes) -> str:
    """``PNG``, ``JPEG``, ``TIFF`` or ``DICOM`` by content; BadFilm with what it is instead."""
    if not data:
        raise BadFilm("the file is empty")
    if data.startswith(SIGNATURE):
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
    return explicit or int.from_bytes(data[4:8], "little") < min(len(data), 1024)


def decode_png(data: bytes) -> Film:
    """A PNG of any colour type, all its bits kept. Raises BadFilm."""
    png = read_png(data)
    mode = _COLOUR_TYPES[png.colour]
    if png.depth == 16 and png.colour != 0:
        pixels = decode_16_bit(png)
        grey = pixels[..., 0] if png.colour == 4 else luma(pixels[..., :3])
        return Film(np.ascontiguousarray(grey), "PNG", f"{mode};16", 16)
    with Image.open(io.BytesIO(data if png.interlaced else as_stored(png)), formats=["PNG"]) as image:
        grey = upright(_grey(image), _orientation(image))
        mode = image.mode
    return Film(np.ascontiguousarray(grey), "PNG", mode, png.depth)


def _decode_other(data: bytes, kind: str) -> Film:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # untidy metadata is no reason to leave a film out
        with Image.open(io.BytesIO(data), formats=[kind]) as image:
            check_pixels(*image.size)
            return _tiff(image) if kind == "TIFF" else _jpeg(image)


def _jpeg(image: Image.Image) -> Film:
    """Colour JPEG stores luma by itself: it is taken as it is, without a way through RGB."""
    mode, orientation = image.mode, _orientation(image)
    if mode == "RGB":
        image.draft("L", image.size)
    return Film(np.ascontiguousarray(upright(_grey(image), orientation)), "JPEG", mode, 8)


def _orientation(image: Image.Image) -> int:
    """EXIF orientation, 1 (upright) where it is missing or unreadable."""
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # a broken EXIF block is no reason to leave a film out
        return 1


def _tiff(image: Any) -> Film:
    """The image library turns TIFF upright by itself, and inverts white-is-zero up to 8 bits only."""
    if getattr(image, "n_frames", 1) > 1:
        raise BadFilm("several frames in one file")
    mode, tags = image.mode, image.tag_v2
    bits = max(tags.get(_BITS, (1,)))
    if bits > 8 and mode not in ("I", "F") and not mode.startswith("I;16"):
        raise BadFilm(f"{bits}-bit colour TIFF: not supported, it would lose bits (convert it to grey)")
    pixels = _grey(image)
    if mode == "I" and bits == 32 and tags.get(_SAMPLE_FORMAT, (1,))[0] == 1:
        pixels = finite(np.asarray(image).view(np.uint32))
    if tags.get(_PHOTOMETRIC) == 0 and bits > 8:
        pixels = pixels.max() - pixels
    return Film(np.ascontiguousarray(pixels), "TIFF", mode, bits)


def _grey(image: Image.Image) -> npt.NDArray[Any]:
    """Stored grey values, alpha ignored; colour as luma."""
    if image.mode in ("L", "1"):
        return np.asarray(image.convert("L"))
    if image.mode in ("LA", "La"):
        return np.asarray(image.getchannel(0))
    if image.mode.startswith("I;16"):
        return np.asarray(image).astype(np.uint16, copy=False)
    if image.mode in ("I", "F"):
        return finite(np.asarray(image))
    colour = image if image.mode in ("RGB", "RGBA", "RGBX") else image.convert("RGB")
    return luma(np.asarray(colour)[..., :3])


def luma(colour: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """(H, W) from (H, W, 3): the red channel where all three are equal (no rounding), else float32 luma."""
    red, green, blue = (colour[..., channel] for channel in range(3))
    if np.array_equal(red, green) and np.array_equal(red, blue):
        return red
    grey = LUMA[0] * red
    grey += LUMA[1] * green
    grey += LUMA[2] * blue
    return grey.astype(np.float32)


def finite(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Signed or float values, without NaN (becomes the lowest finite value) and infinity (the extremes).

    float32 where that is exact, else float64. BadFilm when nothing is finite.
    """
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        good = values[np.isfinite(values)]
        if not good.size:
            raise BadFilm("no finite pixel")
        values = np.nan_to_num(values, nan=good.min(), posinf=good.max(), neginf=good.min())
    if values.dtype in (np.uint8, np.uint16, np.float32):
        return values
    whole = values.dtype.kind in "iu" and max(abs(int(values.min())), abs(int(values.max()))) <= EXACT
    return values.astype(np.float32 if whole else np.float64)


def upright(pixels: npt.NDArray[Any], orientation: int) -> npt.NDArray[Any]:
    """Turn stored pixels as the EXIF orientation (1 to 8) says they are meant to be seen."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.T
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels

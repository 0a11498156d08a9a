"""Grey values from DICOM: one frame of a projection X-ray (CR, DX). Needs the ``[dicom]`` extra.

No text of the header leaves this module: a reason names tags and kinds, never a value that could identify a
patient.
"""

from __future__ import annotations

import io
import warnings
from typing import Any

import numpy as np
import numpy.typing as npt

from scarce_cli.data.bad_film import BadFilm, check_pixels
from scarce_cli.data.decode import Film, finite, luma

# Modalities that are no projection X-rays. A missing or unknown one is let through.
_NOT_FILMS = frozenset(
    [
        "CT",
        "MR",
        "PT",
        "NM",
        "US",
        "SEG",
        "SR",
        "PR",
        "KO",
        "OCT",
        "OP",
        "OPT",
        "OPM",
        "ES",
        "ECG",
        "HD",
        "GM",
        "SM",
        "RTDOSE",
        "RTPLAN",
        "RTSTRUCT",
    ]
)
_DEFLATED = b"1.2.840.10008.1.2.1.99"
_COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_RCT", "YBR_ICT")


def decode_dicom(data: bytes) -> Film:
    """Modality LUT, then VOI LUT, then MONOCHROME1 inverted once. Raises BadFilm with the reason.

    ``pixels``: high values are bright, as on a viewer; stretched no further.
    """
    try:
        import pydicom
    except ImportError:
        raise BadFilm("DICOM needs an extra: pip install 'scarce[dicom]'") from None
    if _DEFLATED in data[:4096]:
        raise BadFilm("deflated DICOM: not supported")  # nothing limits what it would inflate to
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # headers are often untidy; what matters is checked below
            return _decode(pydicom.dcmread(io.BytesIO(data), force=True))
    except BadFilm:
        raise
    except MemoryError:
        raise BadFilm("not enough memory to decode it") from None
    except Exception as error:  # on damaged files pydicom and its codecs raise many kinds
        if "missing dependencies" in str(error):
            raise BadFilm("DICOM in a compression that needs an extra: pip install 'scarce[dicom]'") from None
        raise BadFilm(f"damaged DICOM ({type(error).__name__})") from None


def _decode(header: Any) -> Film:
    photometric = _check(header)
    raw = _stored_values(header)
    if photometric in _COLOUR:
        return Film(finite(luma(raw)), "DICOM", photometric, int(header.get("BitsStored", 8)))
    pixels = finite(_presented(raw, header))
    inverted = photometric == "MONOCHROME1"
    if inverted:
        pixels = pixels.max() - pixels
    return Film(pixels, "DICOM", photometric, int(header.get("BitsStored", 0) or 0), inverted)


def _check(header: Any) -> str:
    """The photometric interpretation, once everything that must be there is."""
    modality = str(header.get("Modality", ""))
    if modality in _NOT_FILMS:
        raise BadFilm(f"DICOM of modality {modality}: not a projection X-ray")
    if "PixelData" not in header:
        raise BadFilm("DICOM without pixels")
    if int(header.get("NumberOfFrames", 1) or 1) > 1:
        raise BadFilm("DICOM with several frames")
    check_pixels(int(header.get("Columns", 0) or 0), int(header.get("Rows", 0) or 0))
    photometric = str(header.get("PhotometricInterpretation", "") or "")
    if photometric not in ("MONOCHROME1", "MONOCHROME2", *_COLOUR):
        raise BadFilm("DICOM with a missing or unsupported photometric interpretation")
    return photometric


def _stored_values(header: Any) -> npt.NDArray[Any]:
    """Decompressed pixels; unsigned ones without the overlay bits that old devices kept above BitsStored."""
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    if "TransferSyntaxUID" not in header.file_meta:
        implicit, little = header.original_encoding
        explicit = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        header.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else explicit
    raw: npt.NDArray[Any] = header.pixel_array
    check_pixels(raw.shape[1], raw.shape[0])
    if raw.dtype.kind == "u" and raw.ndim == 2:
        raw = raw & raw.dtype.type((1 << int(header.BitsStored)) - 1)
    return raw


def _presented(raw: npt.NDArray[Any], header: Any) -> npt.NDArray[Any]:
    """Values after modality and VOI LUT. A VOI LUT that leaves one grey value only is a broken one: ignored.

    Pixels marked as padding (outside the detector) become the lowest value of the rest.
    """
    from pydicom.pixels import apply_modality_lut, apply_voi_lut

    modality = np.asarray(apply_modality_lut(raw, header))
    shown = np.asarray(apply_voi_lut(modality, header))
    if shown.min() == shown.max():
        shown = modality
    padding = header.get("PixelPaddingValue")
    if padding is not None:
        outside = raw == int(padding)
        if outside.any() and not outside.all():
            dark = shown[~outside].max() if _inverted(header) else shown[~outside].min()
            shown = np.where(outside, dark, shown)
    return shown


def _inverted(header: Any) -> bool:
    return str(header.get("PhotometricInterpretation")) == "MONOCHROME1"

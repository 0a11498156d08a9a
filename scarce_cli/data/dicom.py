"""Grey values from DICOM: one frame of CR or DX. Needs the ``[dicom]`` extra; imported only when one is met.

No text of the header leaves this module: a reason names tags and transfer syntaxes, never a value that could
identify a patient.
"""

from __future__ import annotations

import io
import warnings
from typing import Any

import numpy as np

from scarce_cli.data.decode import BadFilm, Film, check_pixels, finite, luma


def decode_dicom(data: bytes) -> Film:
    """Modality LUT, VOI LUT, MONOCHROME1 inverted once. Raises BadFilm with the reason."""
    try:
        import pydicom
    except ImportError:
        raise BadFilm("DICOM needs an extra: pip install 'scarce[dicom]'") from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # headers are often untidy; what matters is checked below
            return _decode(pydicom.dcmread(io.BytesIO(data), force=True))
    except BadFilm:
        raise
    except MemoryError:
        raise BadFilm("not enough memory to decode it") from None
    except Exception as error:  # on damaged files pydicom and its codecs raise many kinds
        raise BadFilm(f"damaged DICOM ({type(error).__name__})") from None


def _decode(data: Any) -> Film:
    from pydicom.pixels import apply_modality_lut, apply_voi_lut
    from pydicom.uid import ImplicitVRLittleEndian

    if "PixelData" not in data:
        raise BadFilm("DICOM without pixels")
    if int(data.get("NumberOfFrames", 1) or 1) > 1:
        raise BadFilm("DICOM with several frames")
    check_pixels(int(data.get("Columns", 0) or 0), int(data.get("Rows", 0) or 0))
    photometric = str(data.get("PhotometricInterpretation", ""))
    if photometric not in ("MONOCHROME1", "MONOCHROME2", "RGB", "YBR_FULL", "YBR_FULL_422"):
        raise BadFilm("DICOM with a missing or unsupported photometric interpretation")
    if "TransferSyntaxUID" not in data.file_meta:
        data.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    raw = data.pixel_array
    if raw.ndim == 3:
        pixels = finite(luma(raw))
    else:
        pixels = finite(np.asarray(apply_voi_lut(apply_modality_lut(raw, data), data)))
    if photometric == "MONOCHROME1":
        pixels = pixels.max() - pixels
    return Film(
        pixels, "DICOM", photometric, int(data.get("BitsStored", 0) or 0), photometric == "MONOCHROME1"
    )

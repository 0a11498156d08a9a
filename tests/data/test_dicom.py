"""DICOM made here, without any patient: presentation, refusals, mutants."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scarce_cli.data.bad_film import BadFilm
from scarce_cli.data.decode import decode

pydicom = pytest.importorskip("pydicom")


def make(pixels: np.ndarray, *, preamble: bool = True, **tags: Any) -> bytes:
    """A CR film with these stored values; a tag given as None is left out."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian

    header = Dataset()
    values = {
        "SOPClassUID": "1.2.840.10008.5.1.4.1.1.1",
        "SOPInstanceUID": "1.2.3",
        "PatientName": "Nobody^Secret",
        "PatientID": "SECRET-ID",
        "Modality": "CR",
        "Rows": pixels.shape[0],
        "Columns": pixels.shape[1],
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": pixels.dtype.itemsize * 8,
        "BitsStored": pixels.dtype.itemsize * 8,
        "HighBit": pixels.dtype.itemsize * 8 - 1,
        "PixelRepresentation": int(pixels.dtype.kind == "i"),
        **tags,
    }
    for name, value in values.items():
        if value is not None:
            setattr(header, name, value)
    if "PixelData" not in tags:
        header.PixelData = pixels.tobytes()
        header["PixelData"].VR = "OW"
    header.file_meta = FileMetaDataset()
    header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, header, enforce_file_format=True)
    data = buffer.getvalue()
    return data if preamble else data[data.index(b"\x08\x00\x16\x00") :]


RAMP = np.arange(600, dtype=np.uint16).reshape(20, 30)


def test_stored_values_come_out_and_missing_preamble_is_no_matter() -> None:
    film = decode(make(RAMP))
    assert np.array_equal(film.pixels, RAMP)
    assert (film.format, film.mode, film.bits, film.monochrome1) == ("DICOM", "MONOCHROME2", 16, False)
    assert np.array_equal(decode(make(RAMP, preamble=False)).pixels, RAMP)


def test_monochrome1_is_inverted_exactly_once() -> None:
    film = decode(make(RAMP, PhotometricInterpretation="MONOCHROME1", PresentationLUTShape="INVERSE"))
    assert film.monochrome1
    assert np.array_equal(film.pixels, 599 - RAMP)


def test_modality_and_voi_lut() -> None:
    rescaled = decode(make(RAMP, RescaleSlope="2", RescaleIntercept="-100")).pixels
    assert np.array_equal(rescaled, RAMP * 2.0 - 100)
    shown = decode(make(RAMP, WindowCenter="300", WindowWidth="200")).pixels
    order = RAMP.ravel()
    assert len(np.unique(shown.ravel()[order < 199])) == 1
    assert len(np.unique(shown.ravel()[order > 401])) == 1
    inside = shown.ravel()[(order > 205) & (order < 395)]
    assert (np.diff(inside) > 0).all()


def test_a_window_beside_the_film_is_ignored() -> None:
    assert np.array_equal(decode(make(RAMP, WindowCenter="9000", WindowWidth="10")).pixels, RAMP)


def test_signed_pixels() -> None:
    signed = (RAMP.astype(np.int32) - 300).astype(np.int16)
    assert np.array_equal(decode(make(signed)).pixels, signed)


def test_padding_outside_the_detector_does_not_set_the_range() -> None:
    film = RAMP + 1000
    film[:, :3] = 0
    pixels = decode(make(film, PixelPaddingValue=0)).pixels
    assert pixels.min() == film[:, 3:].min()
    inverted = decode(make(film, PixelPaddingValue=0, PhotometricInterpretation="MONOCHROME1")).pixels
    assert inverted.min() == 0
    assert inverted.max() == film[:, 3:].max() - film[:, 3:].min()


def test_overlay_bits_above_the_stored_ones_are_dropped() -> None:
    dirty = RAMP | np.uint16(0xF000)
    assert np.array_equal(decode(make(dirty, BitsStored=12, HighBit=11)).pixels, RAMP)


@pytest.mark.parametrize(
    ("tags", "reason"),
    [
        ({"PhotometricInterpretation": None}, "photometric"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "photometric"),
        ({"NumberOfFrames": 3}, "several frames"),
        ({"PixelData": None}, "without pixels"),
        ({"Modality": "CT"}, "modality CT"),
        ({"Rows": 60000, "Columns": 60000}, "more than 64 megapixels"),
        ({"Rows": 0}, "no pixels"),
        ({"Rows": 21}, "damaged DICOM"),
    ],
)
def test_refusals(tags: dict[str, Any], reason: str) -> None:
    with pytest.raises(BadFilm, match=reason):
        decode(make(RAMP, **tags))


def test_deflated_dicom_is_refused_before_it_is_inflated() -> None:
    data = make(RAMP).replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.1.99"[:20])
    with pytest.raises(BadFilm):
        decode(data[:200] + b"1.2.840.10008.1.2.1.99" + data[222:])


def test_1500_mutants_are_decoded_or_refused_and_never_tell_who() -> None:
    rng = np.random.default_rng(5)
    data = make(RAMP, WindowCenter="300", WindowWidth="200")
    reasons = []
    for _ in range(1500):
        mutant = bytearray(data)
        for _ in range(int(rng.integers(1, 4))):
            mutant[int(rng.integers(128, 900))] = int(rng.integers(256))
        if rng.random() < 0.2:
            del mutant[int(rng.integers(132, len(data))) :]
        try:
            film = decode(bytes(mutant))
        except BadFilm as error:
            reasons.append(str(error))
        else:
            assert np.isfinite(film.pixels).all()
    assert len(reasons) > 200
    assert not any("secret" in reason.lower() for reason in reasons)


@pytest.mark.cxr
@pytest.mark.parametrize("name", ["RG1_J2KI.dcm", "RG1_JLSN.dcm"])
def test_compressed_film_matches_its_16_bit_png(cxr: Path, name: str) -> None:
    film = decode((cxr / "odd" / name).read_bytes())
    png = decode((cxr / "odd" / "png16_RG1_raw_mono1.png").read_bytes())
    half = film.pixels[: png.pixels.shape[0] * 2, : png.pixels.shape[1] * 2][::2, ::2].astype(float)
    same = np.corrcoef(half.ravel(), png.pixels[: half.shape[0], : half.shape[1]].ravel())[0, 1]
    assert same < -0.95  # the PNG holds stored values, the DICOM is shown inverted

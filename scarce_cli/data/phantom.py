"""Chest-like films drawn from formulas, with patients and findings, for the demo and the tests.

They stand in for real films where there are none: 16 bits, exposure, position and noise that vary, an anatomy
that a patient's films share, and findings that a mean brightness does not give away. They teach nothing about
patients.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from scarce_cli.data import phantom_film
from scarce_cli.data.phantom_anatomy import Anatomy, chest, draw_anatomy
from scarce_cli.data.phantom_film import Exposure
from scarce_cli.data.phantom_findings import ADD
from scarce_cli.data.phantom_vessels import vessel_map
from scarce_cli.files import atomic_file, make_folder, write_text

FINDINGS = tuple(ADD)
PREVALENCE = 0.17  # of each finding, independent of the others: 48 % of films show none
_GRID = 256  # the chest is drawn at most this large and enlarged: detector blur and noise come after
_BLOCK = 10  # films of four patients, who have one, two, three and four of them


@dataclass(frozen=True)
class Style:
    """What kind of collection the phantoms imitate."""

    anatomy_spread: float = 1.0  # how different the patients are
    pose_spread: float = 1.0  # and how they stand
    exposure: Exposure = field(default_factory=Exposure)
    finding_scale: float = 1.0  # size of the findings
    prevalence: float = PREVALENCE


VARIED = Style()
# Films taken at the bedside: everybody lies alike, exposure and dose are all over the place, findings are advanced.
# Low-order statistics say little there and structure much, which is where pretraining helps soonest.
BEDSIDE = Style(
    anatomy_spread=0.4,
    pose_spread=0.3,
    exposure=Exposure(contrast=(0.5, 1.6), curve=(0.45, 2.2), dose=(4.0, 100.0), tilt=0.15),
    finding_scale=2.2,
    prevalence=0.25,
)


@dataclass(frozen=True)
class Phantom:
    """pixels: (size, size) uint16, air dark, part of the range used. findings: of FINDINGS, or empty."""

    pixels: NDArray[np.uint16]
    patient: str
    findings: frozenset[str]


def draw_phantom(
    seed: int, index: int, *, size: int = 512, findings: frozenset[str] | None = None, style: Style = VARIED
) -> Phantom:
    """Film number ``index`` of the collection ``seed``: the same arguments give the same film.

    ``findings`` replaces the drawn ones. The findings' places, the exposure and the noise come from separate
    streams, so a film with and without a finding differs only where the finding is.
    """
    patient, _ = _patient_of(seed, index)
    if findings is None:
        drawn = _source(seed, "findings", index).random(len(FINDINGS)) < style.prevalence
        findings = frozenset(name for name, shown in zip(FINDINGS, drawn, strict=True) if shown)
    anatomy = _anatomy(seed, patient, style.anatomy_spread)
    pose = phantom_film.draw_pose(_source(seed, "pose", index), style.pose_spread)
    grid = min(size, _GRID)
    body = chest(anatomy, *pose.coordinates(grid))
    for name in FINDINGS:
        if name in findings:
            ADD[name](anatomy, body, _source(seed, name, index), style.finding_scale)
    vessels = anatomy.vessels * vessel_map(anatomy.trunks_XYW, anatomy.twigs_XYW, pose.placer(grid), grid)
    attenuation = body.tissue - body.lung * body.depth * (anatomy.air - vessels)
    pixels = phantom_film.expose(attenuation, size, _source(seed, "film", index), style.exposure)
    return Phantom(pixels, f"P{patient:04d}", findings)


def write_phantoms(
    folder: Path,
    *,
    count: int,
    seed: int,
    size: int = 512,
    style: Style = VARIED,
    on_film: Callable[[int], None] | None = None,
) -> None:
    """Draw films into ``folder/films/P0007/P0007_01.png`` and so on; describe them in ``folder/labels.csv``.

    The table has the columns image (relative to ``folder``), patient_id and findings (joined by ``|``) and is
    written last. ``on_film`` is called with the number of films done. Raises ResourceError.
    """
    rows = ["image,patient_id,findings"]
    for index in range(count):
        film = draw_phantom(seed, index, size=size, style=style)
        name = f"films/{film.patient}/{film.patient}_{_patient_of(seed, index)[1]:02d}.png"
        make_folder((folder / name).parent)
        with atomic_file(folder / name, durable=False, label="phantom") as handle:
            Image.fromarray(film.pixels).save(handle, "PNG", compress_level=1)
        rows.append(f"{name},{film.patient},{'|'.join(sorted(film.findings)) or 'No Finding'}")
        if on_film is not None:
            on_film(index + 1)
    make_folder(folder)
    write_text(folder / "labels.csv", "\n".join(rows) + "\n", label="phantom")


def _source(seed: int, stream: str, index: int) -> np.random.Generator:
    """A stream of its own for every purpose and film, so that one never shifts another."""
    return np.random.default_rng([seed, index, *stream.encode()])


def _patient_of(seed: int, index: int) -> tuple[int, int]:
    """(patient, number of the film among the patient's, from 1) of film ``index``."""
    block, place = divmod(index, _BLOCK)
    counts = _source(seed, "block", block).permutation([1, 2, 3, 4])
    ends = np.cumsum(counts)
    which = int(np.searchsorted(ends, place, side="right"))
    return block * len(counts) + which + 1, int(place - (ends[which] - counts[which]) + 1)


@lru_cache(maxsize=8)
def _anatomy(seed: int, patient: int, spread: float) -> Anatomy:
    return draw_anatomy(_source(seed, "anatomy", patient), spread)

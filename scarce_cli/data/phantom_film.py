"""How an invented chest becomes a film: position, exposure, noise, collimator, marker."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from scarce_cli.data.phantom_anatomy import Grid

_LETTERS = {
    "L": ("10000", "10000", "10000", "10000", "10000", "10000", "11111"),
    "R": ("11110", "10001", "10001", "11110", "10100", "10010", "10001"),
}


@dataclass(frozen=True)
class Pose:
    """How the patient stands before the detector. zoom: body lengths per film length; turn: radians."""

    zoom: float
    turn: float
    shift: tuple[float, float]

    def coordinates(self, size: int) -> tuple[Grid, Grid]:
        """Body coordinates (u, v) of the pixel centres, each (size, size) float32."""
        axis = ((np.arange(size, dtype=np.float32) + 0.5) * 2 / size - 1) * np.float32(self.zoom)
        cos, sin = np.float32(np.cos(self.turn)), np.float32(np.sin(self.turn))
        across, down = axis[None, :], axis[:, None]
        return (
            cos * across + sin * down + np.float32(self.shift[0]),
            cos * down - sin * across + np.float32(self.shift[1]),
        )

    def placer(self, size: int) -> Callable[[Grid, Grid], tuple[Grid, Grid]]:
        """The way back: from body coordinates to (column, row) in pixels."""
        cos, sin = np.float32(np.cos(self.turn)), np.float32(np.sin(self.turn))

        def place(u: Grid, v: Grid) -> tuple[Grid, Grid]:
            u, v = u - np.float32(self.shift[0]), v - np.float32(self.shift[1])
            across, down = (cos * u - sin * v) / self.zoom, (sin * u + cos * v) / self.zoom
            return (across + 1) * size / 2 - 0.5, (down + 1) * size / 2 - 0.5

        return place


@dataclass(frozen=True)
class Exposure:
    """Ranges from which each film's exposure is drawn."""

    contrast: tuple[float, float] = (0.8, 1.25)  # factor of the attenuation (tube voltage)
    curve: tuple[float, float] = (0.75, 1.35)  # exponent of the film's curve
    dose: tuple[float, float] = (40.0, 110.0)  # signal over noise where little is absorbed
    tilt: float = 0.05  # the beam is stronger on one side, at most by this


def draw_pose(source: np.random.Generator, spread: float = 1.0) -> Pose:
    """Slightly turned, off centre, nearer or farther; ``spread`` multiplies how much."""
    return Pose(
        zoom=0.90 + spread * (float(source.uniform(0.82, 0.98)) - 0.90),
        turn=spread * float(source.normal(0, 0.035)),
        shift=(spread * float(source.normal(0, 0.04)), spread * float(source.normal(0, 0.05))),
    )


def expose(attenuation: Grid, size: int, source: np.random.Generator, exposure: Exposure) -> NDArray[np.uint16]:
    """The film of an attenuation: (size, size) uint16.

    Contrast (tube voltage) and curve vary; quantum noise grows with attenuation and shrinks with the dose;
    the detector blurs a little; some films have a collimator's border and a side marker.
    """
    contrast, curve = _log_uniform(source, exposure.contrast), _log_uniform(source, exposure.curve)
    level, span = source.uniform(300, 3000), source.uniform(9_000, 24_000)
    dose = _log_uniform(source, exposure.dose)
    tilt = source.uniform(-exposure.tilt, exposure.tilt, 2)
    dense = np.clip(attenuation, 0, 1.6) * np.float32(contrast) + uneven(len(attenuation), *tilt)
    dense = np.maximum(dense, np.float32(1e-3))
    ideal = np.float32(span) * dense ** np.float32(curve) + np.float32(level)
    steep = np.minimum(dense ** np.float32(curve - 1), 4)  # how much a quantum counts on the film
    spread = np.float32(span / dose) * steep * np.exp(np.float32(0.9) * dense)
    film = enlarge(ideal, size)
    film += enlarge(spread, size) * source.standard_normal((size, size), dtype=np.float32)
    film = smooth(film, source.uniform(0.05, 0.22))
    if source.random() < 0.35:
        collimate(film, source, level)
    if source.random() < 0.6:
        mark(film, source, level + span * 1.7)
    return np.clip(np.rint(film), 0, 65_535).astype(np.uint16)


def _log_uniform(source: np.random.Generator, limits: tuple[float, float]) -> float:
    return float(np.exp(source.uniform(*np.log(limits))))


def enlarge(image: Grid, size: int) -> Grid:
    """Linear interpolation to (size, size); at twice the size a plain tent filter."""
    if image.shape[0] == size:
        return image.copy()
    low, part = _between(image.shape[0], size)
    rows = image[low] + part[:, None] * (image[low + 1] - image[low])
    return rows[:, low] + part * (rows[:, low + 1] - rows[:, low])


@lru_cache(maxsize=4)
def _between(small: int, large: int) -> tuple[NDArray[np.intp], Grid]:
    at = np.clip((np.arange(large) + 0.5) * small / large - 0.5, 0, small - 1)
    low = np.minimum(at.astype(np.intp), small - 2)
    return low, (at - low).astype(np.float32)


def uneven(size: int, across: float, down: float) -> Grid:
    """A beam that is a little stronger on one side (the heel effect)."""
    axis = np.linspace(-1, 1, size, dtype=np.float32)
    return np.float32(across) * axis[None, :] + np.float32(down) * axis[:, None] + np.float32(0.12)


def smooth(image: Grid, share: float) -> Grid:
    """A detector's blur: each pixel gives ``share`` to either neighbour, along both axes."""
    for axis in (0, 1):
        image = np.moveaxis(image, axis, 0)
        blurred = image * np.float32(1 - 2 * share)
        blurred[1:] += np.float32(share) * image[:-1]
        blurred[:-1] += np.float32(share) * image[1:]
        blurred[0] += np.float32(share) * image[0]
        blurred[-1] += np.float32(share) * image[-1]
        image = np.moveaxis(blurred, 0, axis)
    return image


def collimate(film: Grid, source: np.random.Generator, level: float) -> None:
    """Cover some borders, as a collimator does; shown black."""
    width = (source.uniform(0.01, 0.06, 4) * (source.random(4) < 0.6) * len(film)).astype(int)
    for side in range(4):
        np.rot90(film, side)[: width[side]] = level


def mark(film: Grid, source: np.random.Generator, value: float) -> None:
    """Burn a letter for the patient's side into an upper corner, as lead does."""
    letter = "L" if source.random() < 0.7 else "R"
    rows = np.array([[character == "1" for character in row] for row in _LETTERS[letter]])
    scale = max(1, round(len(film) * source.uniform(0.007, 0.012)))
    stamp = np.kron(rows, np.ones((scale, scale), dtype=bool))
    height, width = stamp.shape
    edge = int(len(film) * source.uniform(0.04, 0.10))
    top = int(len(film) * source.uniform(0.04, 0.16))
    left = edge if letter == "R" else len(film) - edge - width
    film[top : top + height, left : left + width][stamp] = value

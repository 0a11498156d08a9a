"""One invented patient: a chest of attenuation, drawn from formulas.

Coordinates: u to the right of the image, v down, the film is about [-1, 1] in both. The patient's left is at
u > 0. x = distance from the spine. Attenuation is 0 in air and about 1 in the mediastinum.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scarce_cli.data.phantom_vessels import vessel_tree

Grid = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Anatomy:
    """What the films of one patient share. Lengths in half film widths, attenuation relative."""

    width: float  # inner half width of the chest
    body: float  # half width of the trunk
    apex: float  # v of the lungs' tips
    angle: float  # v of the costophrenic angles
    dome_right: float  # v of the diaphragm's domes
    dome_left: float
    heart: float  # reach of its tip to the left
    knob: float  # reach of the aortic knob
    rib_gap: float  # between two ribs
    rib_shift: float
    rib_slope: float
    rib_density: float
    bend: float  # of the spine
    clavicle: float  # v at the breast bone
    clavicle_slope: float
    air: float  # how dark the lungs are
    fat: float  # soft tissue over the chest
    breast: float  # density of the breast shadows, 0 for most
    bubble: float  # stomach gas under the left dome
    vessels: float  # density
    trunks_XYW: NDArray[np.float32]  # (K, 3): u, v and weight of points on the lungs' large vessels
    twigs_XYW: NDArray[np.float32]  # and on the small ones


_RANGES = {
    "width": (0.60, 0.74),
    "body": (0.86, 1.10),
    "apex": (-0.80, -0.68),
    "angle": (0.52, 0.72),
    "dome_right": (0.28, 0.46),
    "dome_left": (0.02, 0.10),  # below the right one
    "heart": (0.27, 0.37),
    "knob": (0.03, 0.09),
    "rib_gap": (0.135, 0.175),
    "rib_shift": (0.0, 1.0),
    "rib_slope": (0.22, 0.45),
    "rib_density": (0.10, 0.19),
    "bend": (-0.025, 0.025),
    "clavicle": (-0.66, -0.54),
    "clavicle_slope": (-0.05, 0.16),
    "air": (0.56, 0.70),
    "fat": (0.0, 0.18),
    "breast": (-0.16, 0.16),
    "bubble": (-0.3, 0.3),
    "vessels": (0.7, 1.3),
}


def draw_anatomy(source: np.random.Generator, spread: float = 1.0) -> Anatomy:
    """A patient drawn at random; every length and density is uniform in its range.

    ``spread`` narrows the ranges about their middle: 0 makes everybody alike but for the vessels.
    """
    value = {
        name: (low + high) / 2 + spread * (float(source.uniform(low, high)) - (low + high) / 2)
        for name, (low, high) in _RANGES.items()
    }
    value["dome_left"] += value["dome_right"]
    value["breast"], value["bubble"] = max(value["breast"], 0.0), max(value["bubble"], 0.0)
    levels = [vessel_tree(source, side, value["width"]) for side in (-1.0, 1.0)]
    trunks = np.concatenate([points for tree in levels for points in tree[:2]])
    twigs = np.concatenate([points for tree in levels for points in tree[2:]])
    return Anatomy(**value, trunks_XYW=trunks, twigs_XYW=twigs)


@dataclass(frozen=True)
class Chest:
    """The chest of one film on its grid, all (H, W) float32; findings are put in before ``attenuation``."""

    u: Grid
    v: Grid
    x: Grid
    lung: Grid  # 0 to 1
    depth: Grid  # of the air that a ray crosses
    tissue: Grid  # everything but the air


def soft(distance: Grid, edge: float) -> Grid:
    """0 to 1 across ``edge`` around a signed distance of 0, with rounded ends."""
    ramp = np.clip(distance / np.float32(edge) + np.float32(0.5), 0, 1)
    result: Grid = ramp * ramp * (3 - 2 * ramp)
    return result


def dome_of(patient: Anatomy, x: Grid, dome: Grid | float) -> Grid:
    """v of the diaphragm at ``x``: a dome that falls to the costophrenic angle."""
    across = (x - np.float32(0.10)) / np.float32(patient.width - 0.10)
    outside = np.clip((across - 0.38) / 0.62, 0, 1.3)
    inside = np.clip((0.38 - across) / 0.38, 0, 1.3)
    result: Grid = dome + np.float32(patient.angle - dome) * outside**2 + np.float32(0.05) * inside**2
    return result


def chest(patient: Anatomy, u: Grid, v: Grid) -> Chest:
    """The patient's chest on a grid of coordinates."""
    u = u - np.float32(patient.bend) * np.sin(2.5 * v)
    x = np.abs(u)
    left = u > 0
    lung, depth = _lungs(patient, x, v, left)
    depth *= 1 - _heart(patient, u, v, x)
    tissue = _trunk(patient, x, v)
    tissue += _centre(u, v, x)
    tissue += _ribs(patient, x, v)
    tissue += _shoulders(patient, x, v)
    if patient.breast:
        tissue += _breasts(patient, x, v)
    if patient.bubble:
        tissue -= patient.bubble * _bubble(patient, u, v)
    return Chest(u, v, x, lung, depth, tissue)


def _half_width(patient: Anatomy, v: Grid) -> Grid:
    """The chest's inner half width at each height: a barrel, pointed at the top."""
    down = np.clip((v - patient.apex) / (patient.angle - patient.apex), 0, 1)
    rest = 1 - down
    result: Grid = np.float32(patient.width) * np.sqrt(1 - rest**3) * (0.90 + 0.10 * down)
    return result


def _lungs(patient: Anatomy, x: Grid, v: Grid, left: NDArray[np.bool_]) -> tuple[Grid, Grid]:
    wall = _half_width(patient, v)
    dome = np.where(left, dome_of(patient, x, patient.dome_left), dome_of(patient, x, patient.dome_right))
    lung = soft(wall - x, 0.045) * soft(x - np.float32(0.095), 0.05) * soft(dome - v, 0.03)
    thick = np.sqrt(np.clip(1 - (x / (1.12 * patient.width)) ** 2, 0, 1))
    tall = np.clip((v - patient.apex) / 0.45, 0, 1)
    return lung, thick * (0.62 + 0.38 * tall)


def _trunk(patient: Anatomy, x: Grid, v: Grid) -> Grid:
    shoulder = np.clip((v + 1.05) / 0.42, 0, 1)
    shoulder = shoulder * shoulder * (3 - 2 * shoulder)
    half = 0.20 + (patient.body - 0.20) * shoulder - 0.05 * soft(v + 0.1, 0.3)
    inside = np.clip(1 - (x / half) ** 4, 0, 1)
    height = 0.62 + 0.28 * soft(v + 0.55, 0.6) + 0.16 * soft(v - 0.45, 0.4)
    trunk = np.sqrt(inside) * height * (1 + patient.fat)
    arm = x - (patient.body + 0.06 + 0.14 * (v + 0.45))
    thick = np.sqrt(np.clip(1 - (arm / 0.15) ** 2, 0, 1)) * 0.50
    bone = np.sqrt(np.clip(1 - (arm / 0.05) ** 2, 0, 1)) * 0.22
    result: Grid = np.maximum(trunk, (thick + bone) * soft(v + 0.55, 0.25)).astype(np.float32)
    return result


def _ellipsoid(u: Grid, v: Grid, at: tuple[float, float], radii: tuple[float, float], tilt: float = 0.0) -> Grid:
    """Thickness, 0 to 1, of an ellipsoid seen from the front."""
    cos, sin = np.float32(np.cos(tilt)), np.float32(np.sin(tilt))
    du, dv = u - np.float32(at[0]), v - np.float32(at[1])
    a, b = (cos * du + sin * dv) / np.float32(radii[0]), (cos * dv - sin * du) / np.float32(radii[1])
    return np.sqrt(np.clip(1 - a * a - b * b, 0, 1))


def _bump(v: Grid, middle: float, half: float) -> Grid:
    """1 at ``middle``, 0 from ``half`` away, smooth."""
    away = np.clip((v - middle) / half, -1, 1)
    rest = 1 - away * away
    result: Grid = rest * rest
    return result


def _heart(patient: Anatomy, u: Grid, v: Grid, x: Grid) -> Grid:
    """How much of the air heart and great vessels displace, 0 to 1, between borders given by the height."""
    r, base = patient.heart, patient.dome_left
    vena = 0.095 + 0.02 * _bump(v, -0.35, 0.3)
    right = vena + 0.42 * r * _bump(v, base - 0.75 * r, 1.0 * r)
    slope = soft(v - (base - 1.0 * r), 1.5 * r)
    tip = 1 - 0.5 * np.clip((v - (base - 0.35 * r)) / (0.9 * r), 0, 1) ** 2
    left = 0.08 + patient.knob * _bump(v, -0.30, 0.13) + 0.035 * _bump(v, -0.08, 0.16) + 1.45 * r * slope * tip
    inside = np.clip(1 - (x / np.where(u > 0, left, right)) ** 2, 0, 1)
    result: Grid = np.sqrt(np.sqrt(inside)) * (0.60 + 0.25 * soft(v + 0.05, 0.4))
    return result


def _centre(u: Grid, v: Grid, x: Grid) -> Grid:
    """Spine, windpipe and the roots of the lungs."""
    spine = soft(0.070 - x, 0.06) * (0.07 + 0.02 * np.cos(v * np.float32(2 * np.pi / 0.105)))
    trachea = soft(0.036 - np.abs(u + 0.008), 0.025) * soft(-0.22 - v, 0.12) * 0.15
    hila = _ellipsoid(x, v, (0.17, -0.03), (0.08, 0.16), -0.35) * 0.10
    result: Grid = spine - trachea + hila
    return result


def _rib_profile(phase: Grid, half: float) -> Grid:
    """A hollow tube across one rib, 0 to 1: bright borders, paler core. ``phase`` has one rib per unit."""
    away = np.abs(phase - np.floor(phase) - np.float32(0.5)) / np.float32(half)
    inside = np.clip(1 - away * away, 0, 1)
    result: Grid = np.clip(inside * 5, 0, 1) * (0.62 + 0.38 * away * away)
    return result


def _ribs(patient: Anatomy, x: Grid, v: Grid) -> Grid:
    wall = _half_width(patient, v)
    out = x / np.float32(patient.width)
    gap = np.float32(patient.rib_gap)
    inside = soft(wall + np.float32(0.035) - x, 0.03)
    span = soft(v - np.float32(patient.apex), 0.12) * soft(np.float32(patient.angle + 0.15) - v, 0.7)
    back = _rib_profile(
        (v - patient.rib_slope * (0.3 + 0.7 * out) * out - 0.12 * out**5) / gap + patient.rib_shift, 0.23
    )
    back *= soft(x - 0.07, 0.04)
    front_line = v - 0.32 * (1 - out) - 0.10 * (1 - out) ** 2 + 0.10 * out**4
    front = _rib_profile(front_line / (1.12 * gap) + patient.rib_shift * 0.7, 0.21)
    front *= soft(out - 0.48, 0.25) * soft(v + 0.50, 0.2)
    rim = soft(0.022 - np.abs(x - wall - 0.012), 0.04) * 0.35
    result: Grid = patient.rib_density * inside * span * (back + 0.62 * front + rim)
    return result


def _shoulders(patient: Anatomy, x: Grid, v: Grid) -> Grid:
    line = patient.clavicle - patient.clavicle_slope * (x - 0.10) + 0.045 * np.cos(7.5 * (x - 0.10)) - 0.045
    away = np.abs(v - line) / (0.036 + 0.012 * np.cos(9 * (x - 0.1)))
    clavicle = np.clip(4 * (1 - away * away), 0, 1) * (0.7 + 0.3 * away * away)
    clavicle *= soft(x - 0.085, 0.03) * soft(0.80 * patient.body - x, 0.18)
    edge = x - (0.90 * patient.width + 0.18 * (v + 0.35))
    scapula = soft(edge, 0.03) * soft(0.20 - edge, 0.15) * soft(0.28 - np.abs(v + 0.33), 0.2)
    joint = _ellipsoid(x, v, (0.93 * patient.body, patient.clavicle + 0.12), (0.10, 0.11))
    result: Grid = patient.rib_density * (1.35 * clavicle + 0.6 * scapula + 1.3 * joint)
    return result


def _breasts(patient: Anatomy, x: Grid, v: Grid) -> Grid:
    shape = _ellipsoid(x, v, (0.60 * patient.width, 0.34), (0.34, 0.30))
    return patient.breast * np.sqrt(shape) * soft(v - 0.18, 0.5)


def _bubble(patient: Anatomy, u: Grid, v: Grid) -> Grid:
    return _ellipsoid(u, v, (0.36, patient.dome_left + 0.13), (0.13, 0.075))

"""What a phantom's chest may show: each finding changes the chest only around its own place.

``scale`` multiplies the findings' size (a band's width); the sizes named are those at 1.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from scarce_cli.data.phantom_anatomy import Anatomy, Chest, soft


def add_nodule(patient: Anatomy, chest: Chest, source: np.random.Generator, scale: float) -> None:
    """A round, soft-edged ball of 12 to 30 pixels (of 512) somewhere in a lung, clear of the heart."""
    radius = scale * source.uniform(0.024, 0.058)
    side = source.choice([-1.0, 1.0])
    u = side * source.uniform(0.45 if side > 0 else 0.30, 0.78) * patient.width
    v = source.uniform(patient.apex + 0.25, patient.dome_right - 0.10)
    distance = np.hypot(chest.u - np.float32(u), chest.v - np.float32(v)) / np.float32(radius)
    ball = np.clip(1 - distance * distance, 0, 1)
    chest.tissue[...] += np.float32(source.uniform(0.16, 0.24)) * ball * chest.lung


def add_effusion(patient: Anatomy, chest: Chest, source: np.random.Generator, scale: float) -> None:
    """Fluid that fills one costophrenic angle; its upper border climbs towards the chest wall."""
    side = source.choice([-1.0, 1.0])
    height = scale * source.uniform(0.16, 0.42)
    across = np.clip((chest.x - 0.10) / (patient.width - 0.10), 0, 1)
    level = 0.03 + 0.15 * (scale - 1) * height  # a large one also rises over the dome
    border = patient.angle - height * across * across - level
    fluid = soft(chest.v - border.astype(np.float32), 0.09) * (side * chest.u > 0)
    chest.lung[...] *= 1 - np.float32(source.uniform(0.85, 1.0)) * fluid


def add_band(patient: Anatomy, chest: Chest, source: np.random.Generator, scale: float) -> None:
    """A thin, slightly curved, oblique bright line in the middle or lower part of a lung."""
    side = source.choice([-1.0, 1.0])
    u = side * source.uniform(0.50 if side > 0 else 0.40, 0.68) * patient.width
    v = source.uniform(-0.15, patient.dome_right - 0.12)
    angle = side * source.uniform(-1.2, 0.2)
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    du, dv = chest.u - np.float32(u), chest.v - np.float32(v)
    along, off = cos * du + sin * dv, cos * dv - sin * du
    off = off - np.float32(source.uniform(-0.8, 0.8)) * along * along
    line = np.clip(1 - (off / np.float32(scale * source.uniform(0.010, 0.017))) ** 2, 0, 1)
    line *= soft(np.float32(source.uniform(0.13, 0.24)) - np.abs(along), 0.06)
    chest.tissue[...] += np.float32(source.uniform(0.13, 0.21)) * line * chest.lung


def add_hernia(patient: Anatomy, chest: Chest, source: np.random.Generator, scale: float) -> None:
    """A round stomach pouch behind the heart: a wall, fluid below, air above a straight level."""
    radius = np.float32(scale * source.uniform(0.11, 0.17))
    u = source.uniform(-0.02, 0.10)
    v = patient.dome_left - 0.75 * radius + source.uniform(-0.06, 0.02)
    du, dv = chest.u - np.float32(u), chest.v - np.float32(v)
    distance = np.hypot(du, 1.12 * dv)
    inside = soft(radius - distance, 0.05)
    wall = np.clip(1 - ((distance - radius + 0.01) / np.float32(0.022)) ** 2, 0, 1)
    level = np.float32(source.uniform(-0.35, 0.10)) * radius
    air = soft(level - dv, 0.02) * soft(0.88 * radius - distance, 0.05)
    chest.tissue[...] += 0.12 * inside + 0.04 * wall - np.float32(source.uniform(0.20, 0.32)) * air


ADD: dict[str, Callable[[Anatomy, Chest, np.random.Generator, float], None]] = {
    "nodule": add_nodule,
    "effusion": add_effusion,
    "band": add_band,
    "hernia": add_hernia,
}

"""What to look at in a prepared data set: the same film twice, nearly the same, on its side, or inverted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from scarce_cli.data.manifest import DONE, Row

GRID = 16  # a film's look is GRID x GRID bits


def look_of(square: npt.NDArray[np.uint8]) -> str:
    """64 hexadecimal digits: for each of 16 x 16 fields whether its mean is above the median field."""
    step = square.shape[0] // GRID
    fields = square.reshape(GRID, step, GRID, step).sum(axis=(1, 3), dtype=np.int64)
    return np.packbits(fields > np.median(fields)).tobytes().hex()


def mark_duplicates(rows: Sequence[Row]) -> list[Row]:
    """Name, for each film whose pixels came before, the first film with the same pixels."""
    first: dict[str, str] = {}
    marked = []
    for row in rows:
        if row.status != DONE:
            marked.append(row)
            continue
        original = first.setdefault(row.pixel_hash, row.path)
        marked.append(replace(row, duplicate_of="" if original == row.path else original))
    return marked

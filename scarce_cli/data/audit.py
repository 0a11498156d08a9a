"""What to look at in a prepared data set: the same film twice, nearly the same, on its side, or inverted.

A film's look is 16 x 16 bits: which fields of it are brighter than the median field. It hardly changes with
resolution, compression or exposure. Turning a film turns the bits, inverting it flips them, so that a drawing
of an upright chest tells by correlation how a film lies.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from scarce_cli.data.manifest import DONE, Row

GRID = 16
AGREEMENT = 0.25  # how well (1 is equal) another position must agree with the drawing to be believed
MARGIN = 0.15  # and how much better than upright
NEAR_BITS = 12  # looks of near-duplicates differ in at most so many of 256 bits
NEAR_GREY = 6.0  # and their grey values by at most so much on average
_BLOCK = 2048
_MOST_CANDIDATES = 8  # films compared pixel by pixel with one film

# The left half of an upright chest: # bright, . dark. Neck, shoulder, lung, heart and belly can be made out.
_HALF_CHEST = (
    "....   #",
    "...    #",
    "..  #  #",
    ".. #.  #",
    ".  #.. #",
    ". # .. #",
    ". # ...#",
    ". # ...#",
    ". # ..##",
    ". # ..##",
    ". #.. ##",
    "..#.. ##",
    "..   ###",
    "..  ####",
    "..######",
    ". ######",
)
_POSITIONS = ("", "on its side", "upside down", "on its side", "inverted", *["inverted and turned"] * 3)

NO_CONTRAST = "no contrast"

Square = npt.NDArray[np.uint8]


def look_of(film: Square) -> str:
    """64 hexadecimal digits for a prepared film (H, W) without its border."""
    (upright, tall), (across, wide) = (_fields(length) for length in film.shape)
    sums = upright @ film.astype(np.float32) @ across.T  # whole numbers, exact in float32
    fields = sums / (tall[:, None] * wide)
    return np.packbits(fields > np.median(fields)).tobytes().hex()


@lru_cache(maxsize=64)
def _fields(length: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float64]]:
    """(GRID, length) ones where a sample belongs to a field, and how many samples each field has. A film
    with fewer samples than fields lends some to several."""
    edges = np.arange(GRID + 1) * length // GRID
    starts, stops = edges[:-1], np.maximum(edges[1:], edges[:-1] + 1)
    sample = np.arange(length)
    member = (sample >= starts[:, None]) & (sample < stops[:, None])
    return member.astype(np.float32), member.sum(axis=1).astype(np.float64)


def _chest() -> npt.NDArray[np.float64]:
    value = {"#": 1.0, ".": -1.0, " ": 0.0}
    return np.array([[value[field] for field in line + line[::-1]] for line in _HALF_CHEST])


def _positions() -> npt.NDArray[np.float64]:
    """(8, 256): the drawing upright and turned by 90, 180, 270 degrees, then the same inverted; unit length."""
    turned = np.stack([np.rot90(_chest(), quarter).ravel() for quarter in range(4)])
    turned -= turned.mean(axis=1, keepdims=True)
    turned /= np.linalg.norm(turned, axis=1, keepdims=True)
    return np.concatenate([turned, -turned])


_DRAWINGS = _positions()


def suspicion_of(look: str) -> str:
    """How a film seems to lie, empty when upright: agrees best, and clearly better, with a turned drawing."""
    bits = _bits([look])[0]
    bits -= bits.mean()
    length = np.linalg.norm(bits)
    if length == 0:
        return NO_CONTRAST
    agreement = _DRAWINGS @ (bits / length)
    best = int(agreement.argmax())
    believed = agreement[best] > max(AGREEMENT, agreement[0] + MARGIN)
    return _POSITIONS[best] if believed else ""


def _bits(looks: Sequence[str]) -> npt.NDArray[np.float32]:
    """(N, 256): +1 for a bright field, -1 for a dark one."""
    packed = np.frombuffer(bytes.fromhex("".join(looks)), np.uint8).reshape(len(looks), -1)
    return np.unpackbits(packed, axis=1).astype(np.float32) * 2 - 1


def mark_duplicates(rows: Sequence[Row], size: int, square_of: Callable[[Row], Square]) -> list[Row]:
    """Name, for each film that is in the set already, the first one with the same decoded pixels, or the
    first that looks nearly the same and whose prepared pixels (``square_of``) then prove to be so."""
    first: dict[str, str] = {}
    for row in rows:
        if row.status == DONE:
            first.setdefault(row.pixel_hash, row.path)
    same = {row.path: first[row.pixel_hash] for row in rows if first.get(row.pixel_hash, row.path) != row.path}
    single = [row for row in rows if row.status == DONE and row.path not in same]
    near = _near_duplicates(single, size, square_of)
    return [replace(row, duplicate_of=same.get(row.path, ""), near_duplicate_of=near.get(row.path, "")) for row in rows]


def _near_duplicates(rows: Sequence[Row], size: int, square_of: Callable[[Row], Square]) -> dict[str, str]:
    found: dict[str, str] = {}
    films = [row for row in rows if row.suspicion != NO_CONTRAST]
    for later, earlier in _candidates(films, size) if films else ():
        row, original = films[later], films[earlier]
        if row.path in found or original.path in found:
            continue
        difference = square_of(row).astype(np.int16) - square_of(original)
        if np.abs(difference).mean() <= NEAR_GREY:
            found[row.path] = original.path
    return found


def _candidates(rows: Sequence[Row], size: int) -> list[tuple[int, int]]:
    """Pairs of positions (later, earlier) whose looks are close, in order, at most a few for one film.

    Films whose mean grey differs by more than NEAR_GREY cannot be near-duplicates, so in the order of their
    means only neighbours need be compared; the number of equal bits is a matrix product.
    """
    means = np.array([row.total for row in rows]) / size**2
    order = np.argsort(means, kind="stable")
    bits, means = _bits([row.look for row in rows])[order], means[order]
    found = [order[pair] for start in range(0, len(rows), _BLOCK) for pair in _close_in_block(bits, means, start)]
    pairs = np.sort(np.concatenate(found), axis=1)[:, ::-1]
    pairs = pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]
    place = np.arange(len(pairs)) - np.searchsorted(pairs[:, 0], pairs[:, 0])
    return [(int(later), int(earlier)) for later, earlier in pairs[place < _MOST_CANDIDATES]]


def _close_in_block(
    bits: npt.NDArray[np.float32], means: npt.NDArray[np.float64], start: int
) -> Iterator[npt.NDArray[np.int64]]:
    """(K, 2) positions whose looks are close, the first of them in the block from ``start``; block by block,
    so that a set of films that are all alike takes no more memory."""
    block = bits[start : start + _BLOCK]
    stop = int(np.searchsorted(means, means[start + len(block) - 1] + NEAR_GREY, side="right"))
    for other in range(start, stop, _BLOCK):
        equal = block @ bits[other : min(other + _BLOCK, stop)].T
        left, right = np.nonzero(equal >= bits.shape[1] - 2 * NEAR_BITS)
        pairs = np.stack([left + start, right + other], axis=1)
        yield pairs[pairs[:, 0] < pairs[:, 1]]

"""A page to draw on: always the same style, no interpretation of text, written whole or not at all."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib.style
import numpy as np
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font
from numpy.typing import NDArray

from scarce_cli.files import atomic_file

# Matplotlib reads "$...$" in any text as a formula; findings and file names are not formulas.
_PLAIN = {"text.parse_math": False, "text.usetex": False}
_DPI = 130


@contextlib.contextmanager
def page(
    path: Path, rows: int, columns: int, *, size: tuple[float, float], sharey: bool = False
) -> Iterator[tuple[Figure, NDArray[Any]]]:
    """A figure and its (rows, columns) axes; a PNG under ``path`` when the block ends without error.

    The user's own matplotlib style has no influence.

    Args:
        size: width and height in inches.

    Raises:
        ResourceError: the file cannot be written.
    """
    with matplotlib.style.context(["default", _PLAIN]):
        figure = Figure(figsize=size, layout="constrained")
        yield figure, np.asarray(figure.subplots(rows, columns, squeeze=False, sharey=sharey))
        with atomic_file(path, label="figure") as handle:
            figure.savefig(handle, format="png", dpi=_DPI)


def plain(text: str, limit: int = 40) -> str:
    """``text`` as one line that the figure's font can show: a ``?`` for what it cannot, a long name cut in
    the middle."""
    line = "".join(c if c.isprintable() and _can_show(c) else "?" for c in " ".join(text.split()))
    half = (limit - 1) // 2
    return line if len(line) <= limit else f"{line[: limit - 1 - half]}…{line[len(line) - half :]}"


@cache
def _can_show(character: str) -> bool:
    return bool(get_font(findfont("DejaVu Sans")).get_char_index(ord(character)))

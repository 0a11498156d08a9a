"""A contact sheet: many small films on one page, each with its name and what was found about it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from scarce_cli.files import atomic_file

MOST = 40
COLUMNS = 8
TILE = 160  # pixels
_CAPTION, _GAP, _LETTERS = 28, 6, 26


def draw_contact_sheet(
    path: Path, squares: Sequence[npt.NDArray[np.uint8]], captions: Sequence[tuple[str, str]]
) -> None:
    """Write a PNG with up to 40 films (each (S, S) uint8), eight to a row, with two lines of text under each.

    ValueError when there is nothing to draw.
    """
    if not squares:
        raise ValueError("no films to draw")
    squares, captions = squares[:MOST], captions[:MOST]
    columns = min(COLUMNS, len(squares))
    lines = -(-len(squares) // columns)
    width, height = TILE + _GAP, TILE + _CAPTION + _GAP
    sheet = Image.new("L", (columns * width + _GAP, lines * height + _GAP), 40)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(11)
    for number, (square, texts) in enumerate(zip(squares, captions, strict=True)):
        left = _GAP + number % columns * width
        top = _GAP + number // columns * height
        film = Image.fromarray(np.ascontiguousarray(square))
        sheet.paste(film.resize((TILE, TILE), Image.Resampling.LANCZOS), (left, top))
        for line, text in enumerate(texts):
            draw.text((left, top + TILE + 1 + 13 * line), _shortened(text), fill=230, font=font)
    with atomic_file(path, label="figure") as handle:
        sheet.save(handle, "PNG")


def _shortened(text: str) -> str:
    """The end of a long name: that is where names differ."""
    return text if len(text) <= _LETTERS else "…" + text[1 - _LETTERS :]

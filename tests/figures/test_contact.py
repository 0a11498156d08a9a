"""The contact sheet shows the films that it is given, whole and in order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scarce_cli.errors import ResourceError
from scarce_cli.figures.contact import MOST, TILE, draw_contact_sheet


def test_films_lie_in_order_with_text_under_them(tmp_path: Path) -> None:
    squares = [np.full((64, 64), 20 * number, np.uint8) for number in range(11)]
    draw_contact_sheet(tmp_path / "sheet.png", squares, [(f"film {n}.png", "inverted") for n in range(11)])
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    assert sheet.shape == (2 * (TILE + 34) + 6, 8 * (TILE + 6) + 6)
    for number in range(11):
        top, left = number // 8 * (TILE + 34) + 6, number % 8 * (TILE + 6) + 6
        assert (sheet[top : top + TILE, left : left + TILE] == 20 * number).all()
        assert (sheet[top + TILE : top + TILE + 28, left : left + TILE] > 150).any()


def test_no_more_than_forty_and_never_none(tmp_path: Path) -> None:
    squares = [np.zeros((32, 32), np.uint8)] * 60
    draw_contact_sheet(tmp_path / "sheet.png", squares, [("x" * 300, "")] * 60)
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size[1] == MOST // 8 * (TILE + 34) + 6
    with pytest.raises(ValueError, match="no films"):
        draw_contact_sheet(tmp_path / "none.png", [], [])


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match="nowhere"):
        draw_contact_sheet(tmp_path / "nowhere" / "sheet.png", [np.zeros((32, 32), np.uint8)], [("a", "b")])
    assert not list(tmp_path.iterdir())

"""The page: text is shown and never interpreted, and the file is whole or absent."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import matplotlib
import matplotlib.pyplot
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from scarce_cli.errors import ResourceError
from scarce_cli.figures.page import page, plain

STEADY = settings(max_examples=100, deadline=None, derandomize=True)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Hernia", "Hernia"),
        ("a\nb\t c", "a b c"),
        ("$\\frac{a}{b$", "$\\frac{a}{b$"),
        ("\x1b[31mred\x00", "?[31mred?"),
        ("caf\udce9", "caf?"),
        ("肺炎 ±é", "?? ±é"),
        ("<b>&amp;", "<b>&amp;"),
        ("", ""),
    ],
)
def test_text_becomes_one_line_that_the_font_can_show(text: str, shown: str) -> None:
    assert plain(text) == shown


def test_a_long_name_is_cut_in_the_middle() -> None:
    assert plain("runs/" + "x" * 100 + "/last.pt", 20) == "runs/xxxxx…x/last.pt"


@STEADY
@given(st.text(max_size=80), st.integers(2, 60))
def test_any_text_becomes_a_line_that_fits(text: str, limit: int) -> None:
    shown = plain(text, limit)
    assert len(shown) <= limit
    assert shown == plain(shown, limit)
    assert all(c == " " or c.isprintable() for c in shown)


def drawn(path: Path, title: str = "x") -> None:
    with page(path, 1, 2, size=(3, 2)) as (figure, axes):
        assert axes.shape == (1, 2)
        axes[0, 0].plot([0, 1], [0, 1], label=title)
        axes[0, 1].set_title(title)
        figure.suptitle(title)


@pytest.mark.parametrize("title", ["$", "$x$", "$\\frac{1}{", "$\\alpha_{", "_x_^y", "%s {0}", "\\textbf{x}"])
def test_formulas_are_text(tmp_path: Path, title: str) -> None:
    drawn(tmp_path / "x.png", title)
    with Image.open(tmp_path / "x.png") as image:
        assert image.format == "PNG"
        assert image.size == (390, 260)


def test_the_user_s_own_style_has_no_influence(tmp_path: Path) -> None:
    drawn(tmp_path / "plain.png")
    with matplotlib.rc_context({"figure.dpi": 30, "font.size": 30, "text.usetex": True, "axes.facecolor": "red"}):
        drawn(tmp_path / "styled.png")
    assert (tmp_path / "plain.png").read_bytes() == (tmp_path / "styled.png").read_bytes()


def test_no_state_is_left_behind(tmp_path: Path) -> None:
    before = dict(matplotlib.rcParams)
    drawn(tmp_path / "x.png")
    with pytest.raises(ZeroDivisionError), page(tmp_path / "y.png", 1, 1, size=(1, 1)):
        raise ZeroDivisionError
    assert dict(matplotlib.rcParams) == before
    assert matplotlib.pyplot.get_fignums() == []
    assert not (tmp_path / "y.png").exists()


def test_a_full_disk_leaves_the_old_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.png"
    drawn(path)
    before = path.read_bytes()
    monkeypatch.setattr("scarce_cli.files._fault_counts", Counter())
    monkeypatch.setenv("SCARCE_FAULT", "figure.pre_rename:1:enospc")
    with pytest.raises(ResourceError, match="the disk is full"):
        drawn(path, "other")
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["x.png"]


def test_a_missing_folder_is_the_user_s_message(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match="nowhere"):
        drawn(tmp_path / "nowhere" / "x.png")

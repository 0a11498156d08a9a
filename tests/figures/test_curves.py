"""Curves: what is drawn is what was measured, for one point and for many, whatever the names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from scarce_cli.evaluation.probe import Score
from scarce_cli.evaluation.statistics import Estimate
from scarce_cli.figures.curves import draw_learning_curves

HOSTILE = ["$\\frac{a}{b$", "_under_", "<script>", "line\nbreak", "x" * 400, "[red]x[/red]", "%s {0} \x1b[31m", "肺"]


def score(finding: str, name: str, shots: int, auc: float, negative: str = "the rest") -> Score:
    return Score(finding, negative, name, shots, Estimate(auc, 0.05, auc - 0.1, auc + 0.1), None, 10, 20, 30)


def is_png(path: Path) -> bool:
    with Image.open(path) as image:
        image.load()
        return image.format == "PNG" and np.asarray(image).std() > 0


def test_lines_and_bands_are_the_scores(figures: list[Figure], tmp_path: Path) -> None:
    aucs = {"random": [0.5, 0.55, 0.6], "spark": [0.6, 0.7, 0.8]}
    rows = [
        score("Nodule", name, n, auc) for name, line in aucs.items() for n, auc in zip((1, 5, 50), line, strict=True)
    ]
    draw_learning_curves(rows, tmp_path / "x.png")
    assert is_png(tmp_path / "x.png")
    (axis,) = figures[0].axes
    for line, (name, wanted) in zip(axis.get_lines(), aucs.items(), strict=False):
        assert line.get_label() == name
        assert list(line.get_xdata()) == [1, 5, 50]
        assert list(line.get_ydata()) == wanted
    band = axis.collections[1].get_paths()[0].vertices
    assert band[:, 1].min() == pytest.approx(0.5)
    assert band[:, 1].max() == pytest.approx(0.9)
    assert [label.get_text() for label in axis.get_xticklabels()] == ["1", "5", "50"]
    assert [text.get_text() for text in figures[0].legends[0].get_texts()] == ["random", "spark"]


def test_a_single_number_of_shots_shows_its_intervals(figures: list[Figure], tmp_path: Path) -> None:
    draw_learning_curves([score("Nodule", name, 5, 0.6) for name in ("random", "spark")], tmp_path / "x.png")
    (axis,) = figures[0].axes
    bars = [collection.get_segments()[0] for collection in axis.collections]
    for bar in bars:
        np.testing.assert_allclose(bar[:, 1], [0.5, 0.7])
    assert bars[0][0, 0] != bars[1][0, 0]  # beside each other
    low, high = axis.get_xlim()
    assert low < 5 < bars[1][0, 0] < high
    assert is_png(tmp_path / "x.png")


@pytest.mark.parametrize("count", [1, 4, 5, 11])
def test_every_finding_has_a_panel(figures: list[Figure], tmp_path: Path, count: int) -> None:
    rows = [score(f"finding {n}", "random", shots, 0.6) for n in range(count) for shots in (1, 5)]
    draw_learning_curves(rows, tmp_path / "x.png")
    titles = [axis.get_title() for axis in figures[0].axes if axis.axison]
    assert titles == [f"finding {n}\nagainst the rest" for n in range(count)]
    assert is_png(tmp_path / "x.png")


def test_hostile_names_are_shown_not_read(figures: list[Figure], tmp_path: Path) -> None:
    rows = [
        score(finding, name, shots, 0.6, negative=finding)
        for finding in HOSTILE
        for name in HOSTILE[:4]
        for shots in (1, 5)
    ]
    draw_learning_curves(rows, tmp_path / "x.png")
    assert is_png(tmp_path / "x.png")
    titles = [axis.get_title() for axis in figures[0].axes]
    assert titles[0] == "$\\frac{a}{b$\nagainst $\\frac{a}{b$"
    assert titles[3] == "line break\nagainst line break"
    assert all(len(line) <= 45 for title in titles for line in title.splitlines())
    legend = [text.get_text() for text in figures[0].legends[0].get_texts()]
    assert legend == ["$\\frac{a}{b$", "_under_", "<script>", "line break"]
    assert not any(
        text.get_parse_math() for text in figures[0].findobj(lambda artist: hasattr(artist, "get_parse_math"))
    )

"""Reliability curves: the points are the bins, both axes are as long, the diagonal is right."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from scarce_cli.figures import calibration
from scarce_cli.figures.calibration import draw_calibration
from tests.evaluation.fewshot import examples
from tests.evaluation.fewshot.examples import DINO, IMAGENET, RANDOM


def test_points_are_the_bins_at_the_largest_number_of_shots(figures: list[Figure], tmp_path: Path) -> None:
    result = examples.linear(("Pneumonia", "Effusion"), (5, 50))
    assert draw_calibration(result, tmp_path / "x.png")
    panels = [axis for axis in figures[0].axes if axis.axison]
    assert [axis.get_title() for axis in panels] == ["Pneumonia\n50 shots", "Effusion\n50 shots"]
    for axis, finding in zip(panels, ("Pneumonia", "Effusion"), strict=True):
        for name, points in zip((RANDOM, IMAGENET, DINO), axis.collections, strict=True):
            key = (finding, name, 50)
            (score,) = (s for s in result.scores if (s.finding, s.initialisation, s.shots) == key)
            bins = score.calibration.bins
            np.testing.assert_allclose(points.get_offsets(), [(b.predicted, b.observed) for b in bins])
            sizes, films = points.get_sizes(), np.array([b.films for b in bins])
            assert (np.diff(sizes)[np.argsort(np.diff(films))] <= 0).all()  # fewer films, smaller points
        assert axis.get_xlim() == axis.get_ylim()
        assert 0.9 <= axis.get_xlim()[1] <= 1.03
        diagonal = axis.get_lines()[0]
        assert list(diagonal.get_xdata()) == list(diagonal.get_ydata())


def test_a_rare_finding_fills_its_panel(figures: list[Figure], tmp_path: Path) -> None:
    result = examples.linear(("Pneumonia",), (5,))
    rare = []
    for s in result.scores:
        bins = tuple(replace(b, predicted=b.predicted / 20, observed=b.observed / 20) for b in s.calibration.bins)
        rare.append(replace(s, calibration=replace(s.calibration, bins=bins)))
    draw_calibration(replace(result, scores=tuple(rare)), tmp_path / "x.png")
    (axis,) = figures[0].axes
    assert 0.045 < axis.get_xlim()[1] < 0.06


def test_scores_that_are_no_probabilities_have_none(figures: list[Figure], tmp_path: Path) -> None:
    result = examples.linear(("Pneumonia",), (5, 50))
    none = tuple(replace(s, calibration=None) for s in result.scores)
    assert not draw_calibration(replace(result, scores=none), tmp_path / "x.png")
    assert not list(tmp_path.iterdir())
    some = tuple(replace(s, calibration=None) if s.initialisation != DINO else s for s in result.scores)
    assert draw_calibration(replace(result, scores=some), tmp_path / "x.png")
    assert [t.get_text() for t in figures[0].legends[0].get_texts()] == [DINO, "as it should be"]


def test_of_very_many_findings_the_first_are_drawn(
    figures: list[Figure], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibration, "_MOST", 2)  # as 24 are, but drawn at once
    draw_calibration(examples.linear([f"f{n}" for n in range(3)], (5,)), tmp_path / "x.png")
    assert [axis.get_title() for axis in figures[0].axes if axis.axison] == [f"f{n}\n5 shots" for n in range(2)]
    assert "the first 2 of 3 findings" in figures[0]._suptitle.get_text()

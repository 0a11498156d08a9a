"""What more cases would bring: points, projection and target are those of the result."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from scarce_cli.evaluation.fewshot.result import Result
from scarce_cli.figures import cases
from scarce_cli.figures.cases import draw_cases
from scarce_cli.figures.initialisations import looks
from tests.evaluation.fewshot import examples
from tests.evaluation.fewshot.examples import DINO, RANDOM


def lines_of(axis: Axes, result: Result, name: str) -> list[Line2D]:
    return [line for line in axis.get_lines() if line.get_color() == looks(result)[name].colour]


def draw(result: Result, path: Path, figures: list[Figure]) -> list[Axes]:
    assert draw_cases(result, path / "x.png")
    assert (path / "x.png").read_bytes()[:4] == b"\x89PNG"
    return [axis for axis in figures[-1].axes if axis.axison]


def test_curve_projection_and_target(figures: list[Figure], tmp_path: Path) -> None:
    result = examples.cases()
    (axis,) = draw(result, tmp_path, figures)
    assert axis.get_title() == "Callus rib fracture\n23 cases, 40 controls"
    for case in result.cases:
        ours = lines_of(axis, result, case.initialisation)
        (curve,) = (line for line in ours if line.get_label() == case.initialisation)
        np.testing.assert_allclose(curve.get_xydata(), [(p.cases, p.auc) for p in case.curve])
        (law,) = (line for line in ours if len(line.get_xdata()) == 100)
        n, p = np.asarray(law.get_xdata()), case.projection
        assert n[0] == case.curve[-1].cases
        np.testing.assert_allclose(law.get_ydata(), np.clip(p.a - p.b * n**-p.c, 0, 1))
    assert any(set(line.get_ydata()) == {0.8} for line in axis.get_lines())
    low, high = axis.get_xlim()
    assert low < 2
    assert high > 23 + 210


def test_all_cases_with_their_interval_and_the_cases_needed(figures: list[Figure], tmp_path: Path) -> None:
    result = examples.cases()
    (axis,) = draw(result, tmp_path, figures)
    bars = [c.get_segments()[0] for c in axis.collections if hasattr(c, "get_segments") and len(c.get_segments()) == 1]
    assert [list(bar[:, 1]) for bar in bars] == [[c.auc.low, c.auc.high] for c in result.cases]
    assert bars[0][0, 0] == 23
    assert len({bar[0, 0] for bar in bars}) == 3  # beside each other
    marks = [line for line in lines_of(axis, result, DINO) if line.get_marker() == "|"]
    assert [list(line.get_xdata()) for line in marks] == [[23 + 31]]
    assert any(list(line.get_xdata()) == [23 + 12, 23 + 90] for line in lines_of(axis, result, DINO))
    assert not [line for line in lines_of(axis, result, RANDOM) if line.get_marker() == "|"]  # not within 500


def test_without_projection_or_curve(figures: list[Figure], tmp_path: Path) -> None:
    one = examples.case("x", DINO, projection=None, curve=(), note="too few cases")
    (axis,) = draw(replace(examples.cases(), cases=(one,)), tmp_path, figures)
    assert not any(len(line.get_xdata()) == 100 for line in axis.get_lines())
    legend = [text.get_text() for text in figures[0].legends[0].get_texts()]
    assert legend == [DINO, "all cases, pairs of patients left out, 95 % interval"]


def test_a_target_that_is_reached_has_no_bar(figures: list[Figure], tmp_path: Path) -> None:
    case = examples.case("x", DINO)
    done = replace(case, projection=replace(case.projection, more_cases=0, low=0, high=0))
    (axis,) = draw(replace(examples.cases(), cases=(done,)), tmp_path, figures)
    assert not any(line.get_marker() == "|" for line in axis.get_lines())


def test_several_findings_and_hostile_names(
    figures: list[Figure], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cases, "_MOST", 2)  # as 12 are, but drawn at once
    assert len(draw(examples.cases(["a", "b", "c"]), tmp_path, figures)) == 2
    assert "the first 2 of 3 findings" in figures[0]._suptitle.get_text()
    (axis,) = draw(examples.hostile(), tmp_path, figures)
    assert axis.get_title().startswith('<script src="http:')
    texts = figures[1].findobj(lambda artist: hasattr(artist, "get_parse_math"))
    assert not any(text.get_parse_math() for text in texts if text.get_text())


def test_no_cases_no_figure(tmp_path: Path) -> None:
    assert not draw_cases(examples.linear(), tmp_path / "x.png")
    assert not list(tmp_path.iterdir())

"""The picture of a verdict: what is drawn is what was measured, for one run and for many, whatever the names."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import same_color
from matplotlib.figure import Figure
from PIL import Image

from scarce_cli.evaluation.collapse import CollapseMetrics, collapse_metrics
from scarce_cli.figures.collapse import CollapseCurve, draw_collapse

HOSTILE = ["$\\frac{a}{b$", "_under_", "<script>", "line\nbreak", "x" * 400, "[red]x[/red]", "%s {0} \x1b[31m", "肺"]
STD, COSINE, RANK = range(3)
Signals = Mapping[str, tuple[Sequence[float], Sequence[float]]]


def films(seed: int = 0, count: int = 24, spread: float = 1.0) -> np.ndarray:
    """Features whose spectrum falls as 1 / index."""
    rng = np.random.default_rng(seed)
    return (5 + spread * rng.normal(size=(count, 16)) / np.arange(1, 17)).astype(np.float32)


def metrics(std: float, cosine: float = 0.9, rank: float | None = 15.0, **changed: Any) -> CollapseMetrics:
    values: dict[str, Any] = {
        "films": 24, "dimensions": 16, "std": std, "relative_std": std, "dead_dimensions": 0, "mean_cosine": cosine,
        "mean_cosine_centred": 0.0, "effective_rank": rank, "rank_cap": 23, "rankme": 9.0, "alpha": 1.2,
        "alpha_range": (2, 9), "uniformity": -0.5,
    }  # fmt: skip
    return CollapseMetrics(**values | changed)


def curve(name: str = "runs/a", *stds: float, **changed: Any) -> CollapseCurve:
    shown = [metrics(std) for std in stds or (0.3,)]
    values: dict[str, Any] = {
        "state": "healthy", "called": "healthy", "epochs": range(1, len(shown) + 1), "metrics": shown,
        "random": metrics(0.25, 0.96, 12.0), "last_ND": films(), "random_ND": films(1),
    }  # fmt: skip
    return CollapseCurve(name, **values | changed)


@pytest.fixture
def sketch(figures: list[Figure], monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures as laid out, without the time that it takes to paint them."""
    monkeypatch.setattr(Figure, "savefig", lambda self, handle, **options: None)
    return figures


def is_png(path: Path) -> bool:
    with Image.open(path) as image:
        image.load()
        return image.format == "PNG" and np.asarray(image).std() > 0


def titled(figure: Figure, words: str) -> Axes:
    (axis,) = [axis for axis in figure.axes if words in axis.get_title()]
    return axis


def test_measures_are_drawn_beside_random(sketch: list[Figure], tmp_path: Path) -> None:
    draw_collapse([curve("runs/a", 0.3, 0.2, 0.1)], tmp_path / "x.png")
    axes = sketch[0].axes
    assert list(axes[STD].get_lines()[0].get_ydata()) == [0.3, 0.2, 0.1]
    assert list(axes[STD].get_lines()[0].get_xdata()) == [1, 2, 3]
    for number, random, end in ((STD, 0.25, 0.0), (COSINE, 0.96, 1.0), (RANK, 12.0, 0.0)):
        line = axes[number].get_lines()[1]
        assert list(line.get_ydata()) == [random, random]
        assert line.get_linestyle() == "--"
        low, high = axes[number].get_ylim()
        values = [value for line in axes[number].get_lines() for value in line.get_ydata()]
        assert low < min([*values, 0.0, end])
        assert max([*values, end]) < high
        assert axes[number].get_xlabel() == "epoch"
    assert axes[RANK].get_title() == "effective rank (at most 23)"
    legend = [text.get_text() for text in sketch[0].legends[0].get_texts()]
    assert legend == ["runs/a: healthy", "random initialisation"]


@pytest.mark.parametrize("state", ["healthy", "suspicious", "collapsed"])
def test_the_title_is_the_verdict_in_its_colour(sketch: list[Figure], tmp_path: Path, state: str) -> None:
    colours = {"healthy": "#1a7f37", "suspicious": "#b35900", "collapsed": "#c00000"}
    one = curve("runs/a", state=state, called=f"{state}: of this")
    draw_collapse([one], tmp_path / "x.png")
    assert sketch[0].get_suptitle() == f"runs/a: {state}: of this"
    assert same_color(sketch[0]._suptitle.get_color(), colours[state])
    draw_collapse([curve("b"), one, curve("c")], tmp_path / "y.png")
    counts = "3 healthy" if state == "healthy" else f"1 {state}, 2 healthy"
    assert sketch[1].get_suptitle() == f"3 runs: {counts}"
    assert same_color(sketch[1]._suptitle.get_color(), colours[state])


def test_looks_of_the_run_itself_are_thin_and_ranks_only_of_as_many_films(sketch: list[Figure], tmp_path: Path) -> None:
    looks = [(epoch, metrics(0.2 + epoch / 10, films=12)) for epoch in (0.5, 0.7, 0.9)]
    draw_collapse([curve(looks=looks)], tmp_path / "x.png")
    draw_collapse([curve(looks=[(e, metrics(m.std)) for e, m in looks])], tmp_path / "y.png")
    for figure, ranks in zip(sketch, (2, 3), strict=True):
        line = figure.axes[STD].get_lines()[2]
        assert list(line.get_xdata()) == [0.5, 0.7, 0.9]
        assert list(line.get_ydata()) == pytest.approx([0.25, 0.27, 0.29])
        assert line.get_linewidth() < figure.axes[STD].get_lines()[0].get_linewidth()
        assert len(figure.axes[RANK].get_lines()) == ranks
        assert figure.axes[STD].get_xlim()[0] < 0.5
        assert figure.legends[0].get_texts()[-1].get_text() == "during the run"


def test_signals_stand_beside_what_they_are_where_films_are_not_told_apart(
    sketch: list[Figure], tmp_path: Path
) -> None:
    """Those that mean the same share a panel; another name for the loss, and what has no such value, is left out."""
    signals: Signals = {
        "loss": ([0, 1], [3.0, 2.0]), "again": ([0, 1], [3.0, 2.0]), "entropy": ([0, 1], [1.0, 2.5]),
        "information": ([1], [0.5]), "other": ([0, 1], [7.0, 7.0]),
    }  # fmt: skip
    blind = {"loss": 3.5, "again": 3.5, "entropy": 3.5, "information": 0.0, "absent": 1.0}
    draw_collapse([curve(signals=signals, blind=blind)], tmp_path / "x.png")
    panels = [axis for axis in sketch[0].axes if axis.get_title().startswith("signals")]
    shown = [[text.get_text() for text in axis.get_legend().get_texts()] for axis in panels]
    assert shown == [["loss", "entropy"], ["information"]]
    *lines, dashed = panels[0].get_lines()
    assert [list(line.get_ydata()) for line in lines] == [[3.0, 2.0], [1.0, 2.5]]
    assert len({str(line.get_linestyle()) for line in (*lines, dashed)}) == 3
    assert list(dashed.get_ydata()) == [3.5, 3.5]
    assert panels[0].get_ylim()[1] > 3.5
    other = curve("b", signals={"loss": ([0, 1], [30.0, 20.0])}, blind={"loss": 32.0})
    draw_collapse([curve(signals=signals, blind=blind), other], tmp_path / "z.png")  # other scales, other panels
    panels = [axis for axis in sketch[1].axes if axis.get_title().startswith("signals")]
    assert [axis.get_lines()[-1].get_ydata()[0] for axis in panels] == [3.5, 0.0, 32.0]
    draw_collapse([curve(signals={"loss": ([1], [2.0])})], tmp_path / "y.png")
    (panel,) = [axis for axis in sketch[2].axes if axis.get_title().startswith("signals")]
    assert len(panel.get_lines()) == 1  # nothing is known of it, so that there is no dashed line


def test_the_spectrum_falls_from_one_with_the_fitted_range_shaded(sketch: list[Figure], tmp_path: Path) -> None:
    draw_collapse([curve()], tmp_path / "x.png")
    axis = titled(sketch[0], "singular values")
    assert axis.get_title() == "singular values (alpha: 1.20, random 1.20)"
    assert (axis.get_xscale(), axis.get_yscale()) == ("log", "log")
    for line, features in zip(axis.get_lines(), (films(), films(1)), strict=True):
        expected = np.linalg.svd(features - features.mean(axis=0, dtype=np.float64), compute_uv=False)
        np.testing.assert_allclose(line.get_ydata(), expected / expected[0], rtol=1e-6)
        assert list(line.get_xdata()) == list(range(1, 17))
    assert axis.get_lines()[1].get_linestyle() == "--"
    (shade,) = axis.patches
    assert (shade.get_x(), shade.get_x() + shade.get_width()) == (2, 9)


def test_cosines_of_all_pairs_are_counted(sketch: list[Figure], tmp_path: Path) -> None:
    draw_collapse([curve(last_ND=films(count=300), random_ND=films(1, spread=0.3))], tmp_path / "x.png")
    axis = titled(sketch[0], "cosines")
    stairs = [patch for patch in axis.patches if not patch.get_fill()]
    for patch, features in zip(stairs, (films(count=300), films(1, spread=0.3)), strict=True):
        unit = [row / np.linalg.norm(row) for row in features.astype(np.float64)]
        cosines = [float(a @ b) for a, b in combinations(unit, 2)]
        shares, edges, _ = patch.get_data()
        expected = np.histogram(cosines, bins=edges)[0] / len(cosines)
        np.testing.assert_allclose(shares, expected, atol=3 / len(cosines))  # on an edge, a rounding decides
        assert shares.sum() == pytest.approx(1.0)
        assert len(shares) <= 61


DEAD = metrics(0.0, 1.0, None, alpha=None, alpha_range=None)


def test_a_constant_encoder_leaves_a_gap_not_a_rank_of_nought(sketch: list[Figure], tmp_path: Path) -> None:
    same, two = np.ones((5, 16)), films(count=2)
    draw_collapse([curve(metrics=[metrics(0.3), DEAD], epochs=[1, 2], last_ND=same)], tmp_path / "x.png")
    assert math.isnan(sketch[0].axes[RANK].get_lines()[0].get_ydata()[1])
    assert len(titled(sketch[0], "singular values").get_lines()) == 1
    measured = collapse_metrics(two)
    dead = curve(metrics=[DEAD], random=DEAD, last_ND=0 * same, random_ND=same)
    draw_collapse([dead, curve(metrics=[measured], random=measured, last_ND=two, random_ND=two)], tmp_path / "x.png")
    assert len(titled(sketch[1], "singular values").get_lines()) == 2  # of two films


def test_nothing_but_constant_features_can_be_painted(figures: list[Figure], tmp_path: Path) -> None:
    same = np.ones((5, 16))
    draw_collapse([curve(metrics=[DEAD], random=DEAD, last_ND=0 * same, random_ND=same)], tmp_path / "x.png")
    (text,) = titled(figures[0], "singular values").texts
    assert text.get_text() == "constant features: no spectrum"
    assert is_png(tmp_path / "x.png")


def test_epochs_are_whole_numbers_and_one_is_a_point(sketch: list[Figure], tmp_path: Path) -> None:
    draw_collapse([curve("a", 0.3)], tmp_path / "one.png")
    draw_collapse([curve("a", 0.3, 0.3, 0.3, 0.3)], tmp_path / "four.png")
    for figure in sketch:
        for axis in figure.axes[:3]:
            assert all(tick == round(tick) for tick in axis.get_xticks())


def test_a_negative_cosine_is_in_the_picture(sketch: list[Figure], tmp_path: Path) -> None:
    draw_collapse([curve(metrics=[metrics(1.0, -0.2)])], tmp_path / "x.png")
    assert sketch[0].axes[COSINE].get_ylim()[0] < -0.2


def test_several_runs_have_their_own_random_whatever_their_names(figures: list[Figure], tmp_path: Path) -> None:
    names = [*HOSTILE, "b"]
    signals: Signals = {"loss": ([0, 1], [2.0, 1.0]), "$x$": ([0, 1], [1.0, 1.5])}
    draw_collapse(
        [curve(name, 0.3, 0.2, called=f"healthy {name}", signals=signals, blind={"$x$": 2.0}) for name in names],
        tmp_path / "x.png",
    )
    assert is_png(tmp_path / "x.png")
    lines = figures[0].axes[STD].get_lines()
    assert len(lines) == 2 * len(names)
    assert lines[0].get_color() == lines[1].get_color() != lines[2].get_color()
    legend = [text.get_text() for text in figures[0].legends[0].get_texts()]
    assert len(legend) == len(lines)
    assert all(len(label) <= 60 and label.isprintable() for label in legend)
    texts = figures[0].findobj(lambda artist: hasattr(artist, "get_parse_math"))
    assert not any(text.get_parse_math() for text in texts if text.get_text())


@pytest.mark.parametrize("runs", [1, 3])
def test_nothing_overlaps(figures: list[Figure], tmp_path: Path, runs: int) -> None:
    """Titles, labels and axes of the panels, the page's title and the legend each have a place of their own."""
    signals: Signals = {"loss": ([0, 1], [2.0, 1.0]), "x": ([0, 1], [0.1, 0.5])}
    draw_collapse(
        [curve(f"runs/{n}", 0.3, 0.2, signals=signals, blind={"loss": 3.0, "x": 0.0}) for n in range(runs)],
        tmp_path / "x.png",
    )
    figure = figures[0]
    parts = [axis for axis in figure.axes if axis.axison]
    boxes = [part.get_tightbbox() for part in (*parts, *figure.legends)]
    boxes.append(figure._suptitle.get_window_extent())
    for one, other in combinations(boxes, 2):
        assert not one.padded(-1).overlaps(other.padded(-1))
    width, height = figure.get_size_inches() * figure.dpi
    for box in boxes:
        assert box.x0 >= -1
        assert box.y0 >= -1
        assert box.x1 <= width + 1
        assert box.y1 <= height + 1

"""Learning curves: what is drawn is what was measured, in the same look everywhere, whatever the names."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from scarce_cli.figures import learning
from scarce_cli.figures.initialisations import looks
from scarce_cli.figures.learning import draw_learning_curves
from tests.evaluation.fewshot import examples
from tests.evaluation.fewshot.examples import DINO, IMAGENET, RANDOM, SHOTS


def is_png(path: Path) -> bool:
    with Image.open(path) as image:
        image.load()
        return image.format == "PNG" and np.asarray(image).std() > 0


def test_lines_and_bands_are_the_scores(figures: list[Figure], tmp_path: Path) -> None:
    result = examples.linear()
    assert draw_learning_curves(result, tmp_path / "x.png")
    assert is_png(tmp_path / "x.png")
    mean, *findings = (axis for axis in figures[0].axes if axis.axison)
    assert [axis.get_title().splitlines()[0] for axis in findings] == list(examples.FINDINGS)
    assert mean.get_title() == "mean of 2 findings"
    assert "not in the mean" in findings[2].get_title()
    for axis, scores in [(mean, result.means), *((a, [s for s in result.scores if s.finding == f])
                         for a, f in zip(findings, examples.FINDINGS, strict=True))]:  # fmt: skip
        bands = iter(axis.collections)
        for name in (RANDOM, IMAGENET, DINO):
            (line,) = (line for line in axis.get_lines() if line.get_label() == name)
            line_scores = [s for s in scores if s.initialisation == name]
            assert list(line.get_xdata()) == list(SHOTS)
            np.testing.assert_allclose(line.get_ydata(), [s.auc.mean for s in line_scores])
            assert line.get_color() == looks(result)[name].colour
            band = next(bands).get_paths()[0].vertices
            for score in line_scores:
                ends = band[np.isclose(band[:, 0], score.shots), 1]
                np.testing.assert_allclose([ends.min(), ends.max()], [score.auc.low, score.auc.high])
        low, high = axis.get_ylim()
        assert low <= min(s.auc.low for s in scores)
        assert high >= max(s.auc.high for s in scores)
        assert [label.get_text() for label in axis.get_xticklabels()] == [str(n) for n in SHOTS]
    assert [text.get_text() for text in figures[0].legends[0].get_texts()] == [RANDOM, IMAGENET, DINO]


def test_a_single_number_of_shots_shows_its_intervals(figures: list[Figure], tmp_path: Path) -> None:
    result = examples.linear(("Pneumonia",), (5,))
    draw_learning_curves(result, tmp_path / "x.png")
    (axis,) = figures[0].axes  # one finding is its own mean
    bars = [collection.get_segments()[0] for collection in axis.collections]
    for bar, score in zip(bars, result.scores, strict=True):
        np.testing.assert_allclose(bar[:, 1], [score.auc.low, score.auc.high])
    places = [bar[0, 0] for bar in bars]
    assert len(set(places)) == 3  # beside each other
    low, high = axis.get_xlim()
    assert all(low < place < high for place in places)


def test_of_very_many_findings_those_with_most_patients_are_drawn(
    figures: list[Figure], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(learning, "_MOST", 2)  # as 23 are, but drawn at once
    names = [f"f{n}" for n in range(4)]
    result = examples.linear(names, (5,))
    tested = tuple(replace(t, positive_patients=20 + n) for n, t in enumerate(result.tested))
    draw_learning_curves(replace(result, tested=tested), tmp_path / "x.png")
    titles = [axis.get_title() for axis in figures[0].axes if axis.axison]
    assert titles[1:] == names[2:]
    assert "2 of 4 findings" in figures[0]._suptitle.get_text()


def test_what_a_finding_is_held_against_is_said_once_or_by_each(figures: list[Figure], tmp_path: Path) -> None:
    result = examples.linear(("a", "b"), (5,))
    draw_learning_curves(result, tmp_path / "x.png")
    assert "each against the rest" in figures[0]._suptitle.get_text()
    scores = tuple(replace(s, against="No Finding") if s.finding == "b" else s for s in result.scores)
    draw_learning_curves(replace(result, scores=scores), tmp_path / "x.png")
    assert [axis.get_title() for axis in figures[1].axes if axis.axison][1:] == [
        "a\nagainst the rest", "b\nagainst No Finding",
    ]  # fmt: skip


def test_hostile_names_are_shown_not_read(figures: list[Figure], tmp_path: Path) -> None:
    result = examples.hostile()
    draw_learning_curves(result, tmp_path / "x.png")
    assert is_png(tmp_path / "x.png")
    titles = [axis.get_title() for axis in figures[0].axes if axis.axison][1:]
    assert titles[2] == "=HYPERLINK(0)|[red]x[/red]"
    assert titles[5].endswith("$\\frac{a}{b$ %s {0}")
    assert all(len(line) <= 45 for title in titles for line in title.splitlines())
    texts = figures[0].findobj(lambda artist: hasattr(artist, "get_parse_math"))
    assert not any(text.get_parse_math() for text in texts if text.get_text())
    assert all(c.isprintable() for text in texts for c in text.get_text().replace("\n", ""))


def test_nothing_to_draw(figures: list[Figure], tmp_path: Path) -> None:
    assert not draw_learning_curves(examples.cases(), tmp_path / "x.png")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("checkpoints", [1, 3])
def test_checkpoints_have_colours_and_baselines_are_grey_and_broken(checkpoints: int) -> None:
    made = examples.linear()
    more = tuple(replace(made.initialisations[2], name=f"c{n}") for n in range(checkpoints))
    style = looks(replace(made, initialisations=(*made.initialisations[:2], *more)))
    colours = [look.colour for look in style.values()]
    assert len(set(colours)) == len(colours) == 2 + checkpoints
    for name, look in style.items():
        red, green, blue = (look.colour[i : i + 2] for i in (1, 3, 5))
        assert (red == green == blue) == (name in (RANDOM, IMAGENET)) == (look.style != "-")

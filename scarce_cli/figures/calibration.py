"""Reliability curves: how often a finding is there when its probability says so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from scarce_cli.evaluation.fewshot.result import Result, Score
from scarce_cli.figures.initialisations import LIGHT, Look, grid, legend_below, looks, tidy
from scarce_cli.figures.page import page, plain

_COLUMNS = 3
_MOST = 24  # findings with a panel
_TITLE = 34  # characters
_SMALL, _LARGE = 4.0, 26.0  # square points of a marker: of no film, of most films


def draw_calibration(result: Result, path: Path) -> bool:
    """A PNG: one panel for each finding at its largest number of shots, both axes as long as its probabilities reach;
    larger points stand for more films.

    Of more than 24 findings the first are drawn, which the figure says. Returns whether there was anything to draw:
    scores that are no probabilities have no such curve.

    Raises:
        ResourceError: the file cannot be written.
    """
    style, panels = looks(result), _panels(result)
    if not panels:
        return False
    shown = panels[:_MOST]
    rows, columns = grid(len(shown), _COLUMNS)
    with page(path, rows, columns, size=(2.8 * columns + 0.4, 2.9 * rows + 0.5)) as (figure, axes):
        for axis, scores in zip(axes.flat, shown, strict=False):
            _draw(axis, scores, style)
        for axis in axes.flat[len(shown) :]:
            axis.axis("off")
        used = {name: look for name, look in style.items() if any(s.initialisation == name for p in shown for s in p)}
        legend_below(figure, used, {"as it should be": Line2D([], [], color=LIGHT, linewidth=0.8)})
        some = f" (the first {len(shown)} of {len(panels)} findings)" if len(shown) < len(panels) else ""
        figure.suptitle(plain(f"Can the probabilities be believed?{some}", 90), fontsize=10)
    return True


def _panels(result: Result) -> list[list[Score]]:
    """Of each finding the scores at its largest number of shots that has probabilities."""
    known: dict[tuple[str, str], list[Score]] = {}
    for score in result.scores:
        if score.calibration is not None and score.calibration.bins:
            known.setdefault((score.finding, score.against), []).append(score)
    return [[s for s in scores if s.shots == max(x.shots for x in scores)] for scores in known.values()]


def _draw(axis: Axes, scores: Sequence[Score], style: Mapping[str, Look]) -> None:
    tidy(axis)
    axis.plot([0, 1], [0, 1], color=LIGHT, linewidth=0.8)
    by_name = {s.initialisation: s for s in scores}
    most = max(b.films for s in scores if s.calibration for b in s.calibration.bins)
    for name in (name for name in style if name in by_name):
        _draw_line(axis, by_name[name], style[name], most)
    end = _end(scores)
    axis.set(xlim=(-0.03 * end, end), ylim=(-0.03 * end, end), aspect="equal")
    for one in (axis.xaxis, axis.yaxis):
        one.set_major_locator(MaxNLocator(nbins=5))
        one.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))  # matplotlib's own may be formulas
    axis.set_xlabel("predicted probability", fontsize=8.5)
    axis.set_ylabel("share with the finding", fontsize=8.5)
    shots = f"{scores[0].shots} shot{'s' * (scores[0].shots > 1)}"
    axis.set_title(f"{plain(scores[0].finding, _TITLE)}\n{shots}", fontsize=9)


def _end(scores: Sequence[Score]) -> float:
    """Of both axes: a rare finding has no large probability."""
    bins = [b for s in scores if s.calibration for b in s.calibration.bins]
    return min(1.03, 1.1 * max(0.02, *(value for b in bins for value in (b.predicted, b.observed))))


def _draw_line(axis: Axes, score: Score, look: Look, most: float) -> None:
    if score.calibration is None:
        return
    bins = score.calibration.bins
    predicted, observed = [b.predicted for b in bins], [b.observed for b in bins]
    sizes = [_SMALL + (_LARGE - _SMALL) * b.films / most if most else _SMALL for b in bins]
    axis.plot(predicted, observed, color=look.colour, linestyle=look.style, linewidth=1.4, label=score.initialisation)
    axis.scatter(predicted, observed, s=sizes, marker=look.marker, color=look.colour, alpha=0.75, linewidth=0, zorder=3)

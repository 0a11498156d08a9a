"""Few-shot learning curves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from scarce_cli.evaluation.probe import Score
from scarce_cli.figures.page import page, plain

_COLOURS = ("#7f7f7f", "#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e")
_COLUMNS = 4
_TITLE, _NAME = 32, 60  # characters over a panel, in the legend
_LETTER, _LINE = 0.065, 0.17  # inches of the legend's 8 point letters


def draw_learning_curves(scores: Sequence[Score], path: Path) -> None:
    """AUC over shots, one panel for each finding, one line for each initialisation, 95 % intervals.

    Raises ResourceError.
    """
    tasks = list(dict.fromkeys((s.finding, s.negative) for s in scores))
    columns = min(_COLUMNS, len(tasks))
    rows = math.ceil(len(tasks) / columns)
    size = (3.4 * columns + 0.8, 3.0 * rows + 0.8)
    with page(path, rows, columns, size=size, sharey=True) as (figure, axes):
        for axis, task in zip(axes.flat, tasks, strict=False):
            _draw_task(axis, [s for s in scores if (s.finding, s.negative) == task])
        for axis in axes.flat[len(tasks) :]:
            axis.axis("off")
        for axis in axes[:, 0]:
            axis.set_ylabel("AUC on test patients")
        _legend(figure, axes[0, 0])
        figure.suptitle("Few-shot linear probe\nwith 95 % intervals", fontsize=10)


def _draw_task(axis: Axes, scores: Sequence[Score]) -> None:
    names = dict.fromkeys(s.initialisation for s in scores)
    for number, name in enumerate(names):
        _draw_line(axis, [s for s in scores if s.initialisation == name], number)
    axis.axhline(0.5, color="black", linewidth=0.6, linestyle=":")
    ticks = sorted({s.shots for s in scores})
    axis.set_xscale("log")
    axis.set_xlim(ticks[0] / 1.3, ticks[-1] * 1.3)
    axis.set_xticks(ticks, [str(n) for n in ticks])
    axis.minorticks_off()
    axis.set_xlabel("labelled films per class")
    title = f"{plain(scores[0].finding, _TITLE)}\nagainst {plain(scores[0].negative, _TITLE)}"
    axis.set_title(title, fontsize=9)


def _draw_line(axis: Axes, line: Sequence[Score], number: int) -> None:
    """A line with a band; for one number of shots a point with a bar, beside those of other initialisations."""
    alone, colour = len(line) == 1, _COLOURS[number % len(_COLOURS)]
    shots = [s.shots * (1 + 0.03 * number * alone) for s in line]
    low, high = [s.auc.low for s in line], [s.auc.high for s in line]
    axis.plot(shots, [s.auc.mean for s in line], "o-", color=colour, label=line[0].initialisation, markersize=4)
    if alone:
        axis.vlines(shots, low, high, color=colour, alpha=0.5)
    else:
        axis.fill_between(shots, low, high, color=colour, alpha=0.15)


def _legend(figure: Figure, axis: Axes) -> None:
    """Below all panels, which keep their height. Given the labels, matplotlib also lists names that begin
    with an underscore."""
    lines = [line for line in axis.get_lines() if not str(line.get_label()).startswith("_child")]
    labels = [plain(str(line.get_label()), _NAME) for line in lines]
    width, height = figure.get_size_inches()
    side_by_side = sum(_LETTER * (len(label) + 8) for label in labels) < width
    figure.set_size_inches(width, height + _LINE * (1 if side_by_side else len(lines)))
    columns = len(lines) if side_by_side else 1
    figure.legend(lines, labels, fontsize=8, loc="outside lower center", ncols=columns)

"""What more labelled cases would bring: the learning curve of all there are, and where it leads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

from scarce_cli.evaluation.fewshot.result import Cases, Projection, Result
from scarce_cli.figures.initialisations import LIGHT, Look, grid, legend_below, looks, tidy
from scarce_cli.figures.page import page, plain

_COLUMNS = 2
_MOST = 12  # findings with a panel
_TITLE = 46  # characters
_APART = 1.06  # that bars stand beside each other
_BELOW = 0.014  # of AUC, so that bars at the target do not cover each other
_TARGET = "#b00020"


def draw_cases(result: Result, path: Path) -> bool:
    """A PNG: one panel for each finding, AUC against the number of cases that are learned from.

    The band holds 95 % of the repeats; a large point with a bar is the AUC with pairs of patients left out of all, with
    its interval; dashed goes the projection, and where the lower end of the interval is expected to reach the target
    stands a bar. Of more than 12 findings the first are drawn, which the figure says. Returns whether there was
    anything to draw.

    Raises:
        ResourceError: the file cannot be written.
    """
    tasks = list(dict.fromkeys((c.finding, c.against) for c in result.cases))
    if not tasks:
        return False
    shown, style = tasks[:_MOST], looks(result)
    rows, columns = grid(len(shown), _COLUMNS)
    with page(path, rows, columns, size=(4.9 * columns + 0.6, 3.4 * rows + 0.5)) as (figure, axes):
        for axis, task in zip(axes.flat, shown, strict=False):
            _draw(axis, [c for c in result.cases if (c.finding, c.against) == task], style)
        for axis in axes.flat[len(shown) :]:
            axis.axis("off")
        used = {name: look for name, look in style.items() if any(c.initialisation == name for c in result.cases)}
        legend_below(figure, used, _signs(result))
        some = f" (the first {len(shown)} of {len(tasks)} findings)" if len(shown) < len(tasks) else ""
        figure.suptitle(f"AUC against the number of cases{some}", fontsize=10)
    return True


def _signs(result: Result) -> dict[str, Artist]:
    signs: dict[str, Artist] = {
        "all cases, pairs of patients left out, 95 % interval": Line2D(
            [], [], color=LIGHT, marker="o", markersize=8, markerfacecolor="white", markeredgewidth=1.6
        )
    }
    if any(c.projection for c in result.cases):
        signs["projection"] = Line2D([], [], color=LIGHT, linestyle=(0, (1, 1)))
        signs["target, and cases at which the interval is above it"] = Line2D(
            [], [], color=_TARGET, linestyle="-", linewidth=1, marker="|", markersize=9
        )
    return signs


def _draw(axis: Axes, rows: Sequence[Cases], style: Mapping[str, Look]) -> None:
    tidy(axis)
    axis.axhline(0.5, color=LIGHT, linewidth=0.8, linestyle=":")
    by_name = {row.initialisation: row for row in rows}
    end = max(_end(row) for row in rows)
    for number, name in enumerate(name for name in style if name in by_name):
        _draw_curve(axis, by_name[name], style[name])
        _draw_all(axis, by_name[name], style[name], number)
        _draw_projection(axis, by_name[name], style[name], end, number)
    for target in {row.projection.target for row in rows if row.projection}:
        axis.axhline(target, color=_TARGET, linewidth=1)
    _scale(axis, rows, end)
    axis.set_ylabel("AUC", fontsize=8.5)
    cases, controls = rows[0].cases, rows[0].controls
    axis.set_title(f"{plain(rows[0].finding, _TITLE)}\n{cases} cases, {controls} controls", fontsize=9)


def _draw_curve(axis: Axes, row: Cases, look: Look) -> None:
    n = [p.cases for p in row.curve]
    axis.plot(n, [p.auc for p in row.curve], color=look.colour, marker=look.marker, markersize=4, linewidth=1.6,
              linestyle=look.style, label=row.initialisation, zorder=3)  # fmt: skip
    axis.fill_between(
        n, [p.low for p in row.curve], [p.high for p in row.curve], color=look.colour, alpha=look.band, linewidth=0
    )

    for ends in ([p.low for p in row.curve], [p.high for p in row.curve]):
        axis.plot(n, ends, color=look.colour, linestyle=look.style, linewidth=0.6, alpha=0.55)


def _draw_all(axis: Axes, row: Cases, look: Look, number: int) -> None:
    place = row.cases * _APART**number
    axis.vlines(place, row.auc.low, row.auc.high, color=look.colour, linewidth=1.4)
    axis.plot([place], [row.auc.mean], marker=look.marker, markersize=8, markerfacecolor="white", markeredgewidth=1.6,
              markeredgecolor=look.colour, linestyle="", zorder=4)  # fmt: skip


def _draw_projection(axis: Axes, row: Cases, look: Look, end: float, number: int) -> None:
    if row.projection is None:
        return
    start = row.curve[-1].cases if row.curve else row.cases
    n = np.geomspace(max(1, start), max(end, start + 1), 100)
    axis.plot(n, _curve(row.projection, n), color=look.colour, linestyle=(0, (1, 1)), linewidth=1.3)
    _draw_needed(axis, row, row.projection, look, number)


def _draw_needed(axis: Axes, row: Cases, projection: Projection, look: Look, number: int) -> None:
    """Where the target is reached, with its interval; nothing where it is reached already, or is never."""
    more, low, high = projection.more_cases, projection.low, projection.high
    if more == 0 or (more is None and low is None):
        return
    ends = [low if low is not None else more, projection.most if high is None else high]
    places, height = [row.cases + (end or 0) for end in ends], projection.target - _BELOW * number
    axis.plot(places, [height] * 2, color=look.colour, linewidth=4, alpha=0.45, solid_capstyle="butt")
    if more is not None:
        axis.plot([row.cases + more], [height], marker="|", markersize=14, markeredgewidth=2,
                  color=look.colour, linestyle="", zorder=4)  # fmt: skip


def _curve(projection: Projection, n: np.ndarray) -> np.ndarray:
    return np.clip(projection.a - projection.b * n**-projection.c, 0.0, 1.0)


def _end(row: Cases) -> float:
    """The last number of cases that is of interest."""
    if row.projection is None:
        return row.cases
    more = row.projection.more_cases if row.projection.high is None else row.projection.high
    return row.cases + (row.projection.most if more is None else min(row.projection.most, 1.3 * more))


def _scale(axis: Axes, rows: Sequence[Cases], end: float) -> None:
    first = min([p.cases for row in rows for p in row.curve] or [row.cases for row in rows])
    axis.set_xscale("log")
    axis.set_xlim(max(0.8, first / 1.2), max(end, rows[0].cases * _APART ** len(rows)) * 1.15)
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=12))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))  # matplotlib's own are formulas
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_minor_formatter(NullFormatter())
    values = [v for row in rows for p in row.curve for v in (p.low, p.high)]
    values += [v for row in rows for v in (row.auc.low, row.auc.high, row.auc.mean)] + [0.5]
    values += [row.projection.target for row in rows if row.projection]
    finite = [v for v in values if np.isfinite(v)]
    axis.set_ylim(max(-0.02, min(finite) - 0.03), min(1.02, max(finite) + 0.05))
    axis.set_xlabel("patients with the finding that are learned from", fontsize=8.5)

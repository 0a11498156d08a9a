"""Few-shot learning curves: AUC against the number of labelled films."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from scarce_cli.evaluation.fewshot.result import MeanScore, Result, Score
from scarce_cli.figures.initialisations import LIGHT, Look, grid, legend_below, looks, tidy
from scarce_cli.figures.page import page, plain

_COLUMNS = 3
_MOST = 23  # findings with a panel: a page that is still read
_TITLE = 38  # characters
_APART = 0.035  # of decades that bars stand beside each other


@dataclass(frozen=True)
class _Panel:
    title: str
    lines: Mapping[str, Sequence[Score | MeanScore]]  # initialisation -> by shots
    in_mean: bool = True


def draw_learning_curves(result: Result, path: Path) -> bool:
    """A PNG: the mean over several findings, then one panel for each, one line for each initialisation, 95 % intervals.

    Of more than 23 findings those with the most test patients are drawn, which the figure says.
    Returns whether there was anything to draw.

    Raises:
        ResourceError: the file cannot be written.
    """
    if not result.scores:
        return False
    style = looks(result)
    panels = [*_mean(result), *_findings(result)]
    rows, columns = grid(len(panels), _COLUMNS)
    with page(path, rows, columns, size=(3.2 * columns + 0.4, 2.75 * rows + 0.4), sharey=True) as (figure, axes):
        for axis, panel in zip(axes.flat, panels, strict=False):
            _draw(axis, panel, style, sorted({s.shots for s in result.scores}))
        for axis in axes.flat[len(panels) :]:
            axis.axis("off")
        for axis in axes[:, 0]:
            axis.set_ylabel("AUC on test patients", fontsize=8.5)
        _fit(axes[0, 0], [score for panel in panels for line in panel.lines.values() for score in line])
        legend_below(figure, style)
        figure.suptitle(_heading(result, panels), fontsize=10)
    return True


def _heading(result: Result, panels: Sequence[_Panel]) -> str:
    drawn, there = len(panels) - len(_mean(result)), len(_tasks(result))
    some = f"; {drawn} of {there} findings, those with the most patients" if drawn < there else ""
    alike = f", each against {plain(result.scores[0].against, _TITLE)}" if _is_one_contrast(result) else ""
    return f"AUC with 95 % intervals over draws and test patients{alike}{some}"


def _is_one_contrast(result: Result) -> bool:
    return len({against for _, against in _tasks(result)}) == 1


def _tasks(result: Result) -> list[tuple[str, str]]:
    return list(dict.fromkeys((s.finding, s.against) for s in result.scores))


def _mean(result: Result) -> list[_Panel]:
    if len(_tasks(result)) < 2 or not result.means:
        return []
    counts = sorted({len(m.findings) for m in result.means})
    of = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return [_Panel(f"mean of {of} finding{'s' * (counts[-1] > 1)}", _lines(result.means))]


def _findings(result: Result) -> Iterable[_Panel]:
    patients = {(t.finding, t.against): t.positive_patients for t in result.tested}
    most = sorted(_tasks(result), key=lambda task: -patients.get(task, 0))[:_MOST]
    for task in (task for task in _tasks(result) if task in most):
        scores = [s for s in result.scores if (s.finding, s.against) == task]
        few = "" if scores[0].enough else "\ntoo few patients: not in the mean"
        against = "" if _is_one_contrast(result) else f"\nagainst {plain(task[1], _TITLE - 8)}"
        yield _Panel(f"{plain(task[0], _TITLE)}{against}{few}", _lines(scores), scores[0].enough)


def _lines(scores: Sequence[Score | MeanScore]) -> dict[str, list[Score | MeanScore]]:
    lines: dict[str, list[Score | MeanScore]] = {}
    for score in sorted(scores, key=lambda s: s.shots):
        lines.setdefault(score.initialisation, []).append(score)
    return lines


def _draw(axis: Axes, panel: _Panel, style: Mapping[str, Look], ticks: Sequence[int]) -> None:
    tidy(axis)
    axis.axhline(0.5, color=LIGHT, linewidth=0.8, linestyle=":")
    for number, (name, line) in enumerate((n, panel.lines[n]) for n in style if n in panel.lines):
        _draw_line(axis, line, style[name], number if len(ticks) == 1 else 0)
    axis.set_xscale("log")
    beside = 1.25 if len(ticks) > 1 else 2.0
    axis.set_xlim(ticks[0] / beside, ticks[-1] * beside)
    axis.set_xticks(ticks, [str(n) for n in ticks])
    axis.minorticks_off()
    axis.set_xlabel("labelled films of each class", fontsize=8.5)
    axis.set_title(panel.title, fontsize=9, color="black" if panel.in_mean else "#a04000")


def _draw_line(axis: Axes, line: Sequence[Score | MeanScore], look: Look, beside: int) -> None:
    """A line with a band; for one number of shots a point with a bar, beside those of other initialisations."""
    shots = np.array([s.shots for s in line]) * 10 ** (_APART * beside)
    low, high = np.array([s.auc.low for s in line]), np.array([s.auc.high for s in line])
    axis.plot(
        shots,
        [s.auc.mean for s in line],
        color=look.colour,
        linestyle=look.style,
        marker=look.marker,
        markersize=4,
        linewidth=1.6,
        label=line[0].initialisation,
        zorder=3,
    )
    if len(line) == 1:
        axis.vlines(shots, low, high, color=look.colour, linewidth=1.2, alpha=0.7)
    else:
        axis.fill_between(shots, low, high, color=look.colour, alpha=look.band, linewidth=0)
        for end in (low, high):
            axis.plot(shots, end, color=look.colour, linestyle=look.style, linewidth=0.6, alpha=0.55)


def _fit(axis: Axes, scores: Sequence[Score | MeanScore]) -> None:
    """All means and intervals, chance among them; nothing above 1 but a margin."""
    ends = np.array([value for s in scores for value in (s.auc.low, s.auc.high, s.auc.mean)] + [0.5, 0.55])
    ends = ends[np.isfinite(ends)]
    axis.set_ylim(max(-0.02, ends.min() - 0.03), min(1.02, ends.max() + 0.03))

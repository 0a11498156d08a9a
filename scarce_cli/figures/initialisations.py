"""How initialisations look in the figures of a probe: each the same in all of them, told apart without colour too."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from scarce_cli.evaluation.fewshot.result import Result
from scarce_cli.figures.page import plain

# Told apart by eyes that miss red or green (Okabe and Ito, 2008); baselines are grey and broken.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
_MARKERS = ("o", "^", "D", "v", "P", "X")
_GREYS = ("#8a8a8a", "#3c3c3c", "#b0b0b0")
_DASHES = ((0, (4, 2)), (0, (1, 1.2)), (0, (4, 1.5, 1, 1.5)))
_SQUARES = ("s", "p", "h")
_NAME = 60  # characters in the legend
_LETTER, _LINE, _HANDLE = 0.066, 0.18, 0.75  # inches of the legend's 8 point letters, lines, and beside each name

LIGHT = "#7f7f7f"
"""Lines that are no initialisation: chance, a target, the diagonal."""


@dataclass(frozen=True)
class Look:
    """Of a line."""

    colour: str
    style: str | tuple[float, Sequence[float]]
    marker: str
    band: float  # opacity


def looks(result: Result) -> Mapping[str, Look]:
    """For each initialisation by its name: checkpoints in colours, what they are compared with in grey."""
    found: dict[str, Look] = {}
    counts = {True: 0, False: 0}
    for one in result.initialisations:
        checkpoint = one.kind == "checkpoint"
        found[one.name] = _checkpoint(counts[True]) if checkpoint else _baseline(counts[False])
        counts[checkpoint] += 1
    return found


def _checkpoint(number: int) -> Look:
    return Look(_COLOURS[number % len(_COLOURS)], "-", _MARKERS[number % len(_MARKERS)], 0.16)


def _baseline(number: int) -> Look:
    return Look(_GREYS[number % 3], _DASHES[number % 3], _SQUARES[number % 3], 0.12)


def legend_below(figure: Figure, used: Mapping[str, Look], others: Mapping[str, Artist] | None = None) -> None:
    """Names of ``used`` and ``others`` below all panels, which keep their height."""
    handles: list[Artist] = [
        Line2D([], [], color=look.colour, linestyle=look.style, marker=look.marker, markersize=4.5)
        for look in used.values()
    ]
    handles += list((others or {}).values())
    labels = [plain(name, _NAME) for name in (*used, *(others or {}))]
    width, height = figure.get_size_inches()
    columns = max(1, min(len(labels), int(width / (_LETTER * max(map(len, labels)) + _HANDLE))))
    figure.set_size_inches(width, height + _LINE * math.ceil(len(labels) / columns) + 0.05)
    figure.legend(handles, labels, fontsize=8, loc="outside lower center", ncols=columns, frameon=False)


def tidy(axis: Axes) -> None:
    """Small figures, a faint grid, no frame above and to the right."""
    axis.tick_params(labelsize=8)
    axis.grid(alpha=0.25, linewidth=0.5)
    axis.spines[["top", "right"]].set_visible(False)


def grid(panels: int, most_columns: int) -> tuple[int, int]:
    """Rows and columns for ``panels``, as even as they can be in ``most_columns`` or fewer."""
    rows = math.ceil(panels / most_columns)
    return rows, math.ceil(panels / rows)

"""The picture of a verdict: how far films differ over a run, and in what the last features are not those of chance.

Shape suffixes: N films, D feature dimensions, n films of which all pairs are looked at.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from numpy.typing import NDArray

from scarce_cli.evaluation.collapse import CollapseMetrics, l2_normalize, spectrum
from scarce_cli.figures.page import page, plain

_COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf", "#8c564b", "#e377c2")
_GREY = "#7f7f7f"
_STATES = {"healthy": "#1a7f37", "suspicious": "#b35900", "collapsed": "#c00000"}
_STYLES = ("-", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))  # of several signals in one panel; dashes are for chance
_FEW = 3  # points: fewer are no line
_SIGNALS = 3  # panels at most for what the method says
_TITLE, _PANEL, _NAME, _LABEL = 110, 46, 60, 30  # characters over the page, over a panel, of a run, of a signal
_LETTER, _LINE = 0.065, 0.17  # inches of the legend's 8 point letters
_PAIRS_OF = 2048  # films: of more, so many evenly apart
_FINE, _BARS = 4000, 60  # parts of [-1, 1] that cosines are counted in, and that are drawn

Floats = NDArray[np.float64]
Panel = Callable[[Axes], None]


@dataclass(frozen=True)
class CollapseCurve:
    """One run: its checkpoints in order, and the random initialisation that it started from."""

    name: str
    state: str  # "healthy", "suspicious" or "collapsed"
    called: str  # the verdict in a few words
    epochs: Sequence[float]
    metrics: Sequence[CollapseMetrics]
    random: CollapseMetrics
    last_ND: NDArray[np.floating]  # features of the last checkpoint
    random_ND: NDArray[np.floating]
    looks: Sequence[tuple[float, CollapseMetrics]] = ()  # epochs, and what the run itself had measured there
    signals: Mapping[str, tuple[Sequence[float], Sequence[float]]] = field(default_factory=dict)  # epochs and values
    blind: Mapping[str, float] = field(default_factory=dict)  # signal -> its value where films are not told apart


def draw_collapse(curves: Sequence[CollapseCurve], path: Path) -> None:
    """A PNG of one or more runs, the verdict in its title.

    Over epochs: relative std, mean cosine, effective rank and signals, dashed what chance gives; thin what a run had
    measured while it went. Of the last checkpoints: the spectrum, with the range that alpha was fitted over in a
    lighter shade, and the cosines of pairs of films.

    Raises:
        ResourceError: the file cannot be written.
    """
    panels: list[Panel] = [
        *_over_epochs(curves),
        *_signals(curves),
        partial(_draw_spectrum, curves),
        partial(_draw_cosines, curves),
    ]
    columns = 3 if len(panels) <= 6 else 4
    rows = math.ceil(len(panels) / columns)
    with page(path, rows, columns, size=(3.6 * columns, 2.9 * rows + 0.4)) as (figure, axes):
        for axis, panel in zip(axes.flat, panels, strict=False):
            panel(axis)
            axis.tick_params(labelsize=8)
            axis.grid(alpha=0.25, linewidth=0.5)
        for axis in axes.flat[len(panels) :]:
            axis.axis("off")
        _legend(figure, axes[0, 0])
        _say(figure, curves)


def _say(figure: Figure, curves: Sequence[CollapseCurve]) -> None:
    worst = min((curve.state for curve in curves), key=list(_STATES)[::-1].index)
    if len(curves) == 1:
        text = f"{plain(curves[0].name, _NAME)}: {curves[0].called}"
    else:
        counts = [(state, sum(curve.state == state for curve in curves)) for state in reversed(_STATES)]
        text = f"{len(curves)} runs: " + ", ".join(f"{count} {state}" for state, count in counts if count)
    figure.suptitle(plain(text, _TITLE), fontsize=11, color=_STATES[worst], fontweight="bold")


def _over_epochs(curves: Sequence[CollapseCurve]) -> list[Panel]:
    cap = max(curve.random.rank_cap for curve in curves)
    return [
        partial(_draw_measure, curves, "relative std (1: fills the sphere)", lambda m: m.relative_std, 0.0),
        partial(_draw_measure, curves, "mean cosine of different films", lambda m: m.mean_cosine, 1.0),
        partial(_draw_measure, curves, f"effective rank (at most {cap})", _rank, 0.0),
    ]


def _rank(metrics: CollapseMetrics) -> float:
    return math.nan if metrics.effective_rank is None else metrics.effective_rank


def _draw_measure(
    curves: Sequence[CollapseCurve], title: str, value: Callable[[CollapseMetrics], float], end: float, axis: Axes
) -> None:
    """``end``: what it is when all films are alike, which is always on the axis."""
    drawn = [0.0, end]
    for number, curve in enumerate(curves):
        colour, values = _colour(number), [value(m) for m in curve.metrics]
        axis.plot(curve.epochs, values, "o-", color=colour, markersize=4, label=f"{curve.name}: {curve.called}")
        name = "random initialisation" if len(curves) == 1 else f"random initialisation of {curve.name}"
        dashed = _GREY if len(curves) == 1 else colour
        axis.axhline(value(curve.random), color=dashed, linestyle="--", linewidth=1.2, label=name)
        # A rank depends on the number of films, so only looks at as many are on its scale.
        looks = [(e, value(m)) for e, m in curve.looks if value is not _rank or m.films == curve.random.films]
        if len(looks) >= _FEW:
            label = "during the run" if len(curves) == 1 else f"during {curve.name}"
            axis.plot(*zip(*looks, strict=True), color=colour, linewidth=0.9, alpha=0.6, label=label)
        drawn += [*values, value(curve.random), *(v for _, v in looks)]
    _fit(axis, drawn)
    _epochs_below(axis, [e for curve in curves for e in (*curve.epochs, *(place for place, _ in curve.looks))])
    axis.set_title(title, fontsize=9)


def _signals(curves: Sequence[CollapseCurve]) -> list[Panel]:
    """Panels of signals that mean the same: those that read alike where films are not told apart."""
    levels = dict.fromkeys(level for curve in curves for level in _by_level(curve))
    return [partial(_draw_signals, curves, level) for level in list(levels)[:_SIGNALS]]


def _by_level(curve: CollapseCurve) -> dict[str, list[str]]:
    """Names of signals by what they read where films are not told apart; the loss counts where that is not known."""
    levels: dict[str, list[str]] = {}
    for name in sorted(curve.signals, key=lambda name: name != "loss"):
        repeats = name != "loss" and curve.signals[name] == curve.signals.get("loss")
        if (name in curve.blind or name == "loss") and not repeats:
            levels.setdefault(f"{curve.blind.get(name, math.nan):.4g}", []).append(name)
    return levels


def _draw_signals(curves: Sequence[CollapseCurve], level: str, axis: Axes) -> None:
    names = list(dict.fromkeys(name for curve in curves for name in _by_level(curve).get(level, ())))
    drawn: list[float] = [float(level)]
    places: list[float] = []
    known = set()
    for number, curve in enumerate(curves):
        for name in _by_level(curve).get(level, ()):
            style = names.index(name)
            epochs, values = curve.signals[name]
            axis.plot(
                epochs,
                values,
                linestyle=_STYLES[style % len(_STYLES)],
                color=_colour(number if len(curves) > 1 else style),
                linewidth=1.2,
                marker="." if len(epochs) < _FEW else "",
                label=plain(name, _LABEL) if name not in known else None,
            )
            known.add(name)
            drawn, places = [*drawn, *values], [*places, *epochs]
    if math.isfinite(float(level)):
        axis.axhline(float(level), color=_GREY, linestyle="--", linewidth=1.2)
    _fit(axis, drawn)
    _epochs_below(axis, places)
    axis.set_title("signals (dashed: films not told apart)", fontsize=9)
    axis.legend(fontsize=7, framealpha=0.6, loc="best")


def _draw_spectrum(curves: Sequence[CollapseCurve], axis: Axes) -> None:
    """Each over its largest: what is compared is the fall, not the scale."""
    for number, curve in enumerate(curves):
        for features, chance in ((curve.last_ND, False), (curve.random_ND, True)):
            values = spectrum(features, centred=True)
            values = values[values > values[:1] * np.finfo(np.float32).eps] if values.size else values
            if values.size:
                axis.plot(np.arange(1, len(values) + 1), values / values[0], **_look(number, chance, len(curves)))
    for fitted in {curve.metrics[-1].alpha_range for curve in curves}:
        if fitted is not None:
            axis.axvspan(*fitted, color=_GREY, alpha=0.12, linewidth=0)
    axis.set_title(_of_spectrum(curves), fontsize=9)
    axis.set_xlabel("index", fontsize=8)
    if not axis.get_lines():
        _nothing(axis, "constant features: no spectrum")
        return
    axis.set_xscale("log")
    axis.set_yscale("log")
    for one in (axis.xaxis, axis.yaxis):  # matplotlib's own labels are formulas
        one.set_major_locator(LogLocator(numticks=8))
        one.set_major_formatter(FuncFormatter(_short))
        one.set_minor_formatter(NullFormatter())


def _of_spectrum(curves: Sequence[CollapseCurve]) -> str:
    if len(curves) > 1:
        return "singular values over the largest"
    last, random = curves[0].metrics[-1].alpha, curves[0].random.alpha
    known = ", ".join(f"{name}{alpha:.2f}" for name, alpha in (("", last), ("random ", random)) if alpha is not None)
    return f"singular values (alpha: {known})" if known else "singular values over the largest"


def _draw_cosines(curves: Sequence[CollapseCurve], axis: Axes) -> None:
    counted = [(_count_cosines(curve.last_ND), _count_cosines(curve.random_ND)) for curve in curves]
    used = np.flatnonzero(sum(one + other for one, other in counted))
    width = max(1, -(-(int(used[-1]) + 1 - int(used[0])) // _BARS)) if used.size else 1
    start = int(used[0]) if used.size else 0
    edges = np.arange(start, (int(used[-1]) if used.size else 0) + 1 + width, width)
    for number, pair in enumerate(counted):
        for counts, chance in zip(pair, (False, True), strict=True):
            parts = np.add.reduceat(np.append(counts, np.zeros(width)), edges[:-1])
            looks = _look(number, chance, len(curves))
            axis.stairs(parts / max(1, parts.sum()), edges * 2 / _FINE - 1, **looks)
            if not chance and len(curves) == 1:
                axis.stairs(parts / max(1, parts.sum()), edges * 2 / _FINE - 1, fill=True, color=_colour(0), alpha=0.2)
    axis.set_ylim(bottom=0.0)
    axis.set_title("cosines of pairs of films (share of pairs)", fontsize=9)
    axis.set_xlabel("cosine", fontsize=8)


def _count_cosines(x_ND: NDArray[np.floating]) -> Floats:
    """Pairs of different films in each of 4,000 parts of [-1, 1]."""
    few = np.linspace(0, len(x_ND) - 1, min(len(x_ND), _PAIRS_OF)).round().astype(np.int64)
    unit_nD = l2_normalize(np.asarray(x_ND[few], np.float64))
    counts = np.zeros(_FINE)
    for row in range(0, len(unit_nD), 256):
        cosines = unit_nD[row : row + 256] @ unit_nD[row:].T
        later = np.triu_indices_from(cosines, k=1)
        counts += np.histogram(cosines[later].clip(-1, 1), bins=_FINE, range=(-1, 1))[0]
    return counts


def _look(number: int, chance: bool, runs: int) -> dict[str, Any]:
    if not chance:
        return {"color": _colour(number), "linewidth": 1.4}
    return {"color": _GREY if runs == 1 else _colour(number), "linewidth": 1.0, "linestyle": "--"}


def _nothing(axis: Axes, text: str) -> None:
    axis.text(0.5, 0.5, text, ha="center", va="center", transform=axis.transAxes, fontsize=9, color=_GREY)


def _fit(axis: Axes, drawn: Sequence[float]) -> None:
    """All that was drawn, with a margin."""
    finite = [value for value in drawn if math.isfinite(value)]
    if finite:
        low, high = min(finite), max(finite)
        margin = 0.05 * (high - low or abs(high) or 1.0)
        axis.set_ylim(low - margin, high + margin)


def _epochs_below(axis: Axes, epochs: Sequence[float]) -> None:
    low, high = min(epochs), max(epochs)
    beside = 0.05 * (high - low) or 1.0
    axis.set_xlim(low - beside, high + beside)
    axis.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=high - low >= 2 or low == high, min_n_ticks=1))
    axis.set_xlabel("epoch", fontsize=8)


def _colour(number: int) -> str:
    return _COLOURS[number % len(_COLOURS)]


def _short(value: float, _: object = None) -> str:
    return f"{value:g}".replace("e-0", "e-").replace("e+0", "e")


def _legend(figure: Figure, axis: Axes) -> None:
    """Below all panels, which keep their height. Given the labels, matplotlib also lists names that begin
    with an underscore."""
    lines = axis.get_lines()
    labels = [plain(str(line.get_label()), _NAME) for line in lines]
    width, height = figure.get_size_inches()
    columns = min(len(lines), max(1, int(width / (_LETTER * (max(map(len, labels)) + 8)))))
    figure.set_size_inches(width, height + _LINE * math.ceil(len(lines) / columns))
    figure.legend(lines, labels, fontsize=8, loc="outside lower center", ncols=columns)

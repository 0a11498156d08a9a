"""The curves of one training run, drawn again after each epoch: is it learning, how fast, and is it collapsing?"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from scarce_cli.figures.history import History, Values
from scarce_cli.figures.page import page, plain

_COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf")
_TITLE, _PANEL, _NAME = 110, 44, 30  # characters over the page, over a panel, in a legend
_FEW = 60  # points: drawn one by one, so that a single one is seen
_APART = 5.0  # times as large: would flatten the smaller beside it
_LOGARITHMIC = 20.0  # highest over lowest value
_EXTREME = 1.0  # % of the steps at either end that may lie beyond a panel's edge
_SPIKE = 2.0  # times the panel's height that they would need
_MARGIN = 0.05  # of a panel's height, above and below
_GROUPS = 3  # panels at most for what a method logs, and for what is measured once an epoch
_SPREAD = {"relative_std": "relative std (0: all alike)", "mean_cosine": "mean cosine (1: all alike)"}
_LOOKS = {  # what is measured of the encoder, by panel
    "encoder on fixed films": {**_SPREAD, "retrieval": "views found again (1: all)"},
    "encoder: rank": {"effective_rank": "effective rank", "rankme": "RankMe"},
}

Panel = Callable[[Axes], None]


def draw_training(history: History, path: Path, *, title: str) -> None:
    """A PNG of loss, learning rate, images/s, what the method logs and how far its embeddings spread, over epochs.

    Faint: single steps. Strong: means of epochs, drawn at the middle of each. Red ticks: losses that were not finite.

    Raises:
        ResourceError: the file cannot be written.
    """
    panels = _panels(history)
    columns = 2 if len(panels) <= 4 else 3
    rows = math.ceil(len(panels) / columns)
    with page(path, rows, columns, size=(3.9 * columns, 2.6 * rows + 0.5)) as (figure, axes):
        for axis, panel in zip(axes.flat, panels, strict=False):
            panel(axis)
            _epochs_below(axis, history.last_epoch)
        for axis in axes.flat[len(panels) :]:
            axis.axis("off")
        figure.suptitle(plain(title, _TITLE), fontsize=10)


def _panels(history: History) -> list[Panel]:
    steps, epochs = history.step_names(), history.epoch_names()
    common = ("loss", "lr", "weight_decay", "images_per_s")
    own = [name for name in dict.fromkeys([*steps, *epochs]) if name not in common and _belongs_to_steps(history, name)]
    own = [name for name in own if not _same(history, name, "loss")]
    once = [name for name in epochs if name not in common and not _belongs_to_steps(history, name)]
    panels: list[Panel] = [partial(draw, history=history) for draw in (_draw_loss, _draw_rate, _draw_speed)]
    panels += [partial(_draw_group, history=history, names=names) for names in _groups(history, own)]
    spread = [name for name in once if name in _SPREAD]
    if spread:
        panels.append(partial(_draw_spread, history=history, names=spread))
    panels += [
        partial(_draw_looks, history=history, title=title, names=shown)
        for title, names in _LOOKS.items()
        if (shown := {name: label for name, label in names.items() if np.isfinite(history.looks(name)[1]).any()})
    ]
    rest = [name for name in once if name not in _SPREAD]
    return panels + [partial(_draw_group, history=history, names=names) for names in _groups(history, rest)]


def _belongs_to_steps(history: History, name: str) -> bool:
    """What is logged of steps is logged of epochs as a mean; the rest is measured once, at the end of an epoch."""
    return name in history.step_names()


def _same(history: History, name: str, other: str) -> bool:
    return np.array_equal(history.steps(name)[1], history.steps(other)[1], equal_nan=True)


def _groups(history: History, names: Sequence[str]) -> list[list[str]]:
    """Names that can share an axis, at most three groups: sorted by size, and cut at the widest distances."""
    sizes = {name: size for name in names if (size := _size(history, name)) is not None}
    by_size = sorted(sizes, key=lambda name: sizes[name])
    ratios = [(math.log((sizes[b] or 1.0) / (sizes[a] or 1.0)), b) for a, b in pairwise(by_size)]
    wide = sorted((pair for pair in ratios if pair[0] > math.log(_APART)), reverse=True)[: _GROUPS - 1]
    starts = {name for _, name in wide}
    groups: list[list[str]] = []
    for name in by_size:
        if not groups or name in starts:
            groups.append([])
        groups[-1].append(name)
    groups = [sorted(group, key=names.index) for group in groups]
    return sorted(groups, key=lambda group: names.index(group[0]))


def _size(history: History, name: str) -> float | None:
    """The largest absolute value; None where there is no finite one."""
    finite = _finite(history, name)
    return float(np.abs(finite).max()) if finite.size else None


def _draw_loss(axis: Axes, history: History) -> None:
    _trace(axis, history, "loss", _COLOURS[0], "mean of each epoch")
    cut = _fit(axis, history, ["loss"])
    places, steps = history.gaps("loss")
    if steps:
        mark: dict[str, Any] = {"color": "red", "marker": "|", "linestyle": "none", "clip_on": False}
        label = f"not finite: {steps:,} step{'s' if steps > 1 else ''}"
        axis.plot(places, np.zeros_like(places), transform=axis.get_xaxis_transform(), label=label, **mark)
    _title(axis, "loss (faint: steps, some beyond the edge)" if cut else "loss (faint: steps)")
    _legend(axis)


def _draw_rate(axis: Axes, history: History) -> None:
    _exactly(axis, history, "lr", _COLOURS[0])
    _title(axis, "learning rate")
    decay = _finite(history, "weight_decay")
    if not decay.size:
        return
    if np.allclose(decay, decay[0], atol=0.0):  # the mean of equal numbers is not quite that number
        _title(axis, f"learning rate (weight decay {decay[0]:g})")
        return
    other = axis.twinx()
    _exactly(other, history, "weight_decay", _COLOURS[4])
    _title(axis, "learning rate, and weight decay (right)")
    axis.tick_params(axis="y", colors=_COLOURS[0])
    other.tick_params(axis="y", colors=_COLOURS[4], labelsize=8)


def _draw_speed(axis: Axes, history: History) -> None:
    _trace(axis, history, "images_per_s", _COLOURS[2], "mean")
    axis.set_ylim(bottom=0.0)
    _title(axis, "images per second")


def _draw_group(axis: Axes, history: History, names: Sequence[str]) -> None:
    for number, name in enumerate(names):
        _trace(axis, history, name, _colour(number), name)
    _fit(axis, history, names)
    _title(axis, names[0].replace("_", " ") if len(names) == 1 else "logged by the method")
    if len(names) > 1:
        _legend(axis)


def _draw_spread(axis: Axes, history: History, names: Sequence[str]) -> None:
    ends = [0.0, 1.0]
    for number, name in enumerate(names):
        _line(axis, *history.epochs(name), _colour(number), _SPREAD[name])
        ends += [*_finite(history, name)]
    margin = _MARGIN * (max(ends) - min(ends))
    axis.set_ylim(min(ends) - margin, max(ends) + margin)
    _title(axis, "last batch of each epoch, while training")
    _legend(axis)


def _draw_looks(axis: Axes, history: History, title: str, names: dict[str, str]) -> None:
    """What was measured of the encoder in evaluation mode; dotted: at the start of the run."""
    drawn = [0.0]
    for number, (name, label) in enumerate(names.items()):
        places, values = history.looks(name)
        seen = np.isfinite(values)  # between two looks only the method's own signals are read
        _line(axis, places[seen], values[seen], _colour(number), label)
        axis.axhline(values[seen][0], color=_colour(number), linewidth=0.8, linestyle=":")
        drawn += [*values[seen]]
    margin = _MARGIN * (max(drawn) - min(drawn))
    axis.set_ylim(min(drawn) - margin, max(drawn) + margin)
    _title(axis, f"{title} (dotted: start)")
    _legend(axis)


def _finite(history: History, name: str) -> Values:
    values = np.concatenate([history.steps(name)[1], history.epochs(name)[1]])
    return values[np.isfinite(values)]


def _trace(axis: Axes, history: History, name: str, colour: str, label: str) -> None:
    """Steps faint, the means of the epochs strong; steps strong while there is no mean."""
    places, values = history.steps(name)
    ends, means = history.epochs(name)
    alpha = 0.3 if np.isfinite(means).any() else 0.9
    marker = "." if len(places) <= _FEW else ""
    axis.plot(places, values, color=colour, alpha=alpha, linewidth=0.8, marker=marker, markersize=4)
    middle = 0.5 if _belongs_to_steps(history, name) else 0.0
    _line(axis, ends - middle, means, colour, label)


def _line(axis: Axes, places: Values, values: Values, colour: str, label: str) -> None:
    if np.isfinite(values).any():
        few = len(places) <= _FEW
        axis.plot(places, values, color=colour, linewidth=1.6, marker="o" if few else "", markersize=3, label=label)


def _exactly(axis: Axes, history: History, name: str, colour: str) -> None:
    """What is set and not measured: the steps as they are."""
    places, values = history.steps(name)
    if not np.isfinite(values).any():
        places, values = history.epochs(name)
    axis.plot(places, values, color=colour, linewidth=1.4, marker="." if len(places) <= _FEW else "", markersize=4)
    axis.yaxis.set_major_formatter(FuncFormatter(_short))


def _fit(axis: Axes, history: History, names: Sequence[str]) -> bool:
    """Limits and scale; whether a few steps lie beyond the edge.

    One step's loss of a billion must not press the curve flat.
    """
    means = np.concatenate([history.epochs(name)[1] for name in names])
    steps = np.concatenate([history.steps(name)[1] for name in names])
    means, steps = means[np.isfinite(means)], steps[np.isfinite(steps)]
    shown = np.concatenate([means, _without_spikes(means, steps)])
    if not shown.size:
        return False
    low, high = float(shown.min()), float(shown.max())
    if low > 0 and _spans_decades(means if means.size > 1 else shown):
        _logarithmic(axis, decades=math.log10(high / low))
        beside = (high / low) ** _MARGIN
        axis.set_ylim(low / beside, high * beside)
    else:
        margin = _MARGIN * (high - low) or 0.05 * abs(high) or 1.0
        axis.set_ylim(low - margin, high + margin)
    return bool(steps.size and (steps.min() < low or steps.max() > high))


def _without_spikes(means: Values, steps: Values) -> Values:
    """All ``steps``; where the most extreme of them would take most of the panel, the rest."""
    if not steps.size:
        return steps
    usual = np.percentile(steps, (_EXTREME, 100 - _EXTREME))
    everything, most = np.concatenate([means, steps]), np.concatenate([means, usual])
    return steps if np.ptp(everything) <= _SPIKE * np.ptp(most) else usual


def _spans_decades(values: Values) -> bool:
    return bool(values.min() > 0 and values.max() / values.min() > _LOGARITHMIC)


def _logarithmic(axis: Axes, decades: float) -> None:
    axis.set_yscale("log")
    axis.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if decades < 3 else (1.0,)))
    axis.yaxis.set_major_formatter(FuncFormatter(_short))  # matplotlib's own is a formula
    axis.yaxis.set_minor_formatter(NullFormatter())


def _short(value: float, _: object = None) -> str:
    return f"{value:g}".replace("e-0", "e-").replace("e+0", "e")


def _colour(number: int) -> str:
    return _COLOURS[number % len(_COLOURS)]


def _title(axis: Axes, text: str) -> None:
    axis.set_title(plain(text, _PANEL), fontsize=9)


def _legend(axis: Axes) -> None:
    lines = [line for line in axis.get_lines() if not str(line.get_label()).startswith("_child")]
    if lines:
        labels = [plain(str(line.get_label()), _NAME) for line in lines]
        axis.legend(lines, labels, fontsize=7, framealpha=0.6, loc="best")


def _epochs_below(axis: Axes, last: float) -> None:
    axis.set_xlim(-0.02 * (last or 1.0), 1.02 * (last or 1.0))
    axis.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=last >= 3))
    axis.set_xlabel("epoch", fontsize=8)
    axis.tick_params(labelsize=8)
    if axis.get_yscale() == "linear":
        axis.yaxis.set_major_locator(MaxNLocator(nbins=6))
    axis.yaxis.get_offset_text().set_fontsize(7)
    axis.grid(alpha=0.25, linewidth=0.5)

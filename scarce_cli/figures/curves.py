"""Line figures: few-shot learning curves and collapse over epochs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from scarce_cli.evaluation.collapse import CollapseMetrics
from scarce_cli.evaluation.probe import Score
from scarce_cli.files import atomic_file

_COLOURS = ("#7f7f7f", "#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e")
_COLUMNS = 4


def save_figure(figure: Figure, path: Path) -> None:
    """Write a PNG, whole or not at all. Raises ResourceError."""
    with atomic_file(path, label="figure") as handle:
        figure.savefig(handle, format="png", dpi=130)
    plt.close(figure)


def draw_learning_curves(scores: Sequence[Score], path: Path) -> None:
    """AUC over shots, one panel for each finding, one line for each initialisation, 95 % intervals."""
    findings = list(dict.fromkeys((s.finding, s.negative) for s in scores))
    columns = min(_COLUMNS, len(findings))
    rows = math.ceil(len(findings) / columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(3.6 * columns + 0.6, 3.2 * rows + 0.5), squeeze=False, sharey=True,
        layout="constrained",
    )  # fmt: skip
    for axis, finding in zip(axes.flat, findings, strict=False):
        _draw_finding(axis, [s for s in scores if (s.finding, s.negative) == finding])
    for axis in list(axes.flat)[len(findings) :]:
        axis.axis("off")
    axes[0, 0].legend(fontsize=8, loc="lower right")
    figure.suptitle("Few-shot linear probe: AUC on test patients (band: 95 % interval)", fontsize=10)
    save_figure(figure, path)


def _draw_finding(axis: Axes, scores: Sequence[Score]) -> None:
    for number, name in enumerate(dict.fromkeys(s.initialisation for s in scores)):
        line = [s for s in scores if s.initialisation == name]
        shots = [s.shots for s in line]
        colour = _COLOURS[number % len(_COLOURS)]
        axis.plot(shots, [s.auc.mean for s in line], "o-", color=colour, label=name, markersize=4)
        axis.fill_between(shots, [s.auc.low for s in line], [s.auc.high for s in line], color=colour, alpha=0.15)
    axis.axhline(0.5, color="black", linewidth=0.6, linestyle=":")
    axis.set_xscale("log")
    axis.set_xticks(sorted({s.shots for s in scores}), [str(n) for n in sorted({s.shots for s in scores})])
    axis.minorticks_off()
    axis.set_xlabel("labelled films per class")
    axis.set_ylabel("AUC")
    axis.set_title(f"{scores[0].finding}\nagainst {scores[0].negative}", fontsize=9)


def draw_collapse(
    curves: Mapping[str, Sequence[tuple[float, CollapseMetrics]]], random: CollapseMetrics, path: Path
) -> None:
    """Relative std, mean cosine and effective rank over epochs, beside a random-initialised encoder.

    Args:
        curves: name of the run -> (epoch, metrics) in order.
    """
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.4), layout="constrained")
    panels = (
        ("relative std (1: fills the sphere)", lambda m: m.relative_std),
        ("mean cosine of different films", lambda m: m.mean_cosine),
        (f"effective rank (at most {random.rank_cap})", lambda m: m.effective_rank or 0.0),
    )
    for axis, (title, value) in zip(axes, panels, strict=True):
        for number, (name, curve) in enumerate(curves.items()):
            colour = _COLOURS[1 + number % (len(_COLOURS) - 1)]
            axis.plot([e for e, _ in curve], [value(m) for _, m in curve], "o-", color=colour, label=name)
        axis.axhline(value(random), color=_COLOURS[0], linestyle="--", label="random initialisation")
        axis.set_xlabel("epoch")
        axis.set_title(title, fontsize=9)
        axis.set_ylim(bottom=0)
    axes[0].legend(fontsize=8)
    save_figure(figure, path)

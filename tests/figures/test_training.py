"""The curves of a run: what is drawn is what was logged, however much or little that is."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from scarce_cli.errors import ResourceError
from scarce_cli.figures.history import History
from scarce_cli.figures.training import draw_training


def lines(steps: int, per_epoch: int, own: Any = lambda n: {}, once: Any = lambda e: {}) -> Iterator[dict[str, Any]]:
    """A log: ``own`` gives what the method adds to a step, ``once`` what is measured at the end of an epoch."""
    rng = np.random.default_rng(0)
    for n in range(1, steps + 1):
        values = {"loss": 2 - n / steps + rng.normal() / 50, "lr": 1e-3 * n / steps, "images_per_s": 300.0}
        yield {"kind": "step", "step": n, "epoch": n / per_epoch, **values, **own(n)}
        if n % per_epoch == 0:
            means = {"loss": 2 - n / steps, "lr": 1e-3, "images_per_s": 300.0}
            yield {"kind": "epoch", "step": n, "epoch": n // per_epoch, **means, **own(n), **once(n // per_epoch)}


def spread(epoch: int) -> dict[str, float]:
    return {"relative_std": 0.5 / epoch, "mean_cosine": 1 - 0.4 / epoch}


def shown(figures: list[Figure]) -> dict[str, Axes]:
    """The panels of the last figure by their titles."""
    return {axis.get_title(): axis for axis in figures[-1].axes if axis.axison and axis.get_title()}


def is_png(path: Path) -> bool:
    with Image.open(path) as image:
        image.load()
        return image.format == "PNG" and np.asarray(image).std() > 0


def test_the_panels_show_what_was_logged(figures: list[Figure], tmp_path: Path) -> None:
    draw_training(History(lines(40, 10, once=spread)), tmp_path / "x.png", title="spark, preset l4")
    assert is_png(tmp_path / "x.png")
    panels = shown(figures)
    assert [*panels] == [
        "loss (faint: steps)", "learning rate", "images per second", "last batch of each epoch, while training",
    ]  # fmt: skip
    steps, means = panels["loss (faint: steps)"].get_lines()
    assert len(steps.get_xdata()) == 40
    assert (steps.get_alpha(), means.get_alpha()) == (0.3, None)
    np.testing.assert_array_equal(means.get_xdata(), [0.5, 1.5, 2.5, 3.5])
    np.testing.assert_allclose(means.get_ydata(), [1.75, 1.5, 1.25, 1.0])
    (rate,) = panels["learning rate"].get_lines()
    np.testing.assert_allclose(rate.get_ydata(), 1e-3 * np.arange(1, 41) / 40)
    std, cosine = panels["last batch of each epoch, while training"].get_lines()
    np.testing.assert_array_equal(std.get_xdata(), [1, 2, 3, 4])
    np.testing.assert_allclose(std.get_ydata(), [0.5, 0.25, 1 / 6, 0.125])
    np.testing.assert_allclose(cosine.get_ydata(), [0.6, 0.8, 1 - 0.4 / 3, 0.9])
    assert figures[0].get_suptitle() == "spark, preset l4"
    low, high = panels["last batch of each epoch, while training"].get_ylim()
    assert low < 0
    assert high > 1
    assert panels["images per second"].get_ylim()[0] == 0


@pytest.mark.parametrize(("steps", "per_epoch"), [(0, 1), (1, 10), (1, 1), (2, 2), (3, 1)])
def test_a_run_that_has_just_begun_is_drawn(steps: int, per_epoch: int, figures: list[Figure], tmp_path: Path) -> None:
    draw_training(History(lines(steps, per_epoch)), tmp_path / "x.png", title="x")
    assert is_png(tmp_path / "x.png")
    first = shown(figures)["loss (faint: steps)"].get_lines()[0]
    assert len(first.get_xdata()) == steps
    assert first.get_marker() == "."  # one point alone makes no line


@pytest.mark.parametrize("what", ["steps", "epochs"])
def test_one_kind_of_line_is_enough(what: str, figures: list[Figure], tmp_path: Path) -> None:
    kept = [line for line in lines(40, 10) if line["kind"] + "s" == what]
    draw_training(History(kept), tmp_path / "x.png", title="x")
    for axis in shown(figures).values():
        assert any(np.isfinite(line.get_ydata()).any() for line in axis.get_lines())
    if what == "steps":
        assert shown(figures)["loss (faint: steps)"].get_lines()[0].get_alpha() > 0.5


def test_many_steps_are_few_points(figures: list[Figure], tmp_path: Path) -> None:
    draw_training(History(lines(20_000, 10)), tmp_path / "x.png", title="x")
    for axis in shown(figures).values():
        assert all(len(line.get_xdata()) <= 1000 for line in axis.get_lines())


def test_a_loss_that_was_not_finite_is_marked(figures: list[Figure], tmp_path: Path) -> None:
    draw_training(
        History(lines(40, 10, own=lambda n: {"loss": None} if n in (7, 30) else {})), tmp_path / "x.png", title="x"
    )
    axis = shown(figures)["loss (faint: steps)"]
    marks = axis.get_lines()[-1]
    np.testing.assert_allclose(marks.get_xdata(), [0.7, 3.0])
    assert axis.get_legend().get_texts()[-1].get_text() == "not finite: 2 steps"
    draw_training(History(lines(40, 10, own=lambda n: {"loss": None})), tmp_path / "y.png", title="x")
    assert is_png(tmp_path / "y.png")
    assert shown(figures)["loss (faint: steps)"].get_legend().get_texts()[-1].get_text() == "not finite: 40 steps"


def test_one_monstrous_step_does_not_press_the_curve_flat(figures: list[Figure], tmp_path: Path) -> None:
    draw_training(
        History(lines(400, 10, own=lambda n: {"loss": 1e9} if n == 99 else {})), tmp_path / "x.png", title="x"
    )
    axis = shown(figures)["loss (faint: steps, some beyond the edge)"]
    low, high = axis.get_ylim()
    assert 0 < low < 1.0
    assert 1.9 < high < 3


def test_a_usual_start_is_not_cut_off(figures: list[Figure], tmp_path: Path) -> None:
    """The first steps' losses are far above the others', and are what the reader wants to see fall."""
    draw_training(History(lines(400, 10, own=lambda n: {"loss": 50 + 450 * 0.95**n})), tmp_path / "x.png", title="x")
    assert shown(figures)["loss (faint: steps)"].get_ylim()[1] > 477


def test_values_of_several_sizes_get_a_logarithmic_axis(figures: list[Figure], tmp_path: Path) -> None:
    draw_training(History(lines(100, 10, own=lambda n: {"loss": 10 ** (4 - n / 20)})), tmp_path / "x.png", title="x")
    axis = shown(figures)["loss (faint: steps)"]
    assert axis.get_yscale() == "log"
    labels = [label.get_text() for label in axis.get_yticklabels()]
    assert {"1", "10", "100", "1000"} < set(labels)
    assert not any("$" in label for label in labels)


def test_what_the_method_logs_is_grouped_by_size(figures: list[Figure], tmp_path: Path) -> None:
    def own(n: int) -> dict[str, float]:
        return {"entropy": 5.5, "mean_entropy": 6.0, "information": 0.01, "off_diagonal": 1e4, "size": 65536.0}

    draw_training(History(lines(20, 10, own=own)), tmp_path / "x.png", title="x")
    first, second, third = figures[0].axes[3:]
    titles = [axis.get_title() for axis in (first, second, third)]
    assert titles == ["logged by the method", "information", "logged by the method"]
    legends = [[text.get_text() for text in axis.get_legend().get_texts()] for axis in (first, third)]
    assert legends == [["entropy", "mean_entropy"], ["off_diagonal", "size"]]


def test_however_much_is_logged_the_panels_are_few(figures: list[Figure], tmp_path: Path) -> None:
    draw_training(
        History(lines(20, 10, own=lambda n: {f"s{k}": 10.0**k for k in range(-8, 9)}, once=spread)),
        tmp_path / "x.png",
        title="x",
    )
    assert len([axis for axis in figures[0].axes if axis.axison]) == 3 + 3 + 1
    drawn = {line.get_label() for axis in figures[0].axes for line in axis.get_lines()}
    assert {f"s{k}" for k in range(-8, 9)} <= drawn


def test_what_is_the_loss_by_another_name_is_not_drawn_twice(figures: list[Figure], tmp_path: Path) -> None:
    log = [dict(line, distillation=line["loss"]) for line in lines(20, 10)]
    draw_training(History(log), tmp_path / "x.png", title="x")
    assert len(shown(figures)) == 3


def test_weight_decay_stands_in_the_title_or_on_an_axis_of_its_own(figures: list[Figure], tmp_path: Path) -> None:
    mean = sum([0.05] * 6) / 6
    assert mean != 0.05
    log = History(lines(20, 10, own=lambda n: {"weight_decay": 0.05}, once=lambda e: {"weight_decay": mean}))
    draw_training(log, tmp_path / "x.png", title="x")
    assert "learning rate (weight decay 0.05)" in shown(figures)
    draw_training(History(lines(20, 10, own=lambda n: {"weight_decay": n / 100})), tmp_path / "x.png", title="x")
    assert "learning rate, and weight decay (right)" in shown(figures)
    right = next(axis for axis in figures[1].axes if axis.yaxis.get_ticks_position() == "right")
    np.testing.assert_allclose(right.get_lines()[0].get_ydata(), np.arange(1, 21) / 100)


def test_whatever_is_measured_once_an_epoch_is_drawn_at_its_end(figures: list[Figure], tmp_path: Path) -> None:
    once = [{"relative_std": 0.3, "mean_cosine": -0.2, "effective_rank": 300.0 - e} for e in range(1, 5)]
    draw_training(History(lines(40, 10, once=lambda e: once[e - 1])), tmp_path / "x.png", title="x")
    rank = shown(figures)["effective rank"].get_lines()[-1]
    np.testing.assert_array_equal(rank.get_xdata(), [1, 2, 3, 4])
    np.testing.assert_array_equal(rank.get_ydata(), [299, 298, 297, 296])
    assert shown(figures)["last batch of each epoch, while training"].get_ylim()[0] < -0.2


def test_what_was_measured_of_the_encoder_is_drawn_beside_its_start(figures: list[Figure], tmp_path: Path) -> None:
    looks = [
        {"kind": "collapse", "step": 10 * n, "epoch": 1.0 * n, "progress": n / 4, "relative_std": 0.1 + 0.1 * n}
        | ({} if n == 2 else {"effective_rank": None if n == 3 else 80.0 - n, "rankme": 20.0})
        for n in range(5)
    ]
    draw_training(History([*lines(40, 10), *looks]), tmp_path / "x.png", title="x")
    spread, start = shown(figures)["encoder on fixed films (dotted: start)"].get_lines()
    np.testing.assert_array_equal(spread.get_xdata(), range(5))
    np.testing.assert_allclose(spread.get_ydata(), [0.1, 0.2, 0.3, 0.4, 0.5])
    assert start.get_linestyle() == ":"
    assert set(start.get_ydata()) == {0.1}
    rank, first, rankme, _ = shown(figures)["encoder: rank (dotted: start)"].get_lines()
    np.testing.assert_array_equal([rank.get_xdata(), rank.get_ydata()], [[0, 1, 4], [80.0, 79.0, 76.0]])
    assert set(first.get_ydata()) == {80.0}
    assert len(rankme.get_xdata()) == 4


def test_a_value_that_comes_and_goes_leaves_gaps(figures: list[Figure], tmp_path: Path) -> None:
    def own(n: int) -> dict[str, float | None]:
        return {"term": 1.0} if n < 5 else {"term": None} if n < 10 else {}

    draw_training(History(lines(20, 10, own=own)), tmp_path / "x.png", title="x")
    values = shown(figures)["term"].get_lines()[0].get_ydata()
    np.testing.assert_array_equal(values, [1.0] * 4 + [math.nan] * 16)


@pytest.mark.parametrize("name", ["$\\frac{a}{b$", "_under_", "line\nbreak", "x" * 400, "\x1b[31m", "肺", "%s {0}"])
def test_hostile_names_are_shown_not_read(name: str, figures: list[Figure], tmp_path: Path) -> None:
    draw_training(
        History(lines(20, 10, own=lambda n: {name: 1.0, f"{name}b": 2.0})), tmp_path / "x.png", title=f"runs/{name}"
    )
    assert is_png(tmp_path / "x.png")
    texts = figures[0].findobj(lambda artist: hasattr(artist, "get_parse_math"))
    assert not any(text.get_parse_math() for text in texts)
    assert len(figures[0].axes[3].get_legend().get_texts()) == 2
    assert all(len(text.get_text()) <= 110 and text.get_text().isprintable() for text in texts)


def test_huge_and_tiny_values_are_drawn_without_a_warning(tmp_path: Path) -> None:
    values = (3e38, -3e38, 1e-45, -1e-300, 1e99, -1e99, 0.0)
    for first in (3e38, 1e-45):
        log = lines(20, 10, own=lambda n, first=first: {"loss": first * n, "lr": first, **dict(enumerate(values))})
        draw_training(History({str(k): v for k, v in line.items()} for line in log), tmp_path / "x.png", title="")
        assert is_png(tmp_path / "x.png")


def test_the_same_log_gives_the_same_picture(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        draw_training(History(lines(40, 10, once=spread)), tmp_path / name, title="x")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_a_full_disk_leaves_the_old_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.png"
    draw_training(History(lines(10, 10)), path, title="x")
    before = path.read_bytes()
    monkeypatch.setattr("scarce_cli.files._fault_counts", Counter())
    monkeypatch.setenv("SCARCE_FAULT", "figure.pre_rename:1:enospc")
    with pytest.raises(ResourceError, match="the disk is full"):
        draw_training(History(lines(20, 10)), path, title="x")
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["x.png"]

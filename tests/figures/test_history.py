"""The log in a bounded space: nothing is lost that a picture could show, and how it was fed does not matter."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scarce_cli.figures.history import History

STEADY = settings(max_examples=60, deadline=None, derandomize=True)
NUMBERS = st.none() | st.floats(-1e6, 1e6) | st.just(math.nan)


def step(number: int, per_epoch: int = 10, **values: Any) -> dict[str, Any]:
    return {"kind": "step", "step": number, "epoch": number / per_epoch, **values}


def epoch(number: int, **values: Any) -> dict[str, Any]:
    return {"kind": "epoch", "step": 10 * number, "epoch": number, **values}


def test_few_lines_are_kept_as_they_are() -> None:
    history = History([step(1, loss=3.0), step(2, loss=None, lr=0.1), epoch(1, loss=2.5, spread=0.5)])
    places, values = history.steps("loss")
    np.testing.assert_array_equal(places, [0.1, 0.2])
    np.testing.assert_array_equal(values, [3.0, np.nan])
    np.testing.assert_array_equal(history.steps("lr")[1], [np.nan, 0.1])
    np.testing.assert_array_equal(history.epochs("spread"), [[1.0], [0.5]])
    assert history.step_names() == ["loss", "lr"]
    assert history.epoch_names() == ["loss", "spread"]
    places, steps = history.gaps("loss")
    assert (list(places), steps) == ([0.2], 1)
    assert history.last_epoch == 1.0


def test_nothing_fed_is_an_empty_history() -> None:
    history = History()
    assert history.last_epoch == 0.0
    assert history.step_names() == history.epoch_names() == []
    assert [part.shape for part in (*history.steps("loss"), *history.epochs("loss"))] == [(0,)] * 4


@pytest.mark.parametrize("count", [499, 500, 501, 1000, 1001, 5000, 33_333])
def test_many_steps_become_few_points_and_no_extreme_is_lost(count: int) -> None:
    rng = np.random.default_rng(count)
    losses = rng.normal(size=count)
    losses[rng.integers(count)] = 1e6
    history = History(step(n + 1, loss=float(loss)) for n, loss in enumerate(losses))
    places, values = history.steps("loss")
    assert len(places) <= 1000
    assert count <= 500 or len(places) > 250
    assert (values.min(), values.max()) == (losses.min(), losses.max())
    assert (np.diff(places) >= 0).all()
    assert places[-1] == history.last_epoch == count / 10


def test_a_stretch_is_its_lowest_and_its_highest_value() -> None:
    rng = np.random.default_rng(0)
    losses = rng.normal(size=1000)  # stretches of two
    places, values = History(step(n, loss=float(loss)) for n, loss in enumerate(losses)).steps("loss")
    np.testing.assert_array_equal(places, np.arange(1000) / 10)
    np.testing.assert_array_equal(values, np.sort(losses.reshape(-1, 2), axis=1).ravel())


def test_many_epochs_become_means() -> None:
    losses = np.random.default_rng(0).normal(size=2000)  # stretches of four
    places, values = History(epoch(n, loss=float(loss)) for n, loss in enumerate(losses)).epochs("loss")
    np.testing.assert_allclose(places, np.arange(2000).reshape(-1, 4)[:, [0, 3]].mean(axis=1))
    np.testing.assert_allclose(values, losses.reshape(-1, 4).mean(axis=1))


@STEADY
@given(st.lists(NUMBERS, max_size=1400), st.integers(0, 1400))
def test_a_run_that_goes_on_draws_what_one_without_a_stop_draws(losses: list[float | None], stop: int) -> None:
    lines = [step(n, loss=loss) for n, loss in enumerate(losses)]
    whole, resumed = History(lines), History(lines[:stop])
    for line in lines[stop:]:
        resumed.add(line)
    for name in ("steps", "gaps"):
        for one, other in zip(getattr(whole, name)("loss"), getattr(resumed, name)("loss"), strict=True):
            np.testing.assert_array_equal(one, other)


@STEADY
@given(st.lists(NUMBERS, min_size=1, max_size=3000))
def test_every_step_that_was_not_finite_is_counted(losses: list[float | None]) -> None:
    history = History(step(n, loss=loss) for n, loss in enumerate(losses))
    bad = sum(loss is None or math.isnan(loss) for loss in losses)
    places, steps = history.gaps("loss")
    assert steps == bad
    assert len(places) <= min(bad, 500)
    finite = [loss for loss in losses if loss is not None and not math.isnan(loss)]
    drawn = history.steps("loss")[1]
    drawn = drawn[np.isfinite(drawn)]
    assert (drawn.min(), drawn.max()) == (min(finite), max(finite)) if finite else drawn.size == 0


@pytest.mark.parametrize(
    "line",
    [
        {},
        {"kind": "step", "loss": 1.0},
        {"kind": "step", "epoch": None, "loss": 1.0},
        {"kind": "step", "epoch": "1", "loss": 1.0},
        {"kind": "step", "epoch": math.nan, "loss": 1.0},
        {"kind": "other", "epoch": 1, "loss": 1.0},
        {"epoch": 1, "loss": 1.0},
    ],
)
def test_a_line_without_a_place_is_left_out(line: dict[str, Any]) -> None:
    history = History([line])
    assert history.step_names() == history.epoch_names() == []


def test_values_that_cannot_be_drawn_are_gaps_or_left_out() -> None:
    history = History([step(1, loss=10**400, lr=-math.inf, note="text", flag=True, more=[1], large=1e101)])
    assert history.step_names() == ["loss", "lr", "large"]
    for name in ("loss", "lr", "large"):
        assert math.isnan(history.steps(name)[1][0])
        assert history.gaps(name)[1] == 1

"""The numbers of a run: steps now and then, means of the epochs, the same after a stop."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from scarce_cli.engine.job import Job, StepReport
from scarce_cli.engine.records import Records
from scarce_cli.engine.start import build_state
from scarce_cli.engine.state import TrainState
from scarce_cli.engine.views import Batches
from scarce_cli.runs import read_metrics


def _report(step: int, loss: float, speed: float = 50.0, **scalars: float) -> StepReport:
    return StepReport(step, 12, step / 6, loss, 0.1 * step, speed, 9.0, 0.01, scalars)


def _records(job: Job, state: TrainState) -> Records:
    return Records(job, state, Batches(job), pytest.fail)


@pytest.fixture
def state(make_job: Callable) -> TrainState:
    return build_state(make_job())


def test_steps_are_logged_now_and_then_and_the_last_one_always(make_job: Callable, state: TrainState) -> None:
    job = make_job("run.log_steps=5")
    records = _records(job, state)
    for step in range(1, 13):
        records.step(_report(step, 1.0 / step, depth=step))
    records.close()
    lines = read_metrics(job.run.metrics)
    assert [line["step"] for line in lines] == [5, 10, 12]
    assert lines[0] == {
        "kind": "step", "step": 5, "epoch": 5 / 6, "loss": 0.2, "lr": 0.5, "weight_decay": 0.01,
        "images_per_s": 50.0, "depth": 5,
    }  # fmt: skip


def test_an_epoch_is_the_mean_of_all_its_finite_steps(make_job: Callable, state: TrainState) -> None:
    job = make_job("run.log_steps=100")
    records = _records(job, state)
    for step, loss in enumerate((1.0, math.nan, 2.0, math.inf, 6.0), start=1):
        records.step(_report(step, loss, depth=math.nan))
    values = records.epoch(6, 1, {"mean_cosine": 0.5})
    assert values["loss"] == 3.0
    assert math.isnan(values["depth"])
    for step in (7, 8):
        records.step(_report(step, 10.0))
    assert records.epoch(12, 2, {})["loss"] == 10.0
    records.close()
    first, second = read_metrics(job.run.metrics)
    assert (first["kind"], first["step"], first["epoch"], first["loss"]) == ("epoch", 6, 1, 3.0)
    assert (first["depth"], first["mean_cosine"]) == (None, 0.5)
    assert "mean_cosine" not in second
    assert state.epoch_sums == {}


@pytest.mark.parametrize("stop", range(1, 6))
def test_the_mean_of_an_epoch_is_the_same_after_a_stop_in_it(stop: int, make_job: Callable, state: TrainState) -> None:
    losses = [0.1, 0.7, 1e-9, 3.3, 1 / 3, 2e5]
    speeds = [3.7, 110.0, 1 / 3, 90.1, 77.7, 1e3]
    whole = _records(make_job(out="runs/whole"), state)
    for step, loss in enumerate(losses, start=1):
        whole.step(_report(step, loss, speeds[step - 1]))
    wanted = whole.epoch(6, 1, {})
    whole.close()
    for part in (range(1, stop + 1), range(stop + 1, 7)):
        records: Any = _records(make_job(), state)
        for step in part:
            records.step(_report(step, losses[step - 1], speeds[step - 1]))
            state.step = step
        values = records.epoch(6, 1, {}) if part[-1] == 6 else None
        records.close()
    assert values == wanted
    assert read_metrics(make_job().run.metrics) == read_metrics(make_job(out="runs/whole").run.metrics)


def test_the_speed_of_an_epoch_is_its_films_by_its_seconds(make_job: Callable, state: TrainState) -> None:
    """One slow step of ten seconds and four of one: 40 films in 14 s, not the mean of the five speeds (6.56)."""
    records = _records(make_job(), state)
    for step, seconds in enumerate((10.0, 1.0, 1.0, 1.0, 1.0), start=1):
        records.step(_report(step, math.nan, speed=8 / seconds))
    assert records.epoch(5, 1, {})["images_per_s"] == pytest.approx(40 / 14, rel=1e-12)
    records.close()


def test_a_checkpoint_with_the_sum_of_speeds_goes_on_without_it(make_job: Callable, state: TrainState) -> None:
    """As written before speeds were films by seconds: [sum of the speeds, steps]."""
    state.epoch_sums = {"loss": [3.0, 2.0], "images_per_s": [900.0, 2.0]}
    records = _records(make_job(), state)
    for step, speed in ((3, 4.0), (4, 8.0)):
        records.step(_report(step, 6.0, speed))
    values = records.epoch(4, 1, {})
    assert (values["loss"], values["images_per_s"]) == (3.75, pytest.approx(16 / 3, rel=1e-12))
    records.close()

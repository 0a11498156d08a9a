"""What a run needs and costs: measured on its first steps, and what to do where it does not fit."""

from __future__ import annotations

import mmap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from scarce_cli.engine import planning
from scarce_cli.engine.compiling import CompilerFailed
from scarce_cli.engine.estimate import Estimate
from scarce_cli.engine.measure import memory_bytes, peak_bytes, reset_peak
from scarce_cli.engine.planning import measure, plan_run
from scarce_cli.errors import UsageError

CPU = torch.device("cpu")


def _estimate(**changes: Any) -> Estimate:
    values = {
        "parameters": 1, "peak_bytes": 90, "memory_bytes": 100, "images_per_s": 50.0,
        "films_left": 9_000, "seconds_before": 180.0, "dollars_per_hour": 2.5, "checkpoint_bytes": 100,
        "encoder_bytes": 7, "encoders": 4,
    }  # fmt: skip
    return Estimate(**{**values, **changes})


def test_hours_dollars_and_disk_by_hand() -> None:
    estimate = _estimate()
    assert estimate.hours == pytest.approx((180 + 9_000 / 50) / 3600)
    assert estimate.dollars == pytest.approx(0.25)
    assert estimate.disk_bytes == 3 * 100 + 4 * 7
    assert estimate.fits
    assert not _estimate(peak_bytes=96).fits


def test_peak_memory_is_that_since_the_reset() -> None:
    size = 128 * 2**20
    reset_peak(CPU)
    before = peak_bytes(CPU)
    with mmap.mmap(-1, size) as taken:
        taken.write(b"x" * size)
    after = peak_bytes(CPU)
    assert after - before >= size
    assert after < memory_bytes(CPU)
    reset_peak(CPU)
    if Path("/proc/self/clear_refs").exists():
        assert peak_bytes(CPU) <= after - size


def test_a_measurement_writes_nothing_and_changes_no_later_run(make_job: Callable, train: Callable, same: Any) -> None:
    before = train(out="runs/a").weights
    (files := sorted(Path().rglob("*"))).sort()
    estimate = measure(make_job("run.gpu_price=2.0", out="runs/a"))
    assert estimate is not None
    assert sorted(Path().rglob("*")) == files
    assert same(before, train(out="runs/b").weights)
    assert estimate.films_left == 5 * 8
    assert estimate.images_per_s > 0
    assert estimate.dollars_per_hour == 2.0
    saved = Path("runs/b/last.pt").stat().st_size
    assert 0.9 < estimate.checkpoint_bytes / saved < 1.0
    assert 0.9 < estimate.encoder_bytes / Path("runs/b/encoders/epoch-0001.pt").stat().st_size < 1.0


def test_a_run_tells_its_estimate_once_and_a_resumed_one_again(
    stop: Callable, train: Callable, make_job: Callable
) -> None:
    stop(9)
    (first,) = train(resume=True).listener.all("measured")  # three steps are left: fewer than are measured usually
    assert first.films_left == 0
    (whole,) = train(out="runs/b").listener.all("measured")
    assert whole.films_left == 5 * 8


def _fake(monkeypatch: pytest.MonkeyPatch, fits: Callable[[Any], bool], hours: Callable[[Any], float]) -> list[Any]:
    tried = []

    def measured(job: Any) -> Estimate | None:
        tried.append(job.config)
        return _estimate(films_left=hours(job.config) * 180_000 - 9_000) if fits(job.config) else None

    monkeypatch.setattr(planning, "measure", measured)
    return tried


def test_where_it_fits_cheaper_ways_are_measured(make_job: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    job = make_job("data.size=192", "model.gradient_checkpointing=2")
    _fake(monkeypatch, lambda config: True, lambda c: c.data.size / 192 + [0, 9, 0.3][c.model.gradient_checkpointing])
    heard: list[Any] = []
    plan = plan_run(job, heard.append)
    assert plan.estimate is not None
    stages = [(f"model.gradient_checkpointing={n}",) for n in (0, 1)]
    assert heard == [(), *stages, ("data.size=160",)]
    assert [option.changes for option in plan.options] == [stages[0], ("data.size=160",)]  # the other is dearer
    assert all(option.estimate.hours < plan.estimate.hours for option in plan.options if option.estimate)


def test_on_a_gpu_compiling_is_tried_first(make_job: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    job = make_job("run.device=cuda", "data.size=96")
    tried = _fake(monkeypatch, lambda config: True, lambda config: 0.7 if config.run.compile else 1.0)
    assert [option.changes for option in plan_run(job, lambda changes: None).options] == [("run.compile=true",)]
    assert [config.run.compile for config in tried[:2]] == [False, True]


def test_what_is_tried_and_not_to_be_had_here_is_no_option(make_job: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    def measured(job: Any) -> Estimate | None:
        if job.config.run.compile:
            raise CompilerFailed("no compiler")
        return _estimate()

    monkeypatch.setattr(planning, "measure", measured)
    assert plan_run(make_job("run.device=cuda", "data.size=96"), lambda changes: None).options == ()
    with pytest.raises(CompilerFailed, match="no compiler"):
        plan_run(make_job("run.device=cuda", "run.compile=true"), lambda changes: None)


def test_what_is_not_cheaper_is_not_offered(make_job: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    _fake(monkeypatch, lambda config: True, lambda config: 1.0)
    assert plan_run(make_job("data.size=192"), lambda changes: None).options == ()


def test_where_it_does_not_fit_alternatives_come_in_order_and_the_largest_batch(
    make_job: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_job("run.batch_size=40", "data.size=192")
    _fake(monkeypatch, lambda c: c.run.batch_size <= 29 or c.data.size <= 96, lambda config: 1.0)
    plan = plan_run(job, lambda changes: None)
    assert plan.estimate is None
    fitting = [option.changes for option in plan.options if option.estimate]
    names = [option.changes for option in plan.options]
    assert names[0] == ("model.gradient_checkpointing=1",)
    assert fitting == [("data.size=96",), ("run.batch_size=24",)]
    assert names[4:7] == [("data.size=160",), ("data.size=128",), ("data.size=96",)]
    assert all(name[0].startswith("run.batch_size=") for name in names[7:])


def test_both_at_once_where_neither_is_enough(make_job: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    _fake(monkeypatch, lambda c: c.model.gradient_checkpointing == 4 and c.data.size <= 96, lambda config: 1.0)
    plan = plan_run(make_job("run.batch_size=40", "data.size=128"), lambda changes: None)
    assert [o.changes for o in plan.options if o.estimate] == [("model.gradient_checkpointing=4", "data.size=96")]


@pytest.mark.parametrize(("splits", "limit", "largest"), [(16, 47, 32), (8, 47, 40), (8, 7, None), (48, 95, 48)])
def test_a_batch_that_the_method_refuses_stands_for_the_next_smaller(
    splits: int, limit: int, largest: int | None, make_job: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measured(job: Any) -> Estimate | None:
        if job.config.run.batch_size % splits:
            raise UsageError("refused")
        return _estimate() if job.config.run.batch_size <= limit else None

    monkeypatch.setattr(planning, "measure", measured)
    plan = plan_run(make_job("run.batch_size=96", "data.size=96"), lambda changes: None)
    (found,) = [o.changes for o in plan.options if o.estimate] or [None]
    assert found == (None if largest is None else (f"run.batch_size={largest}",))


def test_changes_that_do_not_fit_the_other_settings_are_no_option(make_job: Callable) -> None:
    heard: list[Any] = []
    plan = plan_run(make_job("data.size=128", "augment.blur_kernel=[3, 201]", "run.batch_size=2"), heard.append)
    assert plan.estimate is not None
    assert heard == [(), ("data.size=96",)]
    assert plan.options == ()


def test_running_out_of_memory_is_an_answer(make_job: Callable, toy: Any) -> None:
    def exhaust(step: int) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    toy.hook = staticmethod(exhaust)
    assert measure(make_job()) is None


def test_settings_that_the_method_refuses_are_no_option(make_job: Callable) -> None:
    """96 px is no multiple of patch 64."""
    heard: list[Any] = []
    plan = plan_run(make_job("data.size=128", "method.patch=64", "run.batch_size=2", method="spark"), heard.append)
    assert plan.estimate is not None
    assert heard == [(), ("data.size=96",)]
    assert plan.options == ()

"""The monitor: what it looks at and when, what it leaves alone, and how it ends a run."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from scarce_cli.checkpoint import load_encoder
from scarce_cli.data.cache import open_cache
from scarce_cli.engine import monitor
from scarce_cli.engine.job import Look
from scarce_cli.errors import Collapsed
from scarce_cli.evaluation.collapse import Verdict, collapse_metrics, readings_of
from scarce_cli.evaluation.features import extract_features, random_encoder, restore_encoder
from scarce_cli.runs import RunFolder, read_metrics
from scarce_cli.vitals import Expectations, Failure

WATCHED = ("monitor.films=8", "monitor.steps=4")


@pytest.fixture
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """No share of the time: every look that is due by its step is taken."""
    monkeypatch.setattr(monitor, "_SHARE", math.inf)
    monkeypatch.setattr(monitor, "_PARTS", 6)


@pytest.fixture
def verdicts(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let the verdict of each reading be as given, by its step; healthy otherwise."""

    def give(collapsed: set[int]) -> None:
        def judge(readings: list, random: object, expected: Expectations) -> Verdict:
            assert random is not None
            if readings[-1].step in collapsed:
                return Verdict("collapsed", Failure.NOT_LEARNING, ("the loss stands at 7.0",))
            return Verdict("healthy", None, ("all is well",))

        monkeypatch.setattr(monitor, "judge", judge)
        monkeypatch.setattr("scarce_cli.evaluation.collapse.verdict.judge", judge)

    return give


def test_it_sees_what_a_checkpoint_of_that_step_would_give(train: Callable, unhurried: None) -> None:
    trained = train(*WATCHED, "run.snapshot_epochs=1", method="moco")
    looks: list[Look] = trained.listener.all("looked")
    assert [look.reading.step for look in looks] == [0, 2, 4, 6, 8, 10, 12]  # a short run's parts
    cache = open_cache(trained.trainer.job.cache.folder)
    rows = np.sort(np.random.default_rng(0).permutation(len(cache.names))[:8])
    for epoch, step in ((1, 6), (2, 12)):
        one = load_encoder(trained.run.snapshot(epoch))
        features = extract_features(restore_encoder(one), one.info, cache, rows, torch.device("cpu"))
        expected, seen = collapse_metrics(features), looks[step // 2].reading.features
        assert seen is not None
        assert (seen.relative_std, seen.mean_cosine) == pytest.approx((expected.relative_std, expected.mean_cosine))
        assert seen.retrieval is not None
    start = extract_features(random_encoder(one), one.info, cache, rows, torch.device("cpu"))
    assert looks[0].random is not None
    assert looks[0].random.relative_std == pytest.approx(collapse_metrics(start).relative_std)
    assert looks[0].reading.features == looks[0].random


def test_signals_are_means_since_the_look_before(
    train: Callable, unhurried: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(monitor, "_PARTS", 3)
    trained = train(*WATCHED, "run.epochs=1", method="barlow")
    steps = {report.step: report for report in trained.listener.all("stepped")}
    for look in trained.listener.all("looked")[1:]:
        signals, reports = look.reading.signals, [steps[look.reading.step - 1], steps[look.reading.step]]
        losses = [report.loss for report in reports]
        assert signals["loss"] == pytest.approx(np.mean(losses))
        assert signals["off_diagonal"] == pytest.approx(np.mean([r.scalars["off_diagonal"] for r in reports]))
        assert (signals["loss_std"], signals["loss_bad"]) == (pytest.approx(np.std(losses), rel=1e-3), 0.0)


def test_nothing_of_the_training_knows_of_it(train: Callable, same: Callable, unhurried: None) -> None:
    watched = train(*WATCHED, "run.epochs=1", method="moco", out="runs/watched")
    alone = train("monitor.films=0", "run.epochs=1", method="moco", out="runs/alone")
    assert alone.listener.all("looked") == []
    assert same(watched.weights, alone.weights)


def test_measuring_is_rare_when_it_takes_long(train: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitor, "_SHARE", 0.0)
    monkeypatch.setattr(monitor, "_PARTS", 3)
    looks = train(*WATCHED, "run.epochs=1", method="barlow").listener.all("looked")
    assert [look.reading.step for look in looks] == [0, 2, 4, 6]
    assert [look.reading.features is not None for look in looks] == [True, False, False, False]
    assert all("on_diagonal" in look.reading.signals for look in looks[1:])  # which costs nothing


def test_log_and_checkpoint_hold_every_reading_and_a_resumed_run_goes_on_with_them(
    train: Callable, stop: Callable, unhurried: None, verdicts: Callable
) -> None:
    verdicts(set())
    stop(5, *WATCHED, method="barlow")
    again = train(*WATCHED, method="barlow", resume=True)
    random, readings = readings_of(read_metrics(again.run.metrics))
    assert [reading.step for reading in readings] == [0, 2, 4, 6, 8, 10, 12]
    vitals = load_encoder_origin(again.run)["vitals"]
    assert vitals["readings"] == [reading.as_plain() for reading in readings]
    assert random is not None
    assert vitals["random"] == random.as_plain()
    assert Expectations.from_plain(vitals["expected"]) == again.trainer.state.method.expectations()
    assert {look.random for look in again.listener.all("looked")} == {None}  # measured once


def test_without_a_log_a_resumed_run_has_the_readings_of_its_checkpoint(
    train: Callable, stop: Callable, unhurried: None
) -> None:
    stop(4, *WATCHED, "run.epochs=1", method="barlow")
    run = RunFolder(Path("runs/a"))
    before = load_encoder_origin(run)["vitals"]
    run.metrics.unlink()
    train(*WATCHED, "run.epochs=1", method="barlow", resume=True)
    after = load_encoder_origin(run)["vitals"]
    assert after["random"] == before["random"]
    assert after["readings"][: len(before["readings"])] == before["readings"]
    assert [reading["step"] for reading in after["readings"]] == [0, 1, 2, 3, 4, 5, 6]
    run.metrics.unlink()
    fewer = train("monitor.films=4", "monitor.steps=4", "run.epochs=1", method="barlow", resume=True)
    assert fewer.listener.all("looked") == []  # it is done
    kept = fewer.trainer._monitor._readings
    assert [one.step for one in kept] == [0, 1, 2, 3, 4, 5, 6]
    assert {one.features for one in kept} == {None}  # a rank of eight films is none of four


def load_encoder_origin(run: RunFolder) -> dict:
    """What a run's newest checkpoint says of itself."""
    from scarce_cli import checkpoint

    return checkpoint.load(run.last)[0]["origin"]


def test_two_looks_in_a_row_stop_a_run_with_a_checkpoint_and_its_cure(
    train: Callable, listener: object, unhurried: None, verdicts: Callable
) -> None:
    verdicts({2, 6, 8})
    with pytest.raises(Collapsed) as error:
        train(*WATCHED, "monitor.on_collapse=stop", "monitor.grace=0.1", method="spark", listener=listener)
    assert error.value.exit_code == 9
    assert "not yet learning: the run was stopped by its monitor after step 8 of 12" in error.value.message
    assert "the loss stands at 7.0" in error.value.message
    assert "  augment.noise_std: 0.02 -> 0.0 (" in error.value.remedy
    assert "--resume --on-collapse warn" in error.value.remedy
    run = RunFolder(Path("runs/a"))
    assert load_encoder_origin(run)["step"] == 8
    assert "not yet learning" in run.readme.read_text()


@pytest.mark.parametrize("changed", ["monitor.on_collapse=warn", "monitor.grace=0.9"])
def test_a_run_is_not_stopped_where_it_only_warns_or_has_just_begun(
    train: Callable, unhurried: None, verdicts: Callable, changed: str
) -> None:
    verdicts({1, 2, 3})
    trained = train(*WATCHED, "run.epochs=1", "monitor.on_collapse=stop", changed, method="spark")
    assert trained.trainer.state.step == 6
    assert not any(look.stops for look in trained.listener.all("looked"))


def test_features_that_are_not_finite_are_a_reading_without_features(
    make_job: Callable, train: Callable, monkeypatch: pytest.MonkeyPatch, unhurried: None
) -> None:
    copy = monitor.Monitor._copy

    def huge(self: monitor.Monitor) -> object:
        encoder = copy(self)
        if self._state.step == 6:
            with torch.no_grad():
                encoder.layer4[0].conv1.weight.mul_(1e38)
                encoder.layer4[0].bn1.running_var.mul_(0.0)
        return encoder

    monkeypatch.setattr(monitor.Monitor, "_copy", huge)
    last = train(*WATCHED, "run.epochs=1", method="barlow").listener.all("looked")[-1]
    assert last.reading.features is None
    assert replace(last.reading, signals={}).as_plain()["features"] is None

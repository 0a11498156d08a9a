"""Nothing bad reaches the weights, and what cannot go on ends in order."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from scarce_cli import checkpoint
from scarce_cli.engine.device import LossScaler
from scarce_cli.engine.records import Records
from scarce_cli.engine.trainer import Trainer
from scarce_cli.errors import Diverged, ResourceError, in_words
from scarce_cli.runs import RunFolder, read_metrics


def _spoil(toy: Any, kind: str, steps: range) -> None:
    toy.hook = staticmethod(lambda step: kind if step in steps else None)


@pytest.mark.parametrize("kind", ["loss", "gradient"])
def test_a_step_that_is_not_finite_is_skipped_and_counted(
    kind: str, toy: Any, make_job: Callable, listener: Any, same: Any
) -> None:
    """Neither weights nor optimizer, teacher or the BatchNorms' statistics see it, also at an epoch's end."""
    _spoil(toy, kind, range(3, 6))
    trainer = Trainer(make_job(), listener)
    states = []
    heard = listener.stepped

    def stepped(report: Any) -> None:
        heard(report)
        state = trainer.state
        parts = (state.method.state_dict(), state.optimizer.state_dict()["state"])
        states.append(torch.utils._pytree.tree_map(lambda x: x.clone() if torch.is_tensor(x) else x, parts))

    listener.stepped = stepped
    trainer.train()
    for step in (4, 5, 6):
        assert same(states[step - 1], states[2])
    assert not same(states[6], states[5])
    assert all(torch.isfinite(value).all() for value in states[-1][0].values())
    assert (trainer.state.bad_steps, trainer.state.bad_in_a_row) == (3, 0)
    assert [message.split(":")[0] for message in listener.all("warned")] == ["step 4", "step 5", "step 6"]
    assert all("skipped (films f" in message for message in listener.all("warned"))
    steps = [line for line in read_metrics(trainer.job.run.metrics) if line["kind"] == "step"]
    assert [line["loss"] is None for line in steps] == [kind == "loss" and n in (3, 4, 5) for n in range(12)]
    epochs = [line for line in read_metrics(trainer.job.run.metrics) if line["kind"] == "epoch"]
    good = [line["loss"] for line in steps[:6] if line["loss"] is not None]
    assert epochs[0]["loss"] == pytest.approx(sum(good) / len(good))
    assert checkpoint.load_encoder(trainer.job.run.last).epoch == 2


@pytest.mark.parametrize("kind", ["loss", "gradient"])
def test_ten_in_a_row_are_code_7_and_the_last_good_state_stays(kind: str, toy: Any, train: Callable) -> None:
    run = RunFolder(Path("runs/a"))
    _spoil(toy, kind, range(2, 11))
    assert train("run.checkpoint_steps=2").trainer.state.bad_steps == 9  # nine are not ten
    _spoil(toy, kind, range(2, 12))
    with pytest.raises(Diverged, match=rf"10 steps in a row, at step 12; the last good state is {run.last}") as error:
        train("run.checkpoint_steps=2")
    assert "optimizer.lr" in error.value.remedy
    assert error.value.exit_code == 7
    for name, weights in checkpoint.load_encoder(run.last).state.items():
        assert torch.isfinite(weights).all(), name
    with pytest.raises(Diverged, match="nothing was saved yet in runs/b"):
        train(out="runs/b")


def test_fp16_halves_its_scale_and_below_one_is_code_7(toy: Any, make_job: Callable, listener: Any) -> None:
    _spoil(toy, "gradient", range(1, 12))
    trainer = Trainer(make_job("run.precision=fp16", "run.batch_size=2"), listener)
    scale = trainer.state.scaler
    scale.load_state_dict({**scale.state_dict(), "scale": 4.0})
    before = []
    toy.hook = staticmethod(lambda step: before.append(float(scale.get_scale())) or ("gradient" if step else None))
    with pytest.raises(Diverged, match="the scale of the fp16 loss fell below 1") as error:
        trainer.train()
    assert before == [4.0, 4.0, 2.0, 1.0]
    assert error.value.remedy == "go on with --set run.precision=bf16 --resume --override"
    assert trainer.state.bad_steps == 0


def _watch(trainer: Trainer, listener: Any, heard: Callable[[int], None]) -> None:
    told = listener.stepped

    def stepped(report: Any) -> None:
        told(report)
        heard(report.step)

    listener.stepped = stepped


_LONG = pytest.mark.skipif("SCARCE_LONG" not in os.environ, reason="ten seconds: set SCARCE_LONG=1")


@pytest.mark.parametrize(
    "method", ["toy", "spark", "moco", *(pytest.param(method, marks=_LONG) for method in ("barlow", "dino"))]
)
def test_a_step_that_the_scaler_leaves_out_moves_nothing(
    method: str, toy: Any, make_job: Callable, listener: Any, same: Any
) -> None:
    """Neither weights, optimizer, queue, centre nor teacher, nor the BatchNorms' statistics: as if it had not been."""
    trainer = Trainer(make_job("run.epochs=1", "run.batch_size=12", method=method), listener)
    trainer.state.scaler = LossScaler("cpu", init_scale=2.0**10)
    factor = [1.0]
    trainer.state.method.encoder.conv1.weight.register_hook(lambda gradient: gradient * factor[0])
    scales, states = [], []

    def look(step: int) -> None:
        state = trainer.state
        parts = (state.method.state_dict(), state.optimizer.state_dict()["state"])
        states.append(torch.utils._pytree.tree_map(lambda x: x.clone() if torch.is_tensor(x) else x, parts))
        scales.append(state.scaler.get_scale())
        factor[0] = float("inf") if step in (1, 2) else 1.0

    _watch(trainer, listener, look)
    trainer.train()
    assert scales == [2.0**10, 2.0**9, 2.0**8, 2.0**8]
    assert same(states[0], states[1])
    assert same(states[0], states[2])
    assert not same(states[2], states[3])
    state = trainer.state
    assert (state.rescaled_steps, state.bad_steps, state.bad_in_a_row) == (2, 0, 0)
    assert [text for text in listener.all("warned") if not text.startswith("views of 48 px")] == []


def test_a_scaler_s_skips_do_not_count_towards_ten(toy: Any, make_job: Callable, listener: Any) -> None:
    trainer = Trainer(make_job("run.batch_size=2", "run.epochs=1"), listener)
    trainer.state.scaler = LossScaler("cpu", init_scale=2.0**20)
    _spoil(toy, "gradient", range(5, 20))
    trainer.train()
    state = trainer.state
    assert (state.rescaled_steps, state.bad_steps, state.bad_in_a_row) == (15, 0, 0)
    assert state.scaler.get_scale() == 32.0


def test_a_norm_that_overflows_alone_is_bad_under_a_scaler_as_well(
    toy: Any, make_job: Callable, listener: Any, same: Any
) -> None:
    """Every gradient is finite, so the scale is not at fault and stays."""
    trainer = Trainer(make_job("run.epochs=1"), listener)
    trainer.state.scaler = LossScaler("cpu", init_scale=1.0)
    weight, now = trainer.state.method.head.weight, [0]
    weight.register_hook(lambda gradient: torch.full_like(gradient, 1e30) if now[0] == 2 else gradient)
    toy.hook = staticmethod(lambda step: now.__setitem__(0, step))
    weights = []
    _watch(trainer, listener, lambda step: weights.append(weight.detach().clone()))
    trainer.train()
    state = trainer.state
    assert (state.bad_steps, state.rescaled_steps, state.scaler.get_scale()) == (1, 0, 1.0)
    assert torch.equal(weights[1], weights[2])
    assert not torch.equal(weights[2], weights[3])


@pytest.mark.parametrize("kind", ["loss", "gradient", "scaled"])
def test_a_run_without_one_good_step_is_code_7(kind: str, toy: Any, make_job: Callable, listener: Any) -> None:
    """Fewer than ten steps: neither the tenth bad one nor a collapsed scale ends it."""
    _spoil(toy, "gradient" if kind == "scaled" else kind, range(9))
    trainer = Trainer(make_job("run.epochs=2", "run.batch_size=12", "run.snapshot_epochs=2"), listener)
    if kind == "scaled":
        trainer.state.scaler = LossScaler("cpu")
    with pytest.raises(Diverged, match="none of the 8 steps could be taken") as error:
        trainer.train()
    assert error.value.exit_code == 7
    assert error.value.remedy
    assert not trainer.job.run.last.exists()
    assert trainer.job.run.snapshots() == []


@pytest.mark.parametrize("second", [OSError("no such device"), Diverged("another", "")])
def test_what_fails_while_the_end_is_told_is_a_warning_and_hides_nothing(
    second: Exception, toy: Any, train: Callable, listener: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ended(self: Any, how: str) -> None:
        raise second

    monkeypatch.setattr(Records, "ended", ended)
    _spoil(toy, "loss", range(12))
    with pytest.raises(Diverged, match="10 steps in a row") as error:
        train(listener=listener)
    assert error.value.exit_code == 7
    assert listener.all("warned")[-1] == f"the end is not in the run's README: {in_words(second)}"
    assert listener.heard[-1] == ("ended", None)


def test_one_good_step_in_a_run_is_enough(toy: Any, train: Callable) -> None:
    _spoil(toy, "loss", range(1, 4))
    assert train("run.epochs=1", "run.batch_size=12").trainer.state.bad_steps == 3


def test_steps_left_out_are_remembered_over_a_stop(toy: Any, stop: Callable, train: Callable) -> None:
    """A run all of whose steps were bad, some of them before the stop."""
    _spoil(toy, "loss", range(9))
    overrides = ("run.epochs=1", "run.batch_size=8")
    stop(3, *overrides)
    with pytest.raises(Diverged, match="none of the 6 steps could be taken"):
        train(*overrides, resume=True)


def test_out_of_memory_is_code_8_with_the_batch_to_try(toy: Any, train: Callable, listener: Any) -> None:
    def exhaust(step: int) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    toy.hook = staticmethod(exhaust)
    with pytest.raises(ResourceError, match="the memory is used up at batch 8, 32 px") as error:
        train(listener=listener)
    assert "--set run.batch_size=4" in error.value.remedy
    assert [kind for kind, _ in listener.heard] == ["started", "ended"]


def _fail_saves(monkeypatch: pytest.MonkeyPatch, fail: Callable[[int], bool]) -> list[int]:
    """Let the n-th save (from 1) fail as on a full disk where ``fail(n)``; the list counts them."""
    calls, real = [0], checkpoint.save

    def save(*arguments: Any, **more: Any) -> None:
        calls[0] += 1
        if fail(calls[0]):
            raise ResourceError("the disk is full: cannot write it", "free some space")
        real(*arguments, **more)

    monkeypatch.setattr(checkpoint, "save", save)
    return calls


def test_a_save_that_fails_is_a_warning_and_the_third_in_a_row_ends_the_run(
    train: Callable, listener: Any, saved: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = ("run.checkpoint_steps=2", "run.snapshot_epochs=9")
    _fail_saves(monkeypatch, lambda n: n in (2, 3, 5))
    trained = train(*overrides)
    assert trained.listener.all("warned") == ["not saved: the disk is full: cannot write it"] * 3
    assert saved()["origin"]["step"] == 12
    calls = _fail_saves(monkeypatch, lambda n: n > 1)
    with pytest.raises(ResourceError, match="the disk is full"):
        train(*overrides, out="runs/b", listener=listener)
    assert calls == [4]
    assert len(listener.all("stepped")) == 8
    assert saved("runs/b")["origin"]["step"] == 2


def test_saves_come_after_so_many_steps_or_minutes(train: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    for overrides, times in (
        (("run.checkpoint_steps=5",), 3),  # after 5, 10 and at the end
        (("run.checkpoint_steps=6",), 2),  # the second is the end: not twice
        (("run.checkpoint_minutes=1.0e-9",), 12),
        ((), 1),
    ):
        with monkeypatch.context() as patch:
            calls = _fail_saves(patch, lambda n: False)
            train(*overrides, "run.snapshot_epochs=9", out=f"runs/{times}{len(overrides)}")
            assert calls == [times + 1]  # and the snapshot of the last epoch

"""The loop: what it does, what it tells, how signals end it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from scarce_cli.engine import step as step_module
from scarce_cli.engine import views as views_module
from scarce_cli.engine.optim import step_unless
from scarce_cli.engine.plan import Plan
from scarce_cli.engine.start import build_state
from scarce_cli.engine.trainer import Trainer
from scarce_cli.errors import Interrupted, Terminated, UsageError
from scarce_cli.runs import RunFolder


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_during_a_step_ends_after_it_with_a_checkpoint(
    number: int, code: int, train: Callable, toy: Any, listener: Any, saved: Any
) -> None:
    toy.hook = staticmethod(lambda step: os.kill(os.getpid(), number) if step == 4 else None)
    with pytest.raises(Interrupted) as error:
        train(listener=listener)
    run = RunFolder(Path("runs/a"))
    assert error.value.exit_code == code
    assert error.value.message == f"stopped after step 5 of 12; everything is in {run.last}"
    assert "--resume" in error.value.remedy
    assert saved()["origin"]["step"] == 5
    assert len(listener.all("stepped")) == 5
    assert listener.heard[-1] == ("ended", None)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_second_signal_lets_the_save_finish_and_the_third_keeps_what_was(
    train: Callable, toy: Any, saved: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    signals, torch_save = [0], torch.save

    def save(payload: Any, handle: Any) -> None:
        for _ in range(signals[0]):
            os.kill(os.getpid(), signal.SIGTERM)
        torch_save(payload, handle)

    monkeypatch.setattr(torch, "save", save)
    run = RunFolder(Path("runs/a"))
    for step, more, kind, at in ((3, 1, Interrupted, 4), (8, 2, Terminated, 4)):
        signals[0] = more
        toy.hook = staticmethod(lambda now, when=step: os.kill(os.getpid(), signal.SIGTERM) if now == when else None)
        with pytest.raises(kind):
            train("run.snapshot_epochs=9", resume=step > 3)
        assert saved()["origin"]["step"] == at
        assert not list(run.path.glob(".*scarce-tmp"))


@pytest.mark.parametrize("full", [False, True], ids=["saved", "disk full once"])
def test_a_signal_during_a_save_ends_the_run_with_it(
    full: bool, train: Callable, listener: Any, saved: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not a step later. What that save could not write is tried once more."""
    steps, torch_save = [], torch.save

    def save(payload: Any, handle: Any) -> None:
        steps.append(payload["origin"]["step"])
        if steps[-1] == 8 and steps.count(8) == 1:
            os.kill(os.getpid(), signal.SIGTERM)
            if full:
                raise OSError(28, "No space left on device")
        torch_save(payload, handle)

    monkeypatch.setattr(torch, "save", save)
    with pytest.raises(Interrupted, match="stopped after step 8 of 12"):
        train("run.checkpoint_steps=4", "run.snapshot_epochs=9", listener=listener)
    assert len(listener.all("stepped")) == saved()["origin"]["step"] == 8
    assert steps == [4, 8, 8][: 2 + full]


@pytest.mark.parametrize("method", ["toy", "spark"])
def test_bf16_trains_on_the_cpu_close_to_fp32_with_weights_in_float32(method: str, train: Callable) -> None:
    losses = {}
    for precision in ("fp32", "bf16"):
        trained = train(f"run.precision={precision}", "run.epochs=1", "run.batch_size=12", method=method, out=precision)
        state = trained.trainer.state
        losses[precision] = [report.loss for report in trained.listener.all("stepped")]
        assert {p.dtype for p in state.method.parameters()} == {torch.float32}
        assert (state.scaler.is_enabled(), state.bad_steps) == (False, 0)
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=0.03)
    assert losses["bf16"] != losses["fp32"]


def test_the_observer_hears_everything(train: Callable) -> None:
    trained = train("optimizer.lr=0.01")
    heard = trained.listener.heard
    kinds = ["started", *(["stepped"] * 6 + ["epoch"]) * 2, "ended"]
    kinds.insert(8, "measured")  # with the seventh step
    assert [kind for kind, _ in heard] == kinds
    reports = trained.listener.all("stepped")
    assert [(r.step, r.total_steps) for r in reports] == [(n, 12) for n in range(1, 13)]
    assert [r.epoch for r in reports] == pytest.approx([n / 6 for n in range(1, 13)])
    assert [r.lr for r in reports[:6]] == pytest.approx([0.01 * n / 6 for n in range(1, 7)])
    assert reports[-1].lr == 0
    assert all(r.images_per_s > 0 and r.scalars.keys() == {"distance"} for r in reports)
    parameters = sum(p.numel() for p in trained.trainer.state.method.parameters())
    assert trained.listener.all("started") == [(12, 0, parameters)]
    for number, (epoch, values) in enumerate(trained.listener.all("epoch"), start=1):
        assert epoch == number
        logged = {"loss", "lr", "weight_decay", "images_per_s", "distance"}
        assert values.keys() == logged | {"relative_std", "mean_cosine"}
        part = reports[6 * number - 6 : 6 * number]
        assert values["loss"] == pytest.approx(sum(r.loss for r in part) / 6)


def test_the_seed_fixes_the_run_and_the_weights_move(train: Callable, same: Any) -> None:
    a, b = train(out="runs/a"), train(out="runs/b")
    assert same(a.weights, b.weights)
    other = train("run.seed=1", out="runs/c")
    assert not same(a.weights, other.weights)
    assert not torch.equal(a.weights["teacher"], torch.zeros(4))
    torch.manual_seed(5)
    assert same(a.weights, train(out="runs/d").weights)


def test_every_step_has_films_views_and_randomness_of_its_own(
    train: Callable, toy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds, films, views = [], [], []
    forward, load_films = toy.forward, views_module.load_films

    def record(self: Any, given: Any, progress: Any, generator: torch.Generator) -> Any:
        seeds.append(generator.initial_seed())
        views.extend(float(view.image_BCHW[0].double().sum()) for view in given)
        assert (progress.total_steps, progress.steps_per_epoch, progress.step) == (12, 6, len(seeds) - 1)
        return forward(self, given, progress, generator)

    def record_rows(cache: Any, rows: Any, device: torch.device) -> Any:
        films.extend(rows.tolist())
        return load_films(cache, rows, device)

    monkeypatch.setattr(toy, "forward", record)
    monkeypatch.setattr(views_module, "load_films", record_rows)
    train()
    assert len(set(seeds)) == 12
    assert len(set(views)) == 24
    assert sorted(films[:48]) == sorted(films[48:]) == list(range(48))
    assert films[:48] != films[48:]
    one = seeds.copy()
    seeds.clear()
    train("run.seed=1", out="runs/b")
    assert not set(one) & set(seeds)


def test_gradients_are_clipped_as_the_recipe_says(train: Callable) -> None:
    """With SGD, no decay and no momentum, a step is no longer than lr x clip_norm."""
    plain = ("optimizer.name=sgd", "optimizer.momentum=0.0", "optimizer.weight_decay=0.0", "optimizer.lr=1.0")
    plain += ("schedule.warmup_epochs=0.0", "run.epochs=1", "run.batch_size=24")  # two steps, the last with a rate of 0
    start = train(*plain, "optimizer.lr=1.0e-30", out="runs/0").weights
    moved = train(*plain, "optimizer.clip_norm=0.01", out="runs/1")
    keys = [name for name, p in moved.trainer.state.method.named_parameters()]
    length = torch.cat([(moved.weights[k] - start[k]).flatten() for k in keys]).double().norm()
    assert float(length) == pytest.approx(0.01, rel=1e-3)


def test_fp16_gradients_are_clipped_after_the_scale_is_taken_off(toy: Any, make_job: Callable, listener: Any) -> None:
    plain = ("optimizer.name=sgd", "optimizer.momentum=0.0", "optimizer.weight_decay=0.0", "optimizer.lr=1.0")
    plain += ("schedule.warmup_epochs=0.0", "run.batch_size=2", "run.precision=fp16", "optimizer.clip_norm=0.01")
    trainer = Trainer(make_job(*plain), listener)
    trainer.state.scaler.load_state_dict({**trainer.state.scaler.state_dict(), "scale": 64.0})
    before = [p.detach().clone() for p in trainer.state.method.parameters()]
    listener.stepped = lambda report: os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(Interrupted):
        trainer.train()
    moved = [(p.detach() - old).flatten() for p, old in zip(trainer.state.method.parameters(), before, strict=True)]
    assert float(torch.cat(moved).double().norm()) == pytest.approx(0.01, rel=1e-3)


def test_fewer_films_than_a_batch_is_code_2(make_job: Callable, listener: Any) -> None:
    with pytest.raises(UsageError, match="the data set has 48 films, fewer than one batch of 49"):
        Trainer(make_job("run.batch_size=49"), listener)


def test_the_methods_hook_sees_clipped_gradients_and_what_it_takes_away_does_not_move(
    train: Callable, toy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the official DINO: clip, then cancel. The norm that is clipped is that of all gradients."""
    norms = []

    def cancel(self: Any, progress: Any) -> None:
        norms.append(float(torch.nn.utils.get_total_norm([p.grad for p in self.parameters() if p.grad is not None])))
        self.head.weight.grad = None

    monkeypatch.setattr(toy, "after_backward", cancel)
    trained = train("optimizer.clip_norm=0.01", "run.epochs=1", "optimizer.lr=1.0e-2")
    assert norms == pytest.approx([0.01] * 6, rel=1e-3)
    fresh = build_state(trained.trainer.job).method
    assert torch.equal(trained.trainer.state.method.head.weight, fresh.head.weight)
    assert not torch.equal(trained.trainer.state.method.head.bias, fresh.head.bias)
    assert trained.trainer.state.method.head.weight not in trained.trainer.state.optimizer.state


@pytest.mark.parametrize("name", ["lars", "lamb"])
def test_the_optimizer_of_the_recipe_gets_the_values_of_every_step(
    name: str, train: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def record(optimizer: Any, bad: torch.Tensor) -> None:
        seen.append([(group["lr"], group["weight_decay"]) for group in optimizer.param_groups])
        step_unless(optimizer, bad)

    monkeypatch.setattr(step_module, "step_unless", record)
    extra = ("optimizer.lr_1d=0.002",) if name == "lars" else ()
    trained = train(f"optimizer.name={name}", "optimizer.lr=0.1", "optimizer.final_weight_decay=0.2", *extra)
    plan = Plan(trained.trainer.job.config, 6)
    wanted = [[(plan.at(n).lr, plan.at(n).weight_decay), (plan.at(n).lr_1d, 0.0)] for n in range(12)]
    assert seen == wanted
    assert seen[-1] == [(0.0, 0.2), (0.0, 0.0)]

"""One step: nothing waits for the device, and what is not finite moves nothing."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from scarce_cli.data.augment import View
from scarce_cli.engine.start import build_state
from scarce_cli.engine.step import LOSS, OWN, TAKEN, Stepper
from scarce_cli.engine.views import Batches, ViewMaker

# What brings a number, or a shape that depends on numbers, from the device to Python.
WAITING = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "unique", "bincount"}


class Watch(TorchDispatchMode):
    """Collects the operations that would wait for the device."""

    def __init__(self) -> None:
        super().__init__()
        self.waited: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.__name__.split(".")[0].rstrip("_")
        if name in {w.strip("_") for w in WAITING} or name.lstrip("_") in {w.strip("_") for w in WAITING}:
            self.waited.append(name)
        return func(*args, **(kwargs or {}))


def _stepper(job: Any) -> tuple[Stepper, ViewMaker, Any]:
    state, batches = build_state(job), Batches(job)
    stepper = Stepper(job, state, total_steps=batches.total, steps_per_epoch=batches.per_epoch)
    views = ViewMaker(job, state.method.view_specs(job.config.data.size, job.config.augment), batches)
    return stepper, views, state


def test_the_watch_sees_a_number_that_is_asked_for() -> None:
    with Watch() as watch:
        float(torch.ones(1) + 1)
        torch.ones(3).nonzero()
    assert watch.waited == ["_local_scalar_dense", "nonzero"]


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "lars", "lamb"])
def test_no_optimizer_waits_for_the_device(optimizer: str, make_job: Callable) -> None:
    _check_waits_for_nothing(make_job(f"optimizer.name={optimizer}", "optimizer.clip_norm=1.0"))


@pytest.mark.parametrize("method", ["spark", "moco", "barlow", "dino"])
def test_no_method_waits_for_the_device(method: str, make_job: Callable) -> None:
    _check_waits_for_nothing(make_job("optimizer.clip_each=3.0", method=method))


def _check_waits_for_nothing(job: Any) -> None:
    """The second step as well: the first one makes the moments."""
    stepper, views, _ = _stepper(job)
    for step in range(2):
        with Watch() as watch:
            taken = stepper.take(step, views.take(step))
        assert watch.waited == []
        said = dict(zip(taken.names, taken.values.tolist(), strict=True))
        assert said[TAKEN] == 1
        assert math.isfinite(said[LOSS])
        assert set(OWN) <= set(said)


class Elsewhere(torch.Generator):
    """A generator that says it is on a device where only shapes are computed."""

    device = torch.device("meta")


@pytest.mark.parametrize(
    ("method", "overrides"),
    [
        ("barlow", ()),
        ("moco", ("method.bn_splits=2", "method.shuffle_keys=true", "method.variance_weight=1.0")),
        ("dino", ("method.local_crops=1",)),
        ("dino", ("method.centring=sinkhorn", "method.koleo_weight=0.1")),
        ("spark", ()),
        ("spark", ("method.masking=sparse", "method.patch=32", "data.size=64", "method.decoder_width=32")),
    ],
)
def test_a_step_stays_on_its_device(
    method: str, overrides: tuple[str, ...], make_job: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On one that refuses what is on another, and has no numbers that could be asked for. (LAMB, because torch's fused
    optimizers know real devices only.)"""
    meta = Elsewhere.device
    with pytest.raises(RuntimeError, match="device"):
        torch.zeros(2, 3, device=meta) * torch.zeros(2, 3)
    monkeypatch.setattr("scarce_cli.engine.step._generator", lambda job, step: Elsewhere())
    monkeypatch.setattr(torch, "autocast", lambda *arguments, **more: contextlib.nullcontext())  # which knows no meta
    job = replace(make_job("optimizer.name=lamb", "optimizer.clip_norm=1.0", *overrides, method=method), device=meta)
    state, batches = build_state(job), Batches(job)
    stepper = Stepper(job, state, total_steps=batches.total, steps_per_epoch=batches.per_epoch)
    specs = state.method.view_specs(job.config.data.size, job.config.augment)
    images = [torch.zeros(job.config.run.batch_size, 1, spec.size, spec.size, device=meta) for spec in specs]
    for step in range(2):
        taken = stepper.take(step, [View(image, image) for image in images])
    assert taken.values.device == meta
    assert {tensor.device for tensor in (*state.method.parameters(), *state.method.buffers())} == {meta}


@pytest.mark.parametrize(
    ("method", "optimizer"),
    [("toy", "lars"), ("toy", "lamb"), ("spark", "adamw"), ("moco", "sgd"), ("barlow", "lars"), ("dino", "adamw")],
)
def test_a_bad_step_moves_nothing_and_the_next_is_as_if_it_had_not_been(
    method: str, optimizer: str, make_job: Callable, same: Any
) -> None:
    """Weights, moments, teacher, queue, centre and running statistics, to the bit."""
    states = []
    for spoilt in (False, True):
        stepper, views, state = _stepper(make_job(f"optimizer.name={optimizer}", method=method))
        for step in (0, 1):
            if spoilt and step == 1:
                for view in (bad := views.take(1)):
                    view.image_BCHW[0, 0, 5, 5] = math.nan
                before = _copy(state)
                taken = stepper.take(1, bad)
                assert dict(zip(taken.names, taken.values.tolist(), strict=True))[TAKEN] == 0
                assert same(before, _copy(state))
            stepper.take(step, views.take(step))
        states.append(_copy(state))
    assert same(*states)


def _copy(state: Any) -> Any:
    parts = (state.method.state_dict(), state.optimizer.state_dict()["state"])
    return torch.utils._pytree.tree_map(lambda x: x.clone() if torch.is_tensor(x) else x, parts)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "lars", "lamb"])
def test_a_first_step_that_is_bad_leaves_no_trace(optimizer: str, make_job: Callable, same: Any) -> None:
    """With memory that is not zero by chance where an optimizer takes it as it comes."""
    states = []
    for spoilt in (False, True):
        stepper, views, state = _stepper(make_job(f"optimizer.name={optimizer}"))
        if spoilt:
            for view in (bad := views.take(0)):
                view.image_BCHW.fill_(math.nan)
            _ = [torch.full_like(p, 1e6) for p in state.method.parameters()]  # freed: what is taken next may be these
            stepper.take(0, bad)
        for step in (0, 1):
            stepper.take(step, views.take(step))
        parts = (state.method.state_dict(), state.optimizer.state_dict()["state"])
        states.append(torch.utils._pytree.tree_map(lambda x: x.clone() if torch.is_tensor(x) else x, parts))
    assert same(*states)
    assert all(torch.isfinite(p).all() for p in states[1][0].values())


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "lars", "lamb"])
def test_a_tensor_without_gradient_at_first_joins_later(optimizer: str, make_job: Callable) -> None:
    """As the last layer of a head that is frozen in the first epoch."""
    stepper, views, state = _stepper(make_job(f"optimizer.name={optimizer}"))
    weight, before = state.method.head.weight, state.method.head.weight.detach().clone()
    state.method.after_backward = lambda progress: setattr(weight, "grad", None) if progress.step == 0 else None
    stepper.take(0, views.take(0))
    assert torch.equal(weight, before)
    stepper.take(1, views.take(1))
    assert torch.isfinite(weight).all()
    assert not torch.equal(weight, before)

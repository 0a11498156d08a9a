"""Optimizers against torch's own, groups by the kind of each parameter's module, clipping by the formula."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from scarce_cli.config import OptimizerSettings
from scarce_cli.engine.optim import build_optimizer, clip_gradients, parameter_groups, set_values
from scarce_cli.engine.plan import StepValues
from scarce_cli.methods import TABLE, method_class
from scarce_cli.methods.base import Method
from scarce_cli.models.resnet import build_encoder

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.LayerNorm, nn.GroupNorm)
BUILT = [name for name, place in TABLE.items() if place]


def _settings(**changes: Any) -> OptimizerSettings:
    return OptimizerSettings(**{"name": "adamw", "lr": 0.1, "weight_decay": 0.05, **changes})


def _method(name: str) -> Method:
    kind = method_class(name)
    return kind.build(build_encoder("resnet18", seed=0), kind.settings_type(), 96)


@pytest.mark.parametrize("name", BUILT)
def test_biases_and_norms_are_not_decayed_and_nothing_else(name: str) -> None:
    method = _method(name)
    trained = dict(method.trained_parameters())
    rest = set()
    for place, module in method.named_modules():
        for key, parameter in module.named_parameters(prefix=place, recurse=False):
            spared = isinstance(module, NORMS) or key.endswith("bias") or isinstance(module, nn.ParameterList)  # tokens
            if parameter.requires_grad and spared:
                rest.add(parameter)
    assert rest
    decayed, kept = parameter_groups(trained.items(), _settings())
    assert set(kept["params"]) == rest
    assert set(decayed["params"]) == set(trained.values()) - rest
    assert len(decayed["params"]) + len(kept["params"]) == len(trained)
    assert (decayed["weight_decay"], kept["weight_decay"]) == (0.05, 0.0)


def test_published_recipes_may_decay_all() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    (group,) = parameter_groups(net.named_parameters(), _settings(decay_all=True))
    assert set(group["params"]) == set(net.parameters())
    assert group["weight_decay"] == 0.05
    (only,) = parameter_groups(net[1].named_parameters(), _settings())
    assert only["weight_decay"] == 0.0


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_a_few_steps_are_the_published_update(name: str) -> None:
    """AdamW and SGD with momentum written out, decay on the matrix alone."""
    torch.manual_seed(0)
    net = nn.Linear(5, 3).double()
    settings = _settings(name=name, lr=0.01, betas=(0.8, 0.95), momentum=0.7)
    optimizer = build_optimizer(net.named_parameters(), settings)
    wanted = {key: p.detach().clone() for key, p in net.named_parameters()}
    first = {key: torch.zeros_like(p) for key, p in wanted.items()}
    second = {key: torch.zeros_like(p) for key, p in wanted.items()}
    for step in range(1, 5):
        rate = 0.01 / step
        set_values(optimizer, StepValues(lr=rate, lr_1d=rate, weight_decay=0.05))
        optimizer.zero_grad()
        net(torch.randn(7, 5).double()).square().sum().backward()
        for key, p in net.named_parameters():
            gradient, decay = p.grad.clone(), 0.05 if key == "weight" else 0.0
            if name == "adamw":
                wanted[key] *= 1 - rate * decay
                first[key] = 0.8 * first[key] + 0.2 * gradient
                second[key] = 0.95 * second[key] + 0.05 * gradient**2
                size = (second[key] / (1 - 0.95**step)).sqrt() + 1e-8
                wanted[key] -= rate * first[key] / (1 - 0.8**step) / size
            else:
                gradient += decay * wanted[key]
                first[key] = gradient if step == 1 else 0.7 * first[key] + gradient
                wanted[key] -= rate * first[key]
        optimizer.step()
        for key, p in net.named_parameters():
            torch.testing.assert_close(p.detach(), wanted[key], rtol=1e-10, atol=1e-12)


def _net_with_gradients() -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(6, 5), nn.LayerNorm(5), nn.Linear(5, 2))
    net[2].bias.requires_grad_(False)  # one without gradient
    optimizer = build_optimizer(net.named_parameters(), _settings())
    net(torch.randn(9, 6)).square().sum().backward()
    return net, optimizer


@pytest.mark.parametrize("limit", [0.5, 1e6])
def test_clipping_is_torchs_over_all_groups_together(limit: float) -> None:
    net, optimizer = _net_with_gradients()
    other, _ = _net_with_gradients()
    gradients = [p.grad for p in net.parameters() if p.grad is not None]
    length = math.sqrt(sum(float(g.double().square().sum()) for g in gradients))
    assert float(clip_gradients(optimizer, _settings(clip_norm=limit))) == pytest.approx(length, rel=1e-6)
    torch.nn.utils.clip_grad_norm_(other.parameters(), limit)
    for ours, wanted in zip(net.parameters(), other.parameters(), strict=True):
        assert (ours.grad is None) == (wanted.grad is None)
        if ours.grad is not None:
            torch.testing.assert_close(ours.grad, wanted.grad)
    after = math.sqrt(sum(float(g.double().square().sum()) for g in gradients))
    assert after == pytest.approx(min(length, limit), rel=1e-5)


def test_zero_leaves_gradients_alone_and_still_tells_when_one_is_not_finite() -> None:
    net, optimizer = _net_with_gradients()
    before = [p.grad.clone() for p in net.parameters() if p.grad is not None]
    assert torch.isfinite(clip_gradients(optimizer, _settings()))
    after = [p.grad for p in net.parameters() if p.grad is not None]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    for bad in (math.nan, math.inf):
        net[0].weight.grad[0, 0] = bad
        assert not torch.isfinite(clip_gradients(optimizer, _settings()))


@pytest.mark.parametrize("limit", [0.4, 1e6])
def test_clipping_each_tensor_by_itself_is_the_official_formula(limit: float) -> None:
    """numpy, from the formula: a factor limit / (norm + 1e-6) where it is below 1; the norm returned is the global."""
    net, optimizer = _net_with_gradients()
    net[1].bias.grad.zero_()
    before = {name: p.grad.double().numpy().copy() for name, p in net.named_parameters() if p.grad is not None}
    lengths = {name: np.sqrt((g**2).sum()) for name, g in before.items()}
    assert {length > 0.4 for length in lengths.values()} == {True, False}
    total = clip_gradients(optimizer, _settings(clip_each=limit))
    assert float(total) == pytest.approx(np.sqrt(sum(length**2 for length in lengths.values())), rel=1e-6)
    for name, p in net.named_parameters():
        if p.grad is not None:
            wanted = before[name] * min(1.0, limit / (lengths[name] + 1e-6))
            np.testing.assert_allclose(p.grad.numpy(), wanted, rtol=1e-6)
    net[0].weight.grad[0, 0] = math.nan
    assert not torch.isfinite(clip_gradients(optimizer, _settings(clip_each=limit)))


def test_clipping_without_any_gradient_is_nothing() -> None:
    net = nn.Linear(2, 2)
    optimizer = build_optimizer(net.named_parameters(), _settings())
    for settings in (_settings(clip_each=1.0), _settings(clip_norm=1.0)):
        assert float(clip_gradients(optimizer, settings)) == 0.0


@pytest.mark.parametrize("name", ["adamw", "sgd", "lars", "lamb"])
def test_a_tensor_without_gradient_is_left_entirely_alone(name: str) -> None:
    """No decay, no moments, no step counted: when its gradient comes, that is its first step."""
    torch.manual_seed(4)
    start = torch.randn(3, 4).double()
    given = torch.randn(3, 4).double()
    late, first = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    optimizers = [build_optimizer([("weight", p)], _settings(name=name)) for p in (late, first)]
    values = StepValues(lr=0.01, lr_1d=0.02, weight_decay=0.3)
    other = nn.Parameter(torch.ones(2, 2).double())
    optimizers[0].add_param_group({**optimizers[0].param_groups[0], "params": [other]})
    for _ in range(3):
        other.grad = torch.ones_like(other)
        set_values(optimizers[0], values)
        optimizers[0].step()
        assert torch.equal(late, start)
        assert not any(part.any() for part in optimizers[0].state.get(late, {}).values())
    assert not torch.equal(other, torch.ones_like(other))
    for p, optimizer in ((late, optimizers[0]), (first, optimizers[1])):
        p.grad = given.clone()
        set_values(optimizer, values)
        optimizer.step()
    assert torch.equal(late, first)
    assert not torch.equal(late, start)


def test_each_group_has_the_values_of_the_step() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    optimizer = build_optimizer(net.named_parameters(), _settings(name="lars", lr_1d=0.002))
    set_values(optimizer, StepValues(lr=0.5, lr_1d=0.01, weight_decay=0.07))
    decayed, rest = optimizer.param_groups
    assert (decayed["lr"], decayed["weight_decay"], decayed["adapt"]) == (0.5, 0.07, True)
    assert (rest["lr"], rest["weight_decay"], rest["adapt"]) == (0.01, 0.0, False)

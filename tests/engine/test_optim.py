"""Optimizers against torch's own, groups by the kind of each parameter's module, clipping by the formula."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from scarce_cli.config import OptimizerSettings
from scarce_cli.engine.optim import build_optimizer, clip_gradients, parameter_groups, set_lr
from scarce_cli.methods import TABLE, method_class
from scarce_cli.models.resnet import build_encoder

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.LayerNorm, nn.GroupNorm)
BUILT = [name for name, place in TABLE.items() if place]


def _settings(**changes: Any) -> OptimizerSettings:
    return OptimizerSettings(**{"name": "adamw", "lr": 0.1, "weight_decay": 0.05, **changes})


def _method(name: str) -> nn.Module:
    kind = method_class(name)
    return kind.build(build_encoder("resnet18", seed=0), kind.settings_type(), 64)


@pytest.mark.parametrize("name", BUILT)
def test_biases_and_norms_are_not_decayed_and_nothing_else(name: str) -> None:
    method = _method(name)
    rest = set()
    for module in method.modules():
        for key, parameter in module.named_parameters(recurse=False):
            if isinstance(module, NORMS) or key == "bias":
                rest.add(parameter)
    assert rest
    decayed, kept = parameter_groups(method.trained_parameters(), _settings())
    assert set(kept["params"]) == rest
    assert set(decayed["params"]) == set(method.parameters()) - rest
    assert len(decayed["params"]) + len(kept["params"]) == len(list(method.parameters()))
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
        set_lr(optimizer, rate)
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
    assert float(clip_gradients(optimizer, limit)) == pytest.approx(length, rel=1e-6)
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
    assert torch.isfinite(clip_gradients(optimizer, 0.0))
    after = [p.grad for p in net.parameters() if p.grad is not None]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    for bad in (math.nan, math.inf):
        net[0].weight.grad[0, 0] = bad
        assert not torch.isfinite(clip_gradients(optimizer, 0.0))

"""LARS and LAMB against the papers' formulas in plain numpy, and what scaling must not change."""

from __future__ import annotations

import copy
import io
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from scarce_cli.engine.layerwise import LAMB, LARS

Array = NDArray[np.float64]
SHAPES = {"conv": (4, 3, 3, 3), "linear": (5, 7), "bias": (5,), "zero": (2, 3), "still": (3, 2), "scalar": ()}
BY_ONE = ("bias", "scalar")


def _length(values: Array) -> float:
    return float(np.sqrt((values.astype(np.float64) ** 2).sum()))


def _ratio(weight: Array, update: Array) -> float:
    return _length(weight) / _length(update) if _length(weight) > 0 and _length(update) > 0 else 1.0


def _lars(weights: dict[str, Array], gradients: list[dict[str, Array]], rates: list[float]) -> dict[str, Array]:
    """main.py of Barlow Twins, as a formula: decay and adaptation for tensors of more than one dimension."""
    weights = {name: value.copy() for name, value in weights.items()}
    momentum = {name: np.zeros_like(value) for name, value in weights.items()}
    for gradient, rate in zip(gradients, rates, strict=True):
        for name in weights:
            step = gradient[name]
            if name not in BY_ONE:
                step = step + 0.02 * weights[name]
                adapted = _length(weights[name]) > 0 and _length(step) > 0
                step = step * (0.001 * _ratio(weights[name], step) if adapted else 1.0)
            momentum[name] = 0.8 * momentum[name] + step
            weights[name] = weights[name] - rate * (0.1 if name in BY_ONE else 1.0) * momentum[name]
    return weights


def _lamb(weights: dict[str, Array], gradients: list[dict[str, Array]], rates: list[float]) -> dict[str, Array]:
    """Algorithm 2 of the paper with bias correction, eps 1e-6, and no adaptation of what is not decayed."""
    weights = {name: value.copy() for name, value in weights.items()}
    first = {name: np.zeros_like(value) for name, value in weights.items()}
    second = {name: np.zeros_like(value) for name, value in weights.items()}
    for count, (gradient, rate) in enumerate(zip(gradients, rates, strict=True), start=1):
        for name in weights:
            first[name] = 0.9 * first[name] + 0.1 * gradient[name]
            second[name] = 0.95 * second[name] + 0.05 * gradient[name] ** 2
            mean, square = first[name] / (1 - 0.9**count), second[name] / (1 - 0.95**count)
            update = mean / (np.sqrt(square) + 1e-6)
            if name not in BY_ONE:
                update = update + 0.02 * weights[name]
                update = update * _ratio(weights[name], update)
            weights[name] = weights[name] - rate * update
    return weights


def _build(name: str, weights: dict[str, nn.Parameter]) -> torch.optim.Optimizer:
    wide = {"params": [p for key, p in weights.items() if key not in BY_ONE], "weight_decay": 0.02}
    slim = {"params": [p for key, p in weights.items() if key in BY_ONE], "weight_decay": 0.0}
    if name == "lamb":
        return LAMB([wide, slim], lr=0.0, betas=(0.9, 0.95))
    return LARS([wide, {**slim, "adapt": False}], lr=0.0, momentum=0.8)


def _step(optimizer: torch.optim.Optimizer, name: str, rate: float) -> None:
    wide, slim = optimizer.param_groups
    wide["lr"], slim["lr"] = rate, rate * (0.1 if name == "lars" else 1.0)
    optimizer.step()


def _case(steps: int) -> tuple[dict[str, Array], list[dict[str, Array]], list[float]]:
    """Random weights, one tensor of zeros and one whose gradient is zero: there the ratio is 1."""
    rng = np.random.default_rng(3)
    weights = {name: rng.normal(size=shape) for name, shape in SHAPES.items()}
    weights["zero"] = np.zeros(SHAPES["zero"])
    gradients = [{name: 10.0**-n * rng.normal(size=shape) for name, shape in SHAPES.items()} for n in range(steps)]
    gradients[0]["still"] = np.zeros(SHAPES["still"])
    return weights, gradients, [0.3 / (n + 1) for n in range(steps)]


@pytest.mark.parametrize(("name", "oracle"), [("lars", _lars), ("lamb", _lamb)])
@pytest.mark.parametrize("layout", ["plain", "channels last"])
def test_several_steps_are_those_of_the_formula(name: str, oracle: Callable[..., Any], layout: str) -> None:
    start, gradients, rates = _case(6)
    memory = torch.channels_last if layout == "channels last" else torch.contiguous_format
    weights = {}
    for key, value in start.items():
        tensor = torch.tensor(value, dtype=torch.float64)
        weights[key] = nn.Parameter(tensor.to(memory_format=memory) if tensor.ndim == 4 else tensor)
    optimizer = _build(name, weights)
    for gradient, rate in zip(gradients, rates, strict=True):
        for key, p in weights.items():
            p.grad = torch.empty_like(p).copy_(torch.tensor(gradient[key], dtype=torch.float64))
        _step(optimizer, name, rate)
        assert all(np.array_equal(p.grad.numpy(), gradient[key]) for key, p in weights.items())  # left as they were
    wanted = oracle(start, gradients, rates)
    for key, p in weights.items():
        np.testing.assert_allclose(p.detach().numpy(), wanted[key], rtol=1e-12, atol=1e-14, err_msg=key)
        assert not np.array_equal(wanted[key], start[key])


@pytest.mark.parametrize("name", ["lars", "lamb"])
def test_found_inf_leaves_weights_moments_and_count_whatever_the_gradients_are(name: str) -> None:
    start, gradients, rates = _case(3)
    runs = []
    for bad in (False, True):
        weights = {key: nn.Parameter(torch.tensor(value, dtype=torch.float32)) for key, value in start.items()}
        optimizer = _build(name, weights)
        for gradient, rate in zip(gradients, rates, strict=True):
            for spoil in (True, False) if bad else (False,):
                for key, p in weights.items():
                    p.grad = torch.tensor(gradient[key], dtype=torch.float32) * (math.nan if spoil else 1.0)
                optimizer.found_inf = torch.tensor(float(spoil))
                _step(optimizer, name, rate)
        runs.append((weights, [part for state in optimizer.state_dict()["state"].values() for part in state.values()]))
    for one, other in zip(runs[0][0].values(), runs[1][0].values(), strict=True):
        assert torch.isfinite(one).all()
        assert torch.equal(one, other)
    assert all(map(torch.equal, runs[0][1], runs[1][1]))


@pytest.mark.parametrize("name", ["lars", "lamb"])
def test_a_state_saved_and_loaded_goes_on_to_the_same_bits(name: str) -> None:
    start, gradients, rates = _case(6)
    weights = {key: nn.Parameter(torch.tensor(value, dtype=torch.float32)) for key, value in start.items()}
    optimizer, copied = _build(name, weights), {}
    for count, (gradient, rate) in enumerate(zip(gradients, rates, strict=True)):
        if count == 3:
            file = io.BytesIO()
            torch.save(optimizer.state_dict(), file)
            file.seek(0)
            copied = copy.deepcopy(weights)
            other = _build(name, copied)
            other.load_state_dict(torch.load(file, weights_only=True))
        for owner, those in ((optimizer, weights), *(((other, copied),) if copied else ())):
            for key, p in those.items():
                p.grad = torch.tensor(gradient[key], dtype=torch.float32)
            _step(owner, name, rate)
    assert all(torch.equal(p, copied[key]) for key, p in weights.items())
    again = other.state_dict()
    for key, state in optimizer.state_dict()["state"].items():
        for part, value in state.items():
            same = again["state"][key][part]
            assert torch.equal(value, same) if isinstance(value, torch.Tensor) else value == same


@pytest.mark.parametrize("scale", [1e-3, 64.0])
def test_the_length_of_a_gradient_does_not_matter_to_lars_where_it_adapts(scale: float) -> None:
    """Without decay: the step has the gradient's direction and a length that the weight's alone decides."""
    start, gradients, _ = _case(1)
    moved = {}
    for factor in (1.0, scale):
        weight = nn.Parameter(torch.tensor(start["conv"], dtype=torch.float64))
        weight.grad = factor * torch.tensor(gradients[0]["conv"], dtype=torch.float64)
        LARS([weight], lr=0.5).step()
        moved[factor] = weight.detach().numpy() - start["conv"]
    np.testing.assert_allclose(moved[scale], moved[1.0], rtol=1e-12, atol=1e-16)
    assert _length(moved[scale]) == pytest.approx(0.5 * 0.001 * _length(start["conv"]), rel=1e-12)
    cosine = -(moved[1.0] * gradients[0]["conv"]).sum() / _length(moved[1.0]) / _length(gradients[0]["conv"])
    assert cosine == pytest.approx(1.0, abs=1e-12)


def test_lamb_moves_a_decayed_tensor_by_its_own_length_whatever_the_gradients() -> None:
    start, gradients, _ = _case(1)
    for factor in (1.0, 1e4):
        weight = nn.Parameter(torch.tensor(start["linear"], dtype=torch.float64))
        weight.grad = factor * torch.tensor(gradients[0]["linear"], dtype=torch.float64)
        LAMB([weight], lr=0.01, weight_decay=0.02).step()
        assert _length(weight.detach().numpy() - start["linear"]) == pytest.approx(
            0.01 * _length(start["linear"]), rel=1e-12
        )


def test_lamb_without_decay_is_adam() -> None:
    start, gradients, _ = _case(4)
    ours = nn.Parameter(torch.tensor(start["linear"], dtype=torch.float64))
    theirs = nn.Parameter(ours.detach().clone())
    optimizers = LAMB([ours], lr=0.01), torch.optim.Adam([theirs], lr=0.01, eps=1e-6)
    for gradient in gradients:
        for p, optimizer in zip((ours, theirs), optimizers, strict=True):
            p.grad = torch.tensor(gradient["linear"], dtype=torch.float64)
            optimizer.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("kind", [LARS, LAMB])
def test_a_loss_scaler_steps_them_and_leaves_them_alone_when_a_gradient_is_not_finite(kind: type) -> None:
    weight = nn.Parameter(torch.ones(2, 3))
    optimizer, scaler = kind([weight], lr=0.1), torch.amp.GradScaler("cpu", init_scale=8.0)
    for bad in (False, True):
        before = weight.detach().clone()
        weight.grad = None
        scaler.scale((weight * (float("inf") if bad else 1.0)).sum()).backward()
        scaler.step(optimizer)
        scaler.update()
        assert torch.equal(weight, before) == bad

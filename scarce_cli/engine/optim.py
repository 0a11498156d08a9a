"""Optimizers over a method's parameters, with the groups that weight decay needs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from scarce_cli.config import OptimizerSettings
from scarce_cli.engine.layerwise import LAMB, LARS
from scarce_cli.engine.plan import StepValues

_SAFE = 1e-6  # added to a norm that is divided by, as torch and the official codes do


def parameter_groups(
    parameters: Iterable[tuple[str, nn.Parameter]], settings: OptimizerSettings
) -> list[dict[str, Any]]:
    """Two groups: ``decayed``, and not decayed (biases, norm scales: everything with one dimension or none)."""
    decayed: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for _, parameter in parameters:
        (decayed if parameter.ndim > 1 or settings.decay_all else rest).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": settings.weight_decay, "decayed": True},
        {"params": rest, "weight_decay": 0.0, "decayed": False},
    ]
    return [group for group in groups if group["params"]]


def build_optimizer(
    parameters: Iterable[tuple[str, nn.Parameter]], settings: OptimizerSettings
) -> torch.optim.Optimizer:
    """AdamW (Loshchilov & Hutter, arXiv 1711.05101), SGD with momentum, LARS or LAMB.

    LARS fits the step to the length of decayed tensors alone, LAMB too (none, without decay). All are fused: one
    pass over the weights, which a ``found_inf`` attribute (see `step_unless`) makes do nothing.
    """
    groups = parameter_groups(parameters, settings)
    if settings.name == "adamw":
        return torch.optim.AdamW(groups, lr=settings.lr, betas=settings.betas, fused=True)
    if settings.name == "lamb":
        return LAMB(groups, lr=settings.lr, betas=settings.betas)
    if settings.name == "lars":
        groups = [{**group, "adapt": group["decayed"]} for group in groups]
        return LARS(groups, lr=settings.lr, momentum=settings.momentum)
    return _sgd(groups, settings)


def _sgd(groups: list[dict[str, Any]], settings: OptimizerSettings) -> torch.optim.Optimizer:
    """torch's, with moments that begin at zero: left to itself it takes memory as it comes where the first step is
    not taken, and cannot go on where a tensor has no gradient at first."""
    optimizer = torch.optim.SGD(groups, lr=settings.lr, momentum=settings.momentum, fused=True)
    for weight in (weight for group in optimizer.param_groups for weight in group["params"] if settings.momentum):
        optimizer.state[weight]["momentum_buffer"] = torch.zeros_like(weight)
    return optimizer


def set_values(optimizer: torch.optim.Optimizer, values: StepValues) -> None:
    """Give every group the learning rate of this step, and the weight decay to those that are decayed."""
    for group in optimizer.param_groups:
        group["lr"] = values.lr if group["decayed"] else values.lr_1d
        group["weight_decay"] = values.weight_decay if group["decayed"] else 0.0


def step_unless(optimizer: torch.optim.Optimizer, bad: Tensor) -> None:
    """One step, or nothing at all (no decay, no moments, no step counted) where ``bad`` (0-d bool) is true.

    The device decides by itself; this is how torch's fused optimizers are told of fp16's overflows as well.
    """
    optimizer.found_inf = bad.to(torch.float32)  # type: ignore[attr-defined]
    optimizer.step()


def restore_optimizer(optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> None:
    """Load the moments; all options stay as they are, also where the saved ones were others.

    The steps counted go to the device, where fused optimizers look for them.
    """
    options = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
    optimizer.load_state_dict(saved)
    for group, fresh in zip(optimizer.param_groups, options, strict=True):
        group.update(fresh)
    for weight, state in optimizer.state.items():
        if torch.is_tensor(state.get("step")):
            state["step"] = state["step"].to(weight.device)


def clip_gradients(optimizer: torch.optim.Optimizer, settings: OptimizerSettings) -> Tensor:
    """Shorten gradients: all by one factor so that their global norm is at most ``clip_norm``, or every tensor's by
    itself to at most ``clip_each``, as the code of arXiv 2104.14294 does.

    Returns the global norm before (0-d): not finite when any gradient is not.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    if settings.clip_norm > 0:
        torch.nn.utils.clip_grads_with_norm_(parameters, settings.clip_norm, norm)
    if settings.clip_each > 0 and gradients:
        _clip_each(gradients, settings.clip_each)
    return norm


def _clip_each(gradients: list[Tensor], limit: float) -> None:
    norms = torch.stack(torch._foreach_norm(gradients))
    factors = (limit / (norms + _SAFE)).clamp(max=1.0)
    torch._foreach_mul_(gradients, list(factors.unbind()))

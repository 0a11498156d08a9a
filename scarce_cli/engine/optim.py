"""Optimizers over a method's parameters, with the groups that weight decay needs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from scarce_cli.config import OptimizerSettings


def parameter_groups(
    parameters: Iterable[tuple[str, nn.Parameter]], settings: OptimizerSettings
) -> list[dict[str, Any]]:
    """Two groups: decayed, and not decayed (biases, norm scales: everything with one dimension or none)."""
    decayed: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for _, parameter in parameters:
        (decayed if parameter.ndim > 1 or settings.decay_all else rest).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": settings.weight_decay},
        {"params": rest, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def build_optimizer(
    parameters: Iterable[tuple[str, nn.Parameter]], settings: OptimizerSettings
) -> torch.optim.Optimizer:
    """AdamW (Loshchilov & Hutter, arXiv 1711.05101) or SGD with momentum."""
    groups = parameter_groups(parameters, settings)
    if settings.name == "adamw":
        return torch.optim.AdamW(groups, lr=settings.lr, betas=settings.betas)
    return torch.optim.SGD(groups, lr=settings.lr, momentum=settings.momentum)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every group the learning rate of this step."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def clip_gradients(optimizer: torch.optim.Optimizer, max_norm: float) -> Tensor:
    """Scale all gradients so that their global norm is at most ``max_norm``; 0 leaves them alone.

    Returns the norm before scaling (0-d): not finite when any gradient is not.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    if max_norm > 0:
        torch.nn.utils.clip_grads_with_norm_(parameters, max_norm, norm)
    return norm

"""Optimizers for large batches, which fit the step of each tensor to the tensor's own length.

torch has neither. All arithmetic is over lists of tensors at once, the moments by torch's fused kernels, and nothing
waits for the device: as with torch's fused optimizers, ``found_inf`` (a 0-d float tensor on the device, set as an
attribute before `step`) that is not 0 means that nothing may move, whatever the gradients are. A gradient has the
memory layout of its weight, as autograd makes it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor
from torch.optim.adam import adam
from torch.optim.optimizer import Optimizer, ParamsT
from torch.optim.sgd import sgd


class _Layerwise(Optimizer):
    """One update of all tensors of a group at once."""

    found_inf: Tensor | None = None

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """One update of every tensor that has a gradient. ``closure`` is not supported."""
        assert closure is None
        for group in self.param_groups:
            weights, gradients = _with_gradient(group)
            if weights:
                self._update(weights, gradients, group)

    def _update(self, weights: list[Tensor], gradients: list[Tensor], group: dict[str, Any]) -> None:
        """Move ``weights`` in place."""
        raise NotImplementedError


class LARS(_Layerwise):
    """Layer-wise adaptive rates (You et al., 2017, arXiv 1708.03888), as in the code of arXiv 2103.03230 (main.py).

    For every tensor p with gradient g: d = g + weight_decay * p; in a group with ``adapt``,
    d *= eta * |p| / |d| (1 where either is 0); mu = momentum * mu + d; p -= lr * mu.
    A tensor without gradient is left as it is.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float,
        *,
        weight_decay: float = 0.0,
        momentum: float = 0.9,
        eta: float = 0.001,
        adapt: bool = True,
    ) -> None:
        defaults = {"lr": lr, "weight_decay": weight_decay, "momentum": momentum, "eta": eta, "adapt": adapt}
        super().__init__(params, defaults)

    def _update(self, weights: list[Tensor], gradients: list[Tensor], group: dict[str, Any]) -> None:
        if group["weight_decay"] != 0:
            gradients = list(torch._foreach_add(gradients, weights, alpha=group["weight_decay"]))
        if group["adapt"]:
            gradients = list(torch._foreach_mul(gradients, _trust(weights, gradients, group["eta"])))
        sgd(
            weights,
            gradients,
            [self._buffer(weight) for weight in weights],
            fused=True,
            found_inf=self.found_inf,
            weight_decay=0.0,  # added above, before the length is measured
            momentum=group["momentum"],
            lr=group["lr"],
            dampening=0.0,
            nesterov=False,
            maximize=False,
        )

    def _buffer(self, weight: Tensor) -> Tensor:
        state = self.state[weight]
        if not state:
            state["mu"] = torch.zeros_like(weight)
        return cast(Tensor, state["mu"])


class LAMB(_Layerwise):
    """Adam's update fitted to each tensor's length (You et al., 2020, arXiv 1904.00962), as the code of
    arXiv 2301.03580 uses timm's.

    m = beta1 * m + (1 - beta1) * g; v = beta2 * v + (1 - beta2) * g^2; both corrected for their start at 0;
    u = m / (sqrt(v) + eps) + weight_decay * p; in a group that is decayed, u *= |p| / |u| (1 where either
    is 0); p -= lr * u. A tensor without gradient is left as it is and counts no step. The gradient's global
    norm is clipped outside.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    def _update(self, weights: list[Tensor], gradients: list[Tensor], group: dict[str, Any]) -> None:
        states = [self._moments(weight) for weight in weights]
        # Adam with rate 1 moves zeros to minus its update, or leaves them where nothing may move.
        updates = [torch.zeros_like(weight) for weight in weights]
        beta1, beta2 = group["betas"]
        adam(
            updates,
            gradients,
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            fused=True,
            found_inf=self.found_inf,
            amsgrad=False,
            beta1=beta1,
            beta2=beta2,
            lr=1.0,
            weight_decay=0.0,
            eps=group["eps"],
            maximize=False,
        )
        if group["weight_decay"] != 0:
            torch._foreach_sub_(updates, weights, alpha=group["weight_decay"])
            torch._foreach_mul_(updates, _trust(weights, updates, 1.0))
            if self.found_inf is not None:
                torch._foreach_mul_(updates, 1.0 - self.found_inf)
        torch._foreach_add_(weights, updates, alpha=group["lr"])

    def _moments(self, weight: Tensor) -> dict[str, Any]:
        state = self.state[weight]
        if not state:
            state.update(step=0, exp_avg=torch.zeros_like(weight), exp_avg_sq=torch.zeros_like(weight))
        # Fused Adam counts on the device; older checkpoints have a plain number, and loading may leave it on the CPU.
        state["step"] = torch.as_tensor(state["step"], dtype=torch.float32, device=weight.device)
        return state


def _with_gradient(group: dict[str, Any]) -> tuple[list[Tensor], list[Tensor]]:
    weights = [weight for weight in group["params"] if weight.grad is not None]
    return weights, [weight.grad for weight in weights]


def _trust(weights: list[Tensor], updates: list[Tensor], scale: float) -> list[Tensor]:
    """``scale`` times each weight's length over its update's (0-d each); 1 where either is 0."""
    long = torch.stack(torch._foreach_norm(weights))
    wide = torch.stack(torch._foreach_norm(updates))
    ratio = torch.where((long > 0) & (wide > 0), scale * long / wide, 1.0)
    return list(ratio.unbind())

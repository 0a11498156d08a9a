"""A second network that follows the first one slowly: MoCo's key encoder, DINO's teacher."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import nn

M = TypeVar("M", bound=nn.Module)


def frozen_copy(module: M) -> M:
    """A copy with the same weights and buffers that shares no memory and asks for no gradient.

    It keeps the mode (training or evaluation) of ``module``.
    """
    copied = copy.deepcopy(module).requires_grad_(False)
    copied.zero_grad(set_to_none=True)
    return copied


@torch.no_grad()
def moving_average(slow: nn.Module, fast: nn.Module, momentum: float, *, buffers: bool = False) -> None:
    """Move every parameter of ``slow`` in place: slow = momentum * slow + (1 - momentum) * fast.

    The two have the same layout, as after `frozen_copy`. 1 leaves the parameters as they are, 0 copies them.

    Buffers are left alone, as in the official MoCo and DINO: in training mode the running statistics and
    counters of the slow network's BatchNorms follow the batches that went through the slow network. With
    ``buffers`` they become copies of the fast network's, running statistics and counters alike; copies, not
    averages, for they are averages over time already.

    Sources: He et al., arXiv 1911.05722, equation 2; facebookresearch/moco, moco/builder.py;
    facebookresearch/dino, main_dino.py.

    Raises:
        ValueError: the two have different numbers of parameters or buffers, or shapes that differ.
    """
    _check_layout(slow, fast)
    torch._foreach_lerp_(list(slow.parameters()), list(fast.parameters()), 1.0 - momentum)
    if buffers and (theirs := list(fast.buffers())):
        torch._foreach_copy_(list(slow.buffers()), theirs)


def _check_layout(slow: nn.Module, fast: nn.Module) -> None:
    for kind in ("parameters", "buffers"):
        mine, theirs = ([tensor.shape for tensor in getattr(module, kind)()] for module in (slow, fast))
        if mine != theirs:
            raise ValueError(f"the networks do not have the same {kind}")

"""A second network that follows the first one slowly: MoCo's key encoder, DINO's teacher."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)


def frozen_copy(module: M) -> M:
    """A copy with the same weights and buffers that shares no memory and asks for no gradient.

    It keeps the mode (training or evaluation) of ``module``.
    """
    copied = copy.deepcopy(module).requires_grad_(False)
    copied.zero_grad(set_to_none=True)
    return copied


@torch.no_grad()
def moving_average(
    slow: nn.Module, fast: nn.Module, momentum: float, *, taken: Tensor | None = None, buffers: bool = False
) -> None:
    """Move every parameter of ``slow`` in place: slow = momentum * slow + (1 - momentum) * fast.

    The two have the same layout, as after `frozen_copy`. 1 leaves the parameters as they are, 0 copies them.

    Buffers are left alone, as in the official MoCo and DINO: in training mode the running statistics and
    counters of the slow network's BatchNorms follow the batches that went through the slow network. With
    ``buffers`` they become copies of the fast network's, running statistics and counters alike; copies, not
    averages, for they are averages over time already.

    Where ``taken`` (0-d bool on the networks' device) is False nothing changes, and nothing is read on the host.
    The fast network's parameters must be finite then; its buffers need not be.

    Sources: He et al., arXiv 1911.05722, equation 2; facebookresearch/moco, moco/builder.py;
    facebookresearch/dino, main_dino.py.

    Raises:
        ValueError: the two have different numbers of parameters or buffers, or shapes that differ.
    """
    _check_layout(slow, fast)
    mine: list[Tensor] = list(slow.parameters())
    theirs: list[Tensor] = list(fast.parameters())
    if taken is None:
        torch._foreach_lerp_(mine, theirs, 1.0 - momentum)
    else:
        _lerp_where(taken, mine, theirs, 1.0 - momentum)
    if buffers:
        for dtype in {buffer.dtype for buffer in fast.buffers()}:
            _copy_where(taken, *([b for b in module.buffers() if b.dtype == dtype] for module in (slow, fast)))


def _lerp_where(taken: Tensor, slow: list[Tensor], fast: list[Tensor], weight: float) -> None:
    """By a weight of 0 where not taken. A foreach lerp has no weight on the device; these three calls have."""
    way = torch._foreach_sub(fast, slow)
    torch._foreach_mul_(way, taken.to(slow[0].dtype) * weight)
    torch._foreach_add_(slow, way)


def _copy_where(taken: Tensor | None, slow: list[Tensor], fast: list[Tensor]) -> None:
    """Tensors of one type, which are chosen side by side in one: one choice instead of one for each buffer."""
    if taken is not None:
        ours, theirs = (torch.cat([tensor.flatten() for tensor in each]) for each in (slow, fast))
        parts = torch.where(taken, theirs, ours).split([tensor.numel() for tensor in slow])
        fast = [part.view_as(old) for part, old in zip(parts, slow, strict=True)]
    torch._foreach_copy_(slow, fast)


def _check_layout(slow: nn.Module, fast: nn.Module) -> None:
    for kind in ("parameters", "buffers"):
        mine, theirs = ([tensor.shape for tensor in getattr(module, kind)()] for module in (slow, fast))
        if mine != theirs:
            raise ValueError(f"the networks do not have the same {kind}")

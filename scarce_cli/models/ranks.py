"""Several processes on one batch: what a loss, a norm or a metric needs of the others (torch.distributed).

Every function gives back what it is given, without a copy, where there is one process; so a method says once what
is over the whole batch. Film n = i * world + rank of the whole batch is row i of a rank.

Gradients are averaged over the ranks by DistributedDataParallel. So a loss that is a mean over a rank's own rows is
right as it is. One that is a function of all rows is computed by every rank, from what `whole_batch` or
`sum_over_ranks` gave: their backward passes add up what the losses of all ranks say, and the mean of that is the
gradient of one process with the whole batch.

Every rank must call the same functions in the same order, with tensors of the same shape.

Shape suffixes: N rows of this rank, M = N * world rows of the whole batch.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    """How many processes train together, each on a GPU of its own; 1 where no process group is."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """The number of this process, from 0."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def own_share(x_M: Tensor) -> Tensor:
    """This rank's rows (N, ...) of the whole batch's (M, ...); a view. M is a multiple of the world."""
    world = world_size()
    return x_M if world == 1 else x_M[rank() :: world]


def whole_batch(x_N: Tensor) -> Tensor:
    """All ranks' rows (N, ...) as (M, ...), in the order of the whole batch; with gradient."""
    if world_size() == 1:
        return x_N
    whole: Tensor = _WholeBatch.apply(x_N)
    return whole


def sum_over_ranks(x: Tensor) -> Tensor:
    """The sum of all ranks' ``x``, the same bits on every rank; with gradient."""
    if world_size() == 1:
        return x
    total: Tensor = _Sum.apply(x)
    return total


def mean_over_ranks(x: Tensor) -> Tensor:
    """The mean of all ranks' floating ``x``, the same bits on every rank; without gradient, for what is only kept."""
    world = world_size()
    return x if world == 1 else _all_reduced(x.detach()).div_(world)


class _WholeBatch(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_N: Tensor) -> Tensor:
        x_N = x_N.contiguous()
        gathered = x_N.new_empty((world_size(), *x_N.shape))
        dist.all_gather_into_tensor(gathered.flatten(0, 1), x_N)
        return gathered.transpose(0, 1).flatten(0, 1)

    @staticmethod
    def backward(ctx: Any, grad_M: Tensor) -> Tensor:
        return own_share(_all_reduced(grad_M))


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return _all_reduced(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return _all_reduced(grad)


def _all_reduced(x: Tensor) -> Tensor:
    total = x.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total)
    return total

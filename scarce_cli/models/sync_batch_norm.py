"""BatchNorm over the batch of all ranks (Ioffe & Szegedy, 2015, arXiv 1502.03167, over several GPUs).

torch's own refuses the CPU and, in every layer of every step, waits for the GPU to hear which ranks have an empty
batch. Here every rank has as many values as the others, so nobody has to ask, and one code serves both devices.

Shape suffixes: N films of this rank, C channels, S positions of a film (none for rows of features).
"""

from __future__ import annotations

from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from scarce_cli.models.precision import at_least_float32
from scarce_cli.models.ranks import sum_over_ranks, whole_batch, world_size

Layer = TypeVar("Layer", bound="_OverRanks")


class _OverRanks(_BatchNorm):
    """What the layers for rows and for maps share."""

    @classmethod
    def like(cls: type[Layer], norm: _BatchNorm) -> Layer:
        """The same layer over all ranks; parameters and buffers are taken over, not copied."""
        if norm.momentum is None or not norm.track_running_stats:
            raise ValueError("only a BatchNorm with running statistics and a momentum can be synchronised")
        made = cls(norm.num_features, eps=norm.eps, momentum=norm.momentum, affine=norm.affine)
        made.weight, made.bias = norm.weight, norm.bias
        made.running_mean, made.running_var = norm.running_mean, norm.running_var
        made.num_batches_tracked = norm.num_batches_tracked
        return made.train(norm.training)

    def forward(self, x_NCS: Tensor) -> Tensor:
        """(N, C) or (N, C, H, W), of the same N on all ranks, in the same dtype; statistics in float32 at least."""
        if not self.training or world_size() == 1:
            return super().forward(x_NCS)
        self._check_input_dim(x_NCS)
        y: Tensor
        y, mean_C, var_C = _Normalise.apply(x_NCS, self.weight, self.bias, self.eps)
        self._keep(mean_C, var_C, count=world_size() * x_NCS.numel() // len(mean_C))
        return y

    @torch.no_grad()
    def _keep(self, mean_C: Tensor, var_C: Tensor, count: int) -> None:
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        if not self.momentum:  # a stage is recomputed: the running statistics keep their bits
            return
        assert self.running_mean is not None
        assert self.running_var is not None
        self.running_mean.lerp_(mean_C.to(self.running_mean.dtype), self.momentum)
        self.running_var.lerp_((var_C * (count / (count - 1))).to(self.running_var.dtype), self.momentum)


class SyncBatchNorm1d(_OverRanks, nn.BatchNorm1d):
    """`torch.nn.BatchNorm1d` over the rows of all ranks: the same in evaluation and in one process, as are its names.

    Training: normalised with the mean and biased variance of the whole batch; running statistics take up that mean
    and the unbiased variance, and are the same bits on all ranks. The gradient is that of the whole batch.
    """


class SyncBatchNorm2d(_OverRanks, nn.BatchNorm2d):
    """`torch.nn.BatchNorm2d` over the positions of all ranks' films, as `SyncBatchNorm1d`; in either memory format."""


_LAYERS: dict[type[nn.Module], type[_OverRanks]] = {
    nn.BatchNorm1d: SyncBatchNorm1d,
    nn.BatchNorm2d: SyncBatchNorm2d,
}


def synchronise_batch_norms(module: nn.Module) -> None:
    """Put every plain BatchNorm1d and BatchNorm2d inside ``module`` over all ranks, in place.

    Other kinds stay as they are: one that normalises in groups of the batch does so on purpose.

    Raises:
        ValueError: a BatchNorm has no momentum or no running statistics.
    """
    for name, child in module.named_children():
        layer = _LAYERS.get(type(child))
        if layer is None:
            synchronise_batch_norms(child)
        else:
            assert isinstance(child, _BatchNorm)
            setattr(module, name, layer.like(child))


class _Normalise(torch.autograd.Function):
    """The normalised batch, and the whole batch's mean and biased variance, which carry no gradient.

    What is kept for the backward pass is the input alone, as in torch's.
    """

    @staticmethod
    def forward(
        ctx: Any, x_NCS: Tensor, weight_C: Tensor | None, bias_C: Tensor | None, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        var, mean = torch.var_mean(at_least_float32(x_NCS), _not_channels(x_NCS), correction=0)
        means_RC, vars_RC = whole_batch(torch.stack([mean, var]).unsqueeze(0)).unbind(1)
        # Each rank's variance is about its own mean: squares of sums would cost float32 its digits.
        mean_C, var_C = means_RC.mean(dim=0), vars_RC.mean(dim=0) + means_RC.var(dim=0, correction=0)
        ctx.save_for_backward(x_NCS, weight_C, mean_C, (var_C + eps).rsqrt())
        ctx.mark_non_differentiable(mean_C, var_C)
        return F.batch_norm(x_NCS, mean_C, var_C, weight_C, bias_C, eps=eps), mean_C, var_C

    @staticmethod
    def backward(
        ctx: Any, dy_NCS: Tensor, _mean: Tensor, _var: Tensor
    ) -> tuple[Tensor, Tensor | None, Tensor | None, None]:
        x_NCS, weight_C, mean_C, scale_C = ctx.saved_tensors
        dims, shape = _not_channels(x_NCS), (-1, *[1] * (x_NCS.ndim - 2))
        dy = at_least_float32(dy_NCS)
        unit = (at_least_float32(x_NCS) - mean_C.view(shape)) * scale_C.view(shape)
        own_2C = torch.stack([dy.sum(dims), (dy * unit).sum(dims)])
        about_2C = sum_over_ranks(own_2C) / (world_size() * x_NCS.numel() // x_NCS.shape[1])
        dx = dy - about_2C[0].view(shape) - unit * about_2C[1].view(shape)
        dx = dx * (scale_C if weight_C is None else scale_C * weight_C).view(shape)
        dbias, dweight = own_2C.unbind()
        return (
            dx.to(x_NCS.dtype),
            dweight if weight_C is not None else None,
            dbias if weight_C is not None else None,
            None,
        )


def _not_channels(x_NCS: Tensor) -> list[int]:
    return [0, *range(2, x_NCS.ndim)]

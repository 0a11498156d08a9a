"""BatchNorm in groups of a batch, as if every group were on a GPU of its own (SplitBatchNorm).

MoCo needs it on one GPU: with statistics shared by the whole batch a network can tell which key belongs to a
query from the statistics alone, without looking at the film (arXiv 1911.05722, section 3.3). Source:
facebookresearch/moco, branch colab-notebook, moco_cifar10_demo.ipynb.

Shape suffixes: N films, C channels, H and W pixels, S groups.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scarce_cli.models.ranks import world_size


class SplitBatchNorm2d(nn.BatchNorm2d):
    """Film n of a batch belongs to group n mod S and is normalised with that group's mean and biased variance.

    Training: every group's running statistics start from the common ones and take up the group's mean and
    unbiased variance; their average over the groups is the new common one. The counter of batches stays as it
    is, as official. Evaluation: plain BatchNorm with the common statistics. State names are those of
    `torch.nn.BatchNorm2d`, so that the weights of a network with this layer load into one without it.

    With momentum 0 the running statistics keep their bits. Works in either memory format and keeps it; in
    channels last at the price of one copy before and one after. Not ``interleaved``, a group's films lie one after
    another (see `together`): then there is one copy after, and one in the backward pass.
    """

    def __init__(
        self, channels: int, splits: int, *, eps: float = 1e-5, momentum: float = 0.1, interleaved: bool = True
    ) -> None:
        super().__init__(channels, eps=eps, momentum=momentum)
        self.splits = splits
        self.interleaved = interleaved

    @classmethod
    def like(cls, norm: nn.BatchNorm2d, splits: int, *, interleaved: bool = True) -> SplitBatchNorm2d:
        """The same layer in groups; parameters and buffers are taken over, not copied."""
        if norm.momentum is None or not (norm.affine and norm.track_running_stats):
            raise ValueError("only a BatchNorm with scale, shift, running statistics and a momentum can be split")
        made = cls(norm.num_features, splits, eps=norm.eps, momentum=norm.momentum, interleaved=interleaved)
        made.weight, made.bias = norm.weight, norm.bias
        made.running_mean, made.running_var = norm.running_mean, norm.running_var
        made.num_batches_tracked = norm.num_batches_tracked
        return made.train(norm.training)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """(N, C, H, W) in the same dtype.

        Raises:
            ValueError: in training, N is not a multiple of S, or a group holds one value for each channel.
        """
        if not self.training:
            return super().forward(x_NCHW)
        if len(x_NCHW) % self.splits:
            raise ValueError(f"a batch of {len(x_NCHW)} cannot be cut into {self.splits} equal groups")
        assert self.running_mean is not None
        assert self.running_var is not None
        means, variances = self.running_mean.repeat(self.splits), self.running_var.repeat(self.splits)
        normalise = self._interleaved if self.interleaved else self._one_by_one
        y = normalise(x_NCHW, means, variances)
        if self.momentum:
            self._average(means, variances)
        return y

    def _interleaved(self, x_NCHW: Tensor, means: Tensor, variances: Tensor) -> Tensor:
        """All groups at once, as channels of their own; their running statistics (S * C,) are moved in place."""
        y = F.batch_norm(
            _groups_to_channels(x_NCHW, self.splits),
            means,
            variances,
            self.weight.repeat(self.splits),
            self.bias.repeat(self.splits),
            training=True,
            momentum=self.momentum or 0.0,
            eps=self.eps,
        )
        return _channels_to_groups(y, self.splits)

    def _one_by_one(self, x_NCHW: Tensor, means: Tensor, variances: Tensor) -> Tensor:
        """Every group by itself, as it lies in memory."""
        groups = zip(x_NCHW.chunk(self.splits), means.chunk(self.splits), variances.chunk(self.splits), strict=True)
        return torch.cat(
            [
                F.batch_norm(group, mean, variance, self.weight, self.bias, True, self.momentum or 0.0, self.eps)
                for group, mean, variance in groups
            ]
        )

    @torch.no_grad()
    def _average(self, means: Tensor, variances: Tensor) -> None:
        """The groups' running statistics, (S * C,) each, become the common ones."""
        for common, groups in ((self.running_mean, means), (self.running_var, variances)):
            assert common is not None
            common.copy_(groups.view(self.splits, -1).mean(dim=0))

    def extra_repr(self) -> str:
        """What is printed of the layer."""
        return f"{super().extra_repr()}, splits={self.splits}"


def together(x_N: Tensor, splits: int) -> Tensor:
    """Rows (N, ...) put so that those of a group, n mod S, lie one after another. A copy, unless there is one group."""
    return x_N.unflatten(0, (-1, splits)).transpose(0, 1).flatten(0, 1)


def apart(x_N: Tensor, splits: int) -> Tensor:
    """The way back from `together`."""
    return x_N.unflatten(0, (splits, -1)).transpose(0, 1).flatten(0, 1)


def split_batch_norms(module: nn.Module, splits: int, *, interleaved: bool = True) -> int:
    """Put every plain BatchNorm2d inside ``module`` into groups, in place. 1: nothing is changed.

    Returns the groups of this rank, in which its films are to be put `together` where they are not ``interleaved``.

    ``splits`` are the groups of the whole batch. Row i of a rank is film n = i * world + rank, and
    n mod splits = (i mod (splits / world)) * world + rank: cut into splits / world groups, a rank has whole groups of
    the whole batch and nothing else, so that no rank needs another. Each averages the running statistics of its own.

    Raises:
        ValueError: the groups cannot be dealt out evenly to the ranks.
    """
    if splits == 1:
        return 1
    if splits % world_size():
        raise ValueError(f"{splits} groups cannot be dealt out evenly to {world_size()} ranks")
    own = splits // world_size()
    _split(module, own, interleaved=interleaved)
    return own


def _split(module: nn.Module, splits: int, *, interleaved: bool) -> None:
    for name, child in module.named_children():
        if type(child) is nn.BatchNorm2d:
            setattr(module, name, SplitBatchNorm2d.like(child, splits, interleaved=interleaved))
        else:
            _split(child, splits, interleaved=interleaved)


def _groups_to_channels(x_NCHW: Tensor, splits: int) -> Tensor:
    """(N / S, S * C, H, W): channel s * C + c holds channel c of group s. A view where the format allows it."""
    n, c, h, w = x_NCHW.shape
    if x_NCHW.is_contiguous():
        return x_NCHW.view(n // splits, splits * c, h, w)
    rows = x_NCHW.permute(0, 2, 3, 1).unflatten(0, (-1, splits))  # of N / S, S, H, W, C
    return rows.permute(0, 2, 3, 1, 4).flatten(3).permute(0, 3, 1, 2)  # channels last stays channels last


def _channels_to_groups(y: Tensor, splits: int) -> Tensor:
    """The way back, (N, C, H, W)."""
    if y.is_contiguous():
        return y.view(len(y) * splits, -1, *y.shape[2:])
    rows = y.permute(0, 2, 3, 1).unflatten(3, (splits, -1))  # of N / S, H, W, S, C
    return rows.permute(0, 3, 1, 2, 4).flatten(0, 1).permute(0, 3, 1, 2)

"""A ResNet that sees visible patches only (SparK: Tian et al., 2023, arXiv 2301.03580, section 3.1).

The official code runs every convolution over the whole map and multiplies by the mask afterwards. Here masked
positions are not computed at all: a map is kept as the stack of its visible patches. BatchNorm, ReLU and sums
then see visible positions by construction. What a convolution or pooling needs around a patch is copied from
the visible patches beside it, and is zero where these are masked or the film ends, as in the official maps.

Shape suffixes: B films, F patches along a film's side, N visible patches of the batch, C channels, P positions
along a patch's side (32 in the image, 8, 4, 2 and 1 after the stages), H and W positions of a whole map.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from scarce_cli.models.ranks import own_share, world_size
from scarce_cli.models.resnet import Encoder

STRIDE = 32  # of the network: the least side of a patch, px
_SIDES = [(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1) if (y, x) != (0, 0)]  # the opposite of i is 7 - i
_FEW = 2  # outputs along a patch's side up to which a product of matrices is faster than a convolution

Part = tuple[slice, slice, slice, slice]  # of (N, C, P, P)


class VisiblePatches:
    """Which patches of a batch are visible, and which of them lie side by side."""

    def __init__(self, visible_B1FF: Tensor, per_film: int | None = None) -> None:
        """``visible_B1FF``: bool. ``per_film``: their number, if it is the same in every film and known.

        Without ``per_film`` they are counted, for which a GPU must be waited for.
        """
        self.films, _, self.side, _ = visible_B1FF.shape
        count = int(visible_B1FF.sum()) if per_film is None else self.films * per_film
        # Sorted, since the result of nonzero() has a size that the host must wait for.
        self.places_N = visible_B1FF.flatten().byte().argsort(descending=True, stable=True)[:count]
        beside_8N = self._beside()
        self.absent_8N = beside_8N < 0
        self.beside_8N = beside_8N.clamp(min=0)

    def _beside(self) -> Tensor:
        """For each of the eight sides the number of the visible patch there, or -1."""
        places, f = self.places_N, self.side
        numbers = places.new_full((self.films * f * f,), -1)
        numbers[places] = torch.arange(len(places), device=places.device)
        edged = F.pad(numbers.view(self.films, f, f), (1, 1, 1, 1), value=-1)
        shifted = [edged[:, 1 + y : 1 + y + f, 1 + x : 1 + x + f].flatten() for y, x in _SIDES]
        return torch.stack(shifted)[:, places]

    def pack(self, map_BCHW: Tensor) -> Tensor:
        """The visible patches of a map, (N, C, P, P): film by film, in reading order."""
        b, c, h, _ = map_BCHW.shape
        f, p = self.side, h // self.side
        patches = map_BCHW.reshape(b, c, f, p, f, p).permute(0, 2, 4, 3, 5, 1).reshape(b * f * f, p, p, c)
        return patches.index_select(0, self.places_N).permute(0, 3, 1, 2)

    def unpack(self, x_NCPP: Tensor, fill_C: Tensor | None = None) -> Tensor:
        """The whole map (B, C, H, W), with ``fill_C`` (default: zero) at masked positions."""
        _, c, p, _ = x_NCPP.shape
        b, f = self.films, self.side
        fill = x_NCPP.new_zeros(c) if fill_C is None else fill_C.to(x_NCPP.dtype)
        patches = fill.expand(b * f * f, p, p, c).index_copy(0, self.places_N, x_NCPP.permute(0, 2, 3, 1))
        rows = patches.view(b, f, f, p, p, c).transpose(2, 3)
        return rows.reshape(b, f * p, f * p, c).permute(0, 3, 1, 2)

    def widen(self, x_NCPP: Tensor, before: int, after: int) -> Tensor:
        """Patches with ``before`` positions added above and at the left, ``after`` below and at the right."""
        if before <= 0 and after <= 0:
            return x_NCPP
        widened: Tensor = _Widen.apply(x_NCPP, self, before, max(after, 0))
        return widened


class _Widen(torch.autograd.Function):
    """`VisiblePatches.widen`. Both directions gather: adding up in the backward pass would be slow, and on a GPU
    not repeatable. What patch i takes from its neighbour at one side, that neighbour gave at the opposite one.
    """

    @staticmethod
    def forward(ctx: Any, x_NCPP: Tensor, visible: VisiblePatches, before: int, after: int) -> Tensor:
        n, c, p, _ = x_NCPP.shape
        ctx.visible, ctx.before, ctx.after, side = visible, before, after, p + before + after
        out = x_NCPP.new_empty((n, side, side, c)).permute(0, 3, 1, 2)
        out[:, :, before : before + p, before : before + p] = x_NCPP
        for index, given, taken in _strips(p, before, after):
            out[taken] = _gather(x_NCPP[given], visible, index)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        before, p = ctx.before, grad.shape[-1] - ctx.before - ctx.after
        out = grad[:, :, before : before + p, before : before + p].clone(memory_format=torch.channels_last)
        for index, given, taken in _strips(p, before, ctx.after):
            out[given] += _gather(grad[taken], ctx.visible, 7 - index)
        return out, None, None, None


def _strips(p: int, before: int, after: int) -> list[tuple[int, Part, Part]]:
    """For each side that is widened: its number, the part the neighbour there gives, and where that comes to lie."""
    given = {-1: slice(p - before, p), 0: slice(0, p), 1: slice(0, after)}
    taken = {-1: slice(0, before), 0: slice(before, before + p), 1: slice(before + p, before + p + after)}
    whole, used = slice(None), {0, *([-1] if before else []), *([1] if after else [])}
    return [
        (index, (whole, whole, given[y], given[x]), (whole, whole, taken[y], taken[x]))
        for index, (y, x) in enumerate(_SIDES)
        if {y, x} <= used
    ]


def _gather(strips_NCHW: Tensor, visible: VisiblePatches, index: int) -> Tensor:
    """The strip of each patch's neighbour at a side; zero where there is none."""
    found = strips_NCHW.index_select(0, visible.beside_8N[index])
    return found.masked_fill_(visible.absent_8N[index].view(-1, 1, 1, 1), 0)


def sparse_stages(encoder: Encoder, image_BCHW: Tensor, visible: VisiblePatches) -> list[Tensor]:
    """Outputs of the four stages as `Encoder.stages`, exactly zero at masked positions.

    In training mode BatchNorm takes its statistics from visible positions of the whole batch (biased to
    normalise, unbiased for the running ones); in evaluation mode it uses the running ones there.
    Official: keyu-tian/SparK, pretrain/encoder.py.

    Raises:
        ValueError: in training mode, when the last stage has one visible position in all (torch's BatchNorm).
    """
    return [visible.unpack(x) for x in packed_stages(encoder, image_BCHW, visible)]


def draw_branches(encoder: Encoder, visible: VisiblePatches, drop_path: float, generator: torch.Generator) -> Tensor:
    """What each residual branch's output is multiplied by, for every visible patch: (blocks, N), float32.

    Stochastic depth (Huang et al., 2016, arXiv 1603.09382): the probability p of dropping a branch rises linearly
    from 0 at the first block to ``drop_path`` at the last. 0 for a whole film with probability p, else 1 / (1 - p).
    Drawn for the films of all ranks, of which these are one rank's.
    """
    blocks = sum(len(stage) for stage in (encoder.layer1, encoder.layer2, encoder.layer3, encoder.layer4))
    device = visible.places_N.device
    rates = torch.linspace(0, drop_path, blocks, device=device).unsqueeze(1)
    noise = own_share(torch.rand(blocks, visible.films * world_size(), generator=generator, device=device).T).T
    films_N = visible.places_N // visible.side**2
    return ((noise >= rates) / (1 - rates))[:, films_N]


def packed_stages(
    encoder: Encoder, image_BCHW: Tensor, visible: VisiblePatches, branches: Tensor | None = None
) -> list[Tensor]:
    """`sparse_stages`, each as its visible patches (N, C, P, P). ``branches``: of `draw_branches`; None: all kept."""
    assert image_BCHW.shape[-1] % (visible.side * STRIDE) == 0, "a patch is a multiple of the network's stride"
    x = visible.pack(image_BCHW)
    x = encoder.part(_stem)(encoder, x, visible)
    stages, first = [], 0
    for stage in (encoder.layer1, encoder.layer2, encoder.layer3, encoder.layer4):
        kept = [None] * len(stage) if branches is None else list(branches[first : first + len(stage)])
        x = encoder.run_stage(stage, x, _stage, visible, kept)
        stages.append(x)
        first += len(stage)
    return stages


def _stem(encoder: Encoder, x_NCPP: Tensor, visible: VisiblePatches) -> Tensor:
    x_NCPP = encoder.relu(encoder.bn1(_convolve(encoder.conv1, x_NCPP, visible)))
    # What is pooled is not negative: zero around it is as good as torchvision's minus infinity.
    return F.max_pool2d(visible.widen(x_NCPP, before=1, after=0), kernel_size=3, stride=2)


def _stage(stage: nn.Sequential, x_NCPP: Tensor, visible: VisiblePatches, kept: Sequence[Tensor | None]) -> Tensor:
    for block, kept_N in zip(stage, kept, strict=True):
        x_NCPP = _block(block, x_NCPP, visible, kept_N)
    return x_NCPP


def _block(
    block: BasicBlock | Bottleneck, x_NCPP: Tensor, visible: VisiblePatches, kept_N: Tensor | None = None
) -> Tensor:
    """A residual block of torchvision's, run over its own modules."""
    out = block.relu(block.bn1(_convolve(block.conv1, x_NCPP, visible)))
    out = block.bn2(_convolve(block.conv2, out, visible))
    if hasattr(block, "conv3"):
        out = block.bn3(_convolve(block.conv3, block.relu(out), visible))
    if block.downsample is not None:
        conv, norm = block.downsample
        x_NCPP = norm(_convolve(conv, x_NCPP, visible))
    if kept_N is not None:
        out = out * kept_N.to(out.dtype).view(-1, 1, 1, 1)
    summed: Tensor = block.relu(out + x_NCPP)
    return summed


def _convolve(conv: nn.Conv2d, x_NCPP: Tensor, visible: VisiblePatches) -> Tensor:
    """The convolution's outputs at visible positions."""
    kernel, stride, padding = conv.kernel_size[0], conv.stride[0], int(conv.padding[0])
    x_NCPP = visible.widen(x_NCPP, before=padding, after=kernel - stride - padding)
    if kernel > 1 and (x_NCPP.shape[-1] - kernel) // stride + 1 > _FEW:
        return F.conv2d(x_NCPP, conv.weight, conv.bias, conv.stride)
    windows = _windows(x_NCPP.permute(0, 2, 3, 1), kernel, stride)
    return F.linear(windows, conv.weight.permute(0, 2, 3, 1).flatten(1), conv.bias).permute(0, 3, 1, 2)


def _windows(x_NPPC: Tensor, kernel: int, stride: int) -> Tensor:
    """What each output of a convolution without padding sees, (N, P', P', kernel * kernel * C)."""
    if kernel == 1:
        return x_NPPC[:, ::stride, ::stride]
    starts = range(0, x_NPPC.shape[1] - kernel + 1, stride)
    seen = [x_NPPC[:, y : y + kernel, x : x + kernel].flatten(1) for y in starts for x in starts]
    return torch.stack(seen, dim=1).unflatten(1, (len(starts), len(starts)))

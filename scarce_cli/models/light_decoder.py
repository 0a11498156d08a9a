"""From the visible patches of a sparse encoder to a picture (SparK: Tian et al., 2023, arXiv 2301.03580, section 3.2).

`Densify` fills the masked positions of every stage's map with a learned token; `LightDecoder` adds these maps up
from coarse to fine, doubling the side each time. Official: keyu-tian/SparK, pretrain/spark.py and decoder.py.

Shape suffixes: as in `scarce_cli.models.sparse`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scarce_cli.models.sparse import VisiblePatches

Norm = Literal["none", "bn", "ln"]

_DOUBLINGS = 5  # from the network's stride to the image
WIDTH_STEP = 2**_DOUBLINGS  # the decoder's width halves as often, so it is a multiple of this
_STD = 0.02  # of mask tokens (cut off there) and of the decoder's convolutions at the start


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of each position, as in ConvNeXt."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=1e-6)

    def forward(self, x_NCPP: Tensor) -> Tensor:
        """The same shape; each position by itself."""
        out = F.layer_norm(x_NCPP.permute(0, 2, 3, 1), self.normalized_shape, self.weight, self.bias, self.eps)
        return out.permute(0, 3, 1, 2)


_NORMS: dict[Norm, Callable[[int], nn.Module]] = {"none": nn.Identity, "bn": nn.BatchNorm2d, "ln": ChannelNorm}


class Densify(nn.Module):
    """Whole maps for the decoder, coarsest first.

    For each stage: the norm of its visible positions, its mask token at the others, then a convolution to the
    decoder's width: 1x1 for the coarsest map (none at all if it has that width), 3x3 for the others.
    """

    def __init__(self, widths: Sequence[int], decoder_width: int, norm: Norm = "bn") -> None:
        """``widths``: channels of the stages, finest first. ``decoder_width``: of the coarsest; halves from there."""
        super().__init__()
        self.norms, self.projections = nn.ModuleList(), nn.ModuleList()
        self.tokens = nn.ParameterList()  # of one dimension, like biases, and like them without weight decay
        for level, channels in enumerate(reversed(widths)):
            width, kernel = decoder_width >> level, 1 if level == 0 else 3
            same = level == 0 and channels == width
            conv = nn.Identity() if same else nn.Conv2d(channels, width, kernel, padding=kernel // 2)
            self.norms.append(_NORMS[norm](channels))
            self.tokens.append(nn.init.trunc_normal_(nn.Parameter(torch.empty(channels)), 0.0, _STD, -_STD, _STD))
            self.projections.append(conv)

    def forward(self, stages: Sequence[Tensor], visible: VisiblePatches) -> list[Tensor]:
        """``stages``: visible patches (N, C, P, P), finest first. Returns maps (B, C, H, W), coarsest first."""
        levels = zip(reversed(stages), self.norms, self.tokens, self.projections, strict=True)
        return [projection(visible.unpack(norm(x), token)) for x, norm, token, projection in levels]


class _Up(nn.Module):
    """Twice the side and half the channels. No activation at the end, as official."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(channels, channels, kernel_size=4, stride=2, padding=1)
        self.block = nn.Sequential(
            nn.Conv2d(channels, channels, kernel_size=3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU6(inplace=True),
            nn.Conv2d(channels, channels // 2, kernel_size=3, padding=1, bias=False),
            nn.BatchNorm2d(channels // 2),
        )

    def forward(self, x_BCHW: Tensor) -> Tensor:
        out: Tensor = self.block(self.up(x_BCHW))
        return out


class LightDecoder(nn.Module):
    """From four maps (strides 32 to 4) to a picture at full size; ordinary, dense BatchNorm."""

    def __init__(self, width: int, channels: int = 1) -> None:
        """``width``: channels of the coarsest map, a multiple of `WIDTH_STEP`. ``channels``: of the picture."""
        super().__init__()
        self.levels = nn.ModuleList(_Up(width >> level) for level in range(_DOUBLINGS))
        self.out = nn.Conv2d(width >> _DOUBLINGS, channels, kernel_size=1)
        self.apply(_initialise)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """``maps``: (B, C, H, W), coarsest first, channels and strides halving. Returns (B, C, H, W).

        A map is added to what enters its level.
        """
        x = maps[0]
        for number, level in enumerate(self.levels):
            x = level(x if number == 0 or number >= len(maps) else x + maps[number])
        out: Tensor = self.out(x)
        return out


def _initialise(module: nn.Module) -> None:
    """As official: small normal weights, Kaiming's for the transposed convolutions, no bias."""
    if isinstance(module, nn.Conv2d):
        nn.init.normal_(module.weight, std=_STD)
    elif isinstance(module, nn.ConvTranspose2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d) and module.bias is not None:
        nn.init.zeros_(module.bias)

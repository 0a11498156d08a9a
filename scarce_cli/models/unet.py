"""The decoder of part 4 of the series: a light U-Net of constant width over the four stages of a ResNet."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class _Up(nn.Module):
    """Twice the side by a 2x2 transposed convolution, then (with the skip concatenated) one 3x3 block."""

    def __init__(self, in_channels: int, skip_channels: int, out_channels: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(in_channels, out_channels, kernel_size=2, stride=2)
        self.block = nn.Sequential(
            nn.Conv2d(out_channels + skip_channels, out_channels, kernel_size=3, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.GELU(),
        )

    def forward(self, x_BCHW: Tensor, skip_BCHW: Tensor | None) -> Tensor:
        x_BCHW = self.up(x_BCHW)
        if skip_BCHW is not None:
            x_BCHW = torch.cat([x_BCHW, skip_BCHW], dim=1)
        out: Tensor = self.block(x_BCHW)
        return out


class UNetDecoder(nn.Module):
    """From the four stages (strides 4 to 32) back to one grey channel at full size."""

    def __init__(self, widths: list[int], decoder_width: int) -> None:
        """``widths``: channels of the stages, finest first. ``decoder_width``: channels of every level."""
        super().__init__()
        w1, w2, w3, w4 = widths
        self.from_32 = _Up(w4, w3, decoder_width)
        self.from_16 = _Up(decoder_width, w2, decoder_width)
        self.from_8 = _Up(decoder_width, w1, decoder_width)
        self.from_4 = _Up(decoder_width, 0, decoder_width // 2)
        self.from_2 = _Up(decoder_width // 2, 0, decoder_width // 4)
        self.out = nn.Conv2d(decoder_width // 4, 1, kernel_size=1)

    def forward(self, maps: list[Tensor]) -> Tensor:
        """``maps``: outputs of the stages, finest first. Returns (B, 1, H, W) in the loss's own units."""
        f4, f8, f16, f32 = maps
        x = self.from_8(self.from_16(self.from_32(f32, f16), f8), f4)
        out: Tensor = self.out(self.from_2(self.from_4(x, None), None))
        return out

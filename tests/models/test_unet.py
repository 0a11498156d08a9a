"""The decoder: sizes for both backbones, every stage used, nothing shared between films."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from scarce_cli.models.unet import UNetDecoder

WIDTHS = {"resnet18": [64, 128, 256, 512], "resnet50": [256, 512, 1024, 2048]}


def maps(widths: list[int], side: int, batch: int = 2) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(batch, width, side // stride, side // stride, generator=generator)
        for width, stride in zip(widths, (4, 8, 16, 32), strict=True)
    ]


@pytest.mark.parametrize("backbone", WIDTHS)
@pytest.mark.parametrize("side", [32, 96, 224])
def test_one_grey_channel_at_full_size(backbone: str, side: int) -> None:
    decoder = UNetDecoder(WIDTHS[backbone], 16).eval()
    with torch.no_grad():
        assert decoder(maps(WIDTHS[backbone], side, 1)).shape == (1, 1, side, side)


def test_the_width_is_constant_to_stride_four_then_halves() -> None:
    decoder = UNetDecoder(WIDTHS["resnet18"], 32)
    levels = (decoder.from_32, decoder.from_16, decoder.from_8, decoder.from_4, decoder.from_2)
    assert [level.up.out_channels for level in levels] == [32, 32, 32, 16, 8]


@pytest.mark.parametrize("stage", range(4))
def test_every_stage_reaches_the_picture_and_gets_a_gradient(stage: int) -> None:
    decoder = UNetDecoder(WIDTHS["resnet18"], 16).eval()
    inputs = [m.requires_grad_() for m in maps(WIDTHS["resnet18"], 32)]
    decoder(inputs).square().sum().backward()
    gradient = inputs[stage].grad
    assert gradient is not None
    assert gradient.abs().sum() > 0


def test_films_do_not_mix_in_evaluation() -> None:
    decoder = UNetDecoder(WIDTHS["resnet18"], 16).eval()
    both = maps(WIDTHS["resnet18"], 32)
    with torch.no_grad():
        torch.testing.assert_close(decoder([m[1:] for m in both]), decoder(both)[1:], rtol=1e-4, atol=1e-5)

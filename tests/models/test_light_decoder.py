"""Mask tokens, projections and the light decoder (the official numbers are in test_reference.py)."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scarce_cli.config import OptimizerSettings
from scarce_cli.engine.optim import build_optimizer
from scarce_cli.models.light_decoder import ChannelNorm, Densify, LightDecoder, Norm
from scarce_cli.models.sparse import VisiblePatches

WIDTHS = [4, 6, 8, 10]  # of the stages, finest first


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def visible_patches(seed: int = 0) -> tuple[Tensor, VisiblePatches]:
    mask = torch.rand(2, 1, 3, 3, generator=torch.Generator().manual_seed(seed)) < 0.5
    return mask, VisiblePatches(mask)


def stages(visible: VisiblePatches, widths: list[int]) -> list[Tensor]:
    return [random(len(visible.places_N), c, p, p, seed=c) for c, p in zip(widths, (8, 4, 2, 1), strict=True)]


def densify(norm: Norm = "bn", width: int = 32) -> Densify:
    """With tokens that stand out."""
    torch.manual_seed(0)
    module = Densify(WIDTHS, width, norm).double()
    for number, token in enumerate(module.tokens):
        token.data = 5 + random(len(token), seed=100 + number)
    return module


def normed_by_hand(x_NCPP: Tensor, norm: Norm) -> Tensor:
    """With the weights of the start."""
    if norm == "none":
        return x_NCPP
    over, eps = ((0, 2, 3), 1e-5) if norm == "bn" else ((1,), 1e-6)
    mean = x_NCPP.mean(dim=over, keepdim=True)
    return (x_NCPP - mean) / (x_NCPP.var(dim=over, keepdim=True, unbiased=False) + eps).sqrt()


@pytest.mark.parametrize("norm", ["none", "bn", "ln"])
def test_tokens_stand_at_masked_positions_before_the_projection(norm: Norm) -> None:
    """Place by place: norm of the visible ones, token of the level at the others, then the convolution."""
    module, (mask, visible) = densify(norm), visible_patches()
    given = stages(visible, WIDTHS)
    for level, found in enumerate(module(given, visible)):
        channels, patch = WIDTHS[3 - level], 2**level
        whole = module.tokens[level].view(1, -1, 1, 1).repeat(2, 1, 3 * patch, 3 * patch).detach()
        packed = normed_by_hand(given[3 - level], norm)
        for row, (b, _, y, x) in enumerate(mask.nonzero().tolist()):
            whole[b, :, y * patch : (y + 1) * patch, x * patch : (x + 1) * patch] = packed[row]
        conv = module.projections[level]
        assert conv.weight.shape == (32 >> level, channels, *((1, 1) if level == 0 else (3, 3)))
        wanted = F.conv2d(whole, conv.weight, conv.bias, padding=0 if level == 0 else 1)
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-12)


def test_the_coarsest_map_of_the_decoder_s_width_is_not_projected() -> None:
    _, visible = visible_patches()
    module = densify("none", width=10)
    given = stages(visible, WIDTHS)
    assert torch.equal(module(given, visible)[0], visible.unpack(given[3], module.tokens[0]))
    assert [isinstance(m, nn.Identity) for m in module.projections] == [True, False, False, False]


def test_tokens_learn_from_masked_positions_only() -> None:
    mask, visible = visible_patches()
    module = densify("none", width=10)
    torch.stack([m.sum() for m in module(stages(visible, WIDTHS), visible)]).sum().backward()
    for token in module.tokens:
        assert token.grad is not None
        assert token.grad.ne(0).all()
    assert torch.equal(module.tokens[0].grad, torch.full((10,), float((~mask).sum())).double())  # type: ignore[arg-type]
    everything = VisiblePatches(torch.ones_like(mask))
    module.zero_grad()
    torch.stack([m.sum() for m in module(stages(everything, WIDTHS), everything)]).sum().backward()
    assert all(token.grad is None or token.grad.eq(0).all() for token in module.tokens)


def test_tokens_start_small() -> None:
    torch.manual_seed(0)
    for token in Densify([256, 512, 1024, 2048], 64).tokens:
        assert token.abs().max() <= 0.02
        assert 0.009 < float(token.detach().std()) < 0.013  # a normal of 0.02 cut off at one deviation: 0.0108


def test_tokens_get_no_weight_decay() -> None:
    """With gradients of nought an optimizer's step is the decay alone."""
    module = densify()
    before = [p.detach().clone() for p in module.parameters()]
    settings = OptimizerSettings(name="adamw", lr=0.1, weight_decay=0.5)
    optimizer = build_optimizer(module.named_parameters(), settings)
    for parameter in module.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for (name, parameter), old in zip(module.named_parameters(), before, strict=True):
        shrinks = name.startswith("projections") and name.endswith("weight")
        torch.testing.assert_close(parameter.detach(), 0.95 * old if shrinks else old, msg=name)


def test_layer_norm_sees_one_position_at_a_time() -> None:
    norm = ChannelNorm(6).double()
    norm.weight.data, norm.bias.data = random(6), random(6, seed=1)
    x = random(3, 6, 4, 4, seed=2)
    at_one_place = nn.LayerNorm(6, eps=1e-6).double()
    at_one_place.load_state_dict(norm.state_dict())
    torch.testing.assert_close(norm(x)[1, :, 2, 3], at_one_place(x[1, :, 2, 3]))


def maps(width: int, side: int, batch: int = 2) -> list[Tensor]:
    return [random(batch, width >> n, side << n, side << n, seed=n) for n in range(4)]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("width", "side"), [(32, 1), (64, 2), (96, 3)])
def test_a_picture_of_thirty_two_times_the_side(width: int, side: int, channels: int) -> None:
    decoder = LightDecoder(width, channels).double()
    assert decoder(maps(width, side)).shape == (2, channels, 32 * side, 32 * side)


def test_widths_halve_from_the_coarsest_map_on() -> None:
    """As official for width 768: 768, 384, 192, 96, 48, 24."""
    with torch.device("meta"):
        decoder, module = LightDecoder(768), Densify([256, 512, 1024, 2048], 768)
    blocks = [(level.block[0].in_channels, level.block[3].out_channels) for level in decoder.levels]
    assert blocks == [(768, 384), (384, 192), (192, 96), (96, 48), (48, 24)]
    assert [conv.out_channels for conv in module.projections] == [768, 384, 192, 96]
    assert [len(token) for token in module.tokens] == [2048, 1024, 512, 256]


def test_maps_are_added_to_what_enters_their_level() -> None:
    """The blocks one by one, with plain functions and the statistics of the batch."""
    decoder, given = LightDecoder(32).double(), maps(32, 2)
    for number, norm in enumerate(m for m in decoder.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.weight.data, norm.bias.data = 3 + random(norm.num_features, seed=number), random(norm.num_features)
    x = torch.zeros_like(given[0])
    for number, level in enumerate(decoder.levels):
        if number < 4:
            x = x + given[number]
        x = F.conv_transpose2d(x, level.up.weight, level.up.bias, stride=2, padding=1)
        for conv, norm in ((level.block[0], level.block[1]), (level.block[3], level.block[4])):
            assert conv.bias is None
            x = F.conv2d(x, conv.weight, padding=1)
            x = normed_by_hand(x, "bn") * norm.weight.view(1, -1, 1, 1) + norm.bias.view(1, -1, 1, 1)
            if norm is level.block[1]:
                assert float(x.detach().max()) > 6
                x = x.clamp(0, 6)
    wanted = F.conv2d(x, decoder.out.weight, decoder.out.bias)
    torch.testing.assert_close(decoder(given), wanted, rtol=1e-9, atol=1e-9)


def test_films_do_not_mix_in_evaluation() -> None:
    decoder, both = LightDecoder(32).double().eval(), maps(32, 1)
    with torch.no_grad():
        torch.testing.assert_close(decoder([m[1:] for m in both]), decoder(both)[1:])


def test_it_starts_as_the_official_one() -> None:
    torch.manual_seed(0)
    decoder = LightDecoder(256)
    first = decoder.levels[0]
    assert float(first.block[0].weight.detach().std()) == pytest.approx(0.02, rel=0.02)
    assert float(first.up.weight.detach().std()) == pytest.approx((2 / (256 * 16)) ** 0.5, rel=0.02)
    assert not first.up.bias.any()
    assert not decoder.out.bias.any()

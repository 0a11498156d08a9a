"""The sparse encoder against whole maps multiplied by the mask, which is how the paper states it."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scarce_cli.models.resnet import Backbone, Encoder, build_encoder
from scarce_cli.models.sparse import VisiblePatches, packed_stages, sparse_stages

BOTH: tuple[Backbone, ...] = ("resnet18", "resnet50")


def images(batch: int = 3, size: int = 96, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(batch, 1, size, size, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def mask(batch: int = 3, side: int = 3, seed: int = 0, share: float = 0.5) -> Tensor:
    """Uneven counts; at least two visible patches in all."""
    visible = torch.rand(batch, 1, side, side, generator=torch.Generator().manual_seed(seed)) < share
    visible[0, 0, 0] = True
    return visible


def make(backbone: Backbone = "resnet18", dtype: torch.dtype = torch.float64, **options: bool) -> Encoder:
    """An encoder whose norms are not the identity."""
    encoder = build_encoder(backbone, seed=1, **options)
    random = torch.Generator().manual_seed(2)
    for norm in (m for m in encoder.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.weight.data.uniform_(0.5, 1.5, generator=random)
        norm.bias.data.normal_(0, 0.2, generator=random)
        norm.running_mean.normal_(0, 0.2, generator=random)
        norm.running_var.uniform_(0.5, 1.5, generator=random)
    return encoder.to(dtype)


def spread(visible: Tensor, side: int) -> Tensor:
    """The mask at a map's resolution, (B, 1, H, W) of noughts and ones."""
    return F.interpolate(visible.double(), size=(side, side), mode="nearest")


def masked_norm(norm: nn.BatchNorm2d, x: Tensor, visible: Tensor) -> Tensor:
    """By sums over the map: mean and biased variance of visible positions, their unbiased one to remember."""
    where = spread(visible, x.shape[-1])
    if norm.training:
        count = where.sum()
        mean = (x * where).sum(dim=(0, 2, 3)) / count
        var = ((x - mean.view(1, -1, 1, 1)).square() * where).sum(dim=(0, 2, 3)) / count
        norm.running_mean.lerp_(mean.detach(), 0.1)
        norm.running_var.lerp_(var.detach() * count / (count - 1), 0.1)
        norm.num_batches_tracked += 1
    else:
        mean, var = norm.running_mean, norm.running_var
    scale = norm.weight / (var + norm.eps).sqrt()
    return ((x - mean.view(1, -1, 1, 1)) * scale.view(1, -1, 1, 1) + norm.bias.view(1, -1, 1, 1)) * where


def masked_stages(encoder: Encoder, image: Tensor, visible: Tensor) -> list[Tensor]:
    """Whole maps, each convolution and pooling followed by the mask."""

    def then_mask(layer: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        out = layer(x)
        return out * spread(visible, out.shape[-1])

    def normed(conv: nn.Conv2d, norm: nn.BatchNorm2d, x: Tensor) -> Tensor:
        return masked_norm(norm, then_mask(conv, x), visible)

    def residual(block: nn.Module, x: Tensor) -> Tensor:
        out = normed(block.conv2, block.bn2, normed(block.conv1, block.bn1, x).relu())
        if encoder.backbone == "resnet50":
            out = normed(block.conv3, block.bn3, out.relu())
        return (out + (x if block.downsample is None else normed(*block.downsample, x))).relu()

    image = image * spread(visible, image.shape[-1])
    x, maps = then_mask(encoder.maxpool, normed(encoder.conv1, encoder.bn1, image).relu()), []
    for stage in (encoder.layer1, encoder.layer2, encoder.layer3, encoder.layer4):
        for block in stage:
            x = residual(block, x)
        maps.append(x)
    return maps


def loss_of(maps: list[Tensor]) -> Tensor:
    """Weighs every position by a number of its own."""
    weights = [torch.randn(m.shape, generator=torch.Generator().manual_seed(n)) for n, m in enumerate(maps)]
    return torch.stack([(m * w.to(m.dtype)).mean() for m, w in zip(maps, weights, strict=True)]).sum()


def assert_same(one: Encoder, other: Encoder, rtol: float = 1e-9) -> None:
    """Gradients, running statistics and counters; ``rtol`` in units of the largest number too."""
    for (name, ours), theirs in zip(one.named_parameters(), other.parameters(), strict=True):
        assert ours.grad is not None, name
        assert theirs.grad is not None, name
        atol = rtol * float(theirs.grad.abs().max())
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=rtol, atol=atol, msg=name)
    for name, buffer in one.named_buffers():
        torch.testing.assert_close(buffer, other.get_buffer(name), rtol=rtol, atol=rtol, msg=name)


def assert_same_pass(found: list[Tensor], wanted: list[Tensor], encoder: Encoder, oracle: Encoder) -> None:
    """Maps, then the gradients and statistics that they lead to."""
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
    loss_of(found).backward()
    loss_of(wanted).backward()
    assert_same(encoder, oracle)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("size", "side"), [(96, 3), (64, 2), (128, 2)])
@pytest.mark.parametrize("backbone", BOTH)
def test_it_is_the_network_with_the_mask_after_every_layer(
    backbone: Backbone, size: int, side: int, training: bool
) -> None:
    """Maps, gradients, statistics; patches of 32 and of 64 px."""
    encoder, oracle = make(backbone).train(training), make(backbone).train(training)
    image, visible = images(size=size), mask(side=side)
    found, wanted = sparse_stages(encoder, image, VisiblePatches(visible)), masked_stages(oracle, image, visible)
    assert_same_pass(found, wanted, encoder, oracle)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("backbone", BOTH)
def test_with_everything_visible_it_is_the_dense_network(backbone: Backbone, training: bool) -> None:
    encoder, dense = make(backbone).train(training), make(backbone).train(training)
    everything = VisiblePatches(torch.ones(3, 1, 3, 3, dtype=torch.bool))
    found, wanted = sparse_stages(encoder, images(), everything), dense.stages(images())
    assert_same_pass(found, wanted, encoder, dense)


@pytest.mark.parametrize("training", [True, False])
def test_hidden_pixels_reach_nothing_and_hidden_positions_are_nought(training: bool) -> None:
    """Not even what is not a number; the features are the same bits."""
    visible = mask()
    pixels = spread(visible, 96).bool()
    shown = [
        images(dtype=torch.float32),
        images(seed=9, dtype=torch.float32) * 1e6,
        torch.full((3, 1, 96, 96), torch.nan),
    ]
    results = []
    for hidden in shown:
        encoder = make(dtype=torch.float32).train(training)
        image = torch.where(pixels, shown[0], hidden)
        results.append([*sparse_stages(encoder, image, VisiblePatches(visible)), encoder.layer4[1].bn2.running_var])
    for number, map_ in enumerate(results[0][:4]):
        assert map_[(spread(visible, map_.shape[-1]) == 0).expand_as(map_)].eq(0).all(), number
        assert map_.ne(0).any(), number
    for other in results[1:]:
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(results[0], other, strict=True))
    moved = sparse_stages(make(dtype=torch.float32).train(training), shown[0] + 0.1 * pixels, VisiblePatches(visible))
    assert not torch.equal(moved[3], results[0][3])


def test_what_passes_a_masked_patch_in_a_dense_network_does_not_here() -> None:
    """Two visible patches with a masked one between: neither knows of the other, in any stage."""
    visible = torch.tensor([True, False, True]).expand(1, 1, 3, 3).clone()
    image = images(1)
    other = image.clone()
    other[..., 64:] += 1
    encoder = make().eval()
    with torch.no_grad():
        one, moved = (sparse_stages(encoder, x, VisiblePatches(visible)) for x in (image, other))
        pixels = spread(visible, 96)
        dense, dense_moved = (encoder.stages(x * pixels) for x in (image, other))
    for ours, theirs in zip(one, moved, strict=True):
        third = ours.shape[-1] // 3
        assert torch.equal(ours[..., :third], theirs[..., :third])
        assert not torch.equal(ours[..., -third:], theirs[..., -third:])
    assert not torch.equal(dense[3][..., :1], dense_moved[3][..., :1])


def step(encoder: Encoder, context: torch.autocast | None = None) -> list[Tensor]:
    """Forward and backward of a training step with 4 of 9 patches visible."""
    visible = torch.zeros(3, 9, dtype=torch.bool)
    visible[:, [0, 2, 4, 5]] = True
    patches = VisiblePatches(visible.view(3, 1, 3, 3), per_film=4)
    maps = sparse_stages(encoder.train(), images(dtype=torch.float32), patches)
    loss_of(maps).backward()
    return [m.detach() for m in maps]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_recomputed_stages_give_the_same_bits_and_count_once(precision: str) -> None:
    plain, frugal = make(dtype=torch.float32), make(dtype=torch.float32, gradient_checkpointing=4)
    calls: list[int] = []
    frugal.layer3[0].bn1.register_forward_hook(lambda *_: calls.append(1))
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        one, other = step(plain), step(frugal)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(one, other, strict=True))
    assert len(calls) == 2
    assert_same(frugal, plain, rtol=0)
    assert int(frugal.layer3[0].bn1.num_batches_tracked) == 1
    assert frugal.layer3[0].bn1.momentum == 0.1


def test_the_memory_format_changes_nothing_but_rounding() -> None:
    plain, last = make(dtype=torch.float32), make(dtype=torch.float32).to(memory_format=torch.channels_last)
    for ours, theirs in zip(step(plain), step(last), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    assert_same(last, plain, rtol=5e-3)


def test_mixed_precision_is_as_near_as_in_the_dense_network() -> None:
    def errors(run: Callable[[Encoder], list[Tensor]]) -> list[float]:
        with torch.autocast("cpu", torch.bfloat16):
            rough = run(make(dtype=torch.float32))
        exact = run(make(dtype=torch.float32))
        assert rough[3].dtype == torch.bfloat16
        return [float((r.float() - e).norm() / e.norm()) for r, e in zip(rough, exact, strict=True)]

    dense = errors(lambda e: [m.detach() for m in e.stages(images(dtype=torch.float32))])
    for ours, theirs in zip(errors(step), dense, strict=True):
        assert 0 < ours < 1.5 * theirs
    encoder = make(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        step(encoder)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in encoder.parameters())


def test_two_masks_at_once_do_not_disturb_each_other() -> None:
    """The mask is an argument: nothing remembers the last one until the backward pass."""
    alone, both = make(), make()
    loss_of(sparse_stages(alone, images(), VisiblePatches(mask(seed=1)))).backward()
    first = sparse_stages(both, images(), VisiblePatches(mask(seed=1)))
    before = copy.deepcopy(both)
    sparse_stages(both, images(seed=3), VisiblePatches(mask(seed=2)))
    loss_of(first).backward()
    for (name, ours), theirs in zip(both.named_parameters(), alone.parameters(), strict=True):
        assert torch.equal(ours.grad, theirs.grad), name  # type: ignore[arg-type]
    assert all(vars(m).keys() == vars(n).keys() for m, n in zip(both.modules(), before.modules(), strict=True))
    torch.testing.assert_close(before.eval().stages(images()), copy.deepcopy(before).eval().stages(images()))


def test_films_keep_to_themselves_in_evaluation_and_their_order_does_not_matter() -> None:
    encoder, visible, order = make().eval(), mask(), torch.tensor([2, 0, 1])
    with torch.no_grad():
        whole = sparse_stages(encoder, images(), VisiblePatches(visible))
        turned = sparse_stages(encoder, images()[order], VisiblePatches(visible[order]))
    for ours, theirs in zip(whole, turned, strict=True):
        torch.testing.assert_close(ours[order], theirs, rtol=1e-9, atol=1e-9)


def test_a_film_without_a_visible_patch_is_nought() -> None:
    visible = mask()
    visible[1] = False
    maps = sparse_stages(make().train(), images(), VisiblePatches(visible))
    assert all((m[1] == 0).all() and m[0].ne(0).any() for m in maps)


def test_one_visible_position_has_no_variance() -> None:
    visible = torch.zeros(2, 1, 2, 2, dtype=torch.bool)
    visible[1, 0, 1, 0] = True
    encoder, image = make(), images(2, 64)
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        sparse_stages(encoder.train(), image, VisiblePatches(visible))
    assert sparse_stages(encoder.eval(), image, VisiblePatches(visible))[3][1, :, 1, 0].ne(0).any()


def test_patches_smaller_than_the_stride_are_refused() -> None:
    with pytest.raises(AssertionError, match="multiple of the network's stride"):
        packed_stages(make(), images(), VisiblePatches(mask(side=6)))

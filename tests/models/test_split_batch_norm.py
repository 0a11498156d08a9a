"""BatchNorm in groups, against one ordinary BatchNorm for each group."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from scarce_cli.models.resnet import Encoder, build_encoder
from scarce_cli.models.split_batch_norm import SplitBatchNorm2d, apart, split_batch_norms, together

FORMATS = [torch.contiguous_format, torch.channels_last]
BUFFERS = ("running_mean", "running_var")


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def layer(channels: int, splits: int, **options: float) -> SplitBatchNorm2d:
    """With weights and statistics that are not those of the start."""
    made = SplitBatchNorm2d(channels, splits, **options).double()
    with torch.no_grad():
        for number, tensor in enumerate((made.weight, made.bias, made.running_mean, made.running_var)):
            assert tensor is not None
            tensor.copy_(draw(channels, seed=number + 10).abs() + 0.5)
    return made


def plain(norm: SplitBatchNorm2d) -> nn.BatchNorm2d:
    """An ordinary BatchNorm of the same state."""
    assert norm.momentum is not None
    made = nn.BatchNorm2d(norm.num_features, eps=norm.eps, momentum=norm.momentum).double()
    made.load_state_dict(norm.state_dict())
    return made


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("splits", [1, 2, 3, 6])
@pytest.mark.parametrize("side", [(4, 3), (1, 1)])
def test_it_is_a_batch_norm_for_each_group(
    splits: int, side: tuple[int, int], memory_format: torch.memory_format
) -> None:
    norm = layer(5, splits, eps=1e-3, momentum=0.3)
    alone = [plain(norm) for _ in range(splits)]
    values, upstream = draw(12, 5, *side), draw(12, 5, *side, seed=1)
    x = values.clone(memory_format=memory_format).requires_grad_()
    y = norm(x)
    y.backward(upstream.contiguous(memory_format=memory_format))
    theirs = values.clone().requires_grad_()
    for group, one in enumerate(alone):
        part = one(theirs[group::splits])
        torch.testing.assert_close(y[group::splits].detach(), part.detach(), rtol=1e-10, atol=1e-12)
        part.backward(upstream[group::splits])
    torch.testing.assert_close(x.grad, theirs.grad, rtol=1e-9, atol=1e-12)
    for name in ("weight", "bias"):
        wanted = sum(getattr(one, name).grad for one in alone)
        torch.testing.assert_close(getattr(norm, name).grad, wanted, rtol=1e-9, atol=1e-12)
    for name in BUFFERS:
        mean = torch.stack([getattr(one, name) for one in alone]).mean(dim=0)
        torch.testing.assert_close(getattr(norm, name), mean, rtol=1e-12, atol=0)
    assert int(norm.num_batches_tracked or 0) == 0


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("training", [True, False])
def test_the_memory_format_is_kept(memory_format: torch.memory_format, training: bool) -> None:
    x = draw(8, 3, 4, 4).contiguous(memory_format=memory_format).requires_grad_()
    y = layer(3, 4).train(training)(x)
    assert y.is_contiguous(memory_format=memory_format)
    y.square().sum().backward()
    assert x.grad is not None
    assert x.grad.is_contiguous(memory_format=memory_format)


def test_any_strides_will_do() -> None:
    x = draw(8, 4, 6, 6)[:, ::2, 1:5, 1:4].transpose(2, 3)
    one, other = layer(2, 4), layer(2, 4)
    torch.testing.assert_close(one(x), other(x.contiguous()), rtol=1e-10, atol=1e-12)


def test_in_evaluation_it_is_an_ordinary_batch_norm() -> None:
    norm = layer(3, 4)
    norm(draw(8, 3, 4, 4))
    before = copy.deepcopy(norm.state_dict())
    norm.eval()
    x = draw(7, 3, 4, 4, seed=2)  # not a multiple of the groups
    assert torch.equal(norm(x), plain(norm).eval()(x))
    assert all(torch.equal(before[name], tensor) for name, tensor in norm.state_dict().items())


def test_who_shares_a_group_is_all_that_counts() -> None:
    norm, x = layer(3, 4), draw(8, 3, 2, 2)
    same_groups = torch.tensor([4, 1, 6, 3, 0, 5, 2, 7])
    other_groups = torch.tensor([1, 0, 2, 3, 4, 5, 6, 7])
    y = norm(x)
    torch.testing.assert_close(norm(x[same_groups])[same_groups.argsort()], y, rtol=1e-10, atol=1e-12)
    moved = norm(x[other_groups])[other_groups.argsort()]
    changed = (moved - y).abs().amax(dim=(1, 2, 3)) > 1e-3
    assert changed.tolist() == [True, True, False, False, True, True, False, False]


@pytest.mark.parametrize("splits", [2, 3])
def test_momentum_nought_keeps_the_statistics_to_the_bit(splits: int) -> None:
    norm = layer(3, splits)
    before = [getattr(norm, name).clone() for name in BUFFERS]
    norm.momentum, norm.num_batches_tracked = 0.0, None  # as while a stage is recomputed
    norm(draw(12, 3, 4, 4))
    assert all(torch.equal(old, getattr(norm, name)) for old, name in zip(before, BUFFERS, strict=True))


def test_a_batch_that_cannot_be_cut_is_refused() -> None:
    with pytest.raises(ValueError, match="a batch of 6 cannot be cut into 4 equal groups"):
        layer(3, 4)(draw(6, 3, 2, 2))
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        layer(3, 4)(draw(4, 3, 1, 1))


def test_only_a_plain_batch_norm_can_be_split() -> None:
    for options in ({"momentum": None}, {"affine": False}, {"track_running_stats": False}):
        with pytest.raises(ValueError, match="can be split"):
            SplitBatchNorm2d.like(nn.BatchNorm2d(3, **options), 2)  # type: ignore[arg-type]


def test_mixed_precision_is_near() -> None:
    exact, mixed = layer(3, 4).float(), layer(3, 4).float()
    x = draw(8, 3, 4, 4).float()
    wanted, found = exact(x), mixed(x.bfloat16())
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), wanted, rtol=0.02, atol=0.05)
    assert mixed.running_mean is not None
    assert mixed.running_mean.dtype == torch.float32
    torch.testing.assert_close(mixed.running_mean, exact.running_mean, rtol=1e-2, atol=1e-3)


def split_encoder(splits: int = 4, *, gradient_checkpointing: int = 0) -> Encoder:
    made = build_encoder("resnet18", seed=0, gradient_checkpointing=gradient_checkpointing).double()
    split_batch_norms(made, splits)
    return made


def test_every_batch_norm_of_a_network_is_split_and_keeps_its_weights() -> None:
    original = build_encoder("resnet18", seed=0)
    state, parameters = original.state_dict(), dict(original.named_parameters())
    split_batch_norms(original, 4)
    norms = [m for m in original.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) == 20
    assert all(isinstance(norm, SplitBatchNorm2d) and norm.splits == 4 for norm in norms)
    assert all(parameter is parameters[name] for name, parameter in original.named_parameters())
    assert original.state_dict().keys() == state.keys()
    assert all(tensor.data_ptr() == state[name].data_ptr() for name, tensor in original.state_dict().items())


def test_one_group_changes_nothing() -> None:
    assert {type(m) for m in split_encoder(1).modules() if isinstance(m, nn.BatchNorm2d)} == {nn.BatchNorm2d}


def test_the_mode_of_each_layer_is_kept() -> None:
    encoder = build_encoder("resnet18", seed=0)
    encoder.layer1.eval()
    split_batch_norms(encoder, 2)
    assert not encoder.layer1[0].bn1.training
    assert encoder.layer2[0].bn1.training


def test_the_weights_load_into_an_ordinary_encoder_with_the_same_features() -> None:
    """What is kept of a run is an ordinary network: nothing is left to fold."""
    encoder = split_encoder().to(memory_format=torch.channels_last)
    for seed in range(3):
        encoder(draw(8, 1, 32, 32, seed=seed) * 2 + 1)
    ordinary = build_encoder("resnet18", seed=5).double().to(memory_format=torch.channels_last)
    ordinary.load_state_dict(encoder.state_dict())
    x = draw(3, 1, 48, 48, seed=9)
    assert torch.equal(encoder.eval()(x), ordinary.eval()(x))


def test_recomputed_stages_count_a_batch_once() -> None:
    results = []
    for gradient_checkpointing in (0, 4):
        encoder = split_encoder(3, gradient_checkpointing=gradient_checkpointing)
        encoder(draw(6, 1, 64, 64)).square().mean().backward()
        gradients = {name: p.grad for name, p in encoder.named_parameters()}
        results.append((encoder.state_dict(), gradients))
    (state, gradients), (state_again, gradients_again) = results
    assert all(torch.equal(tensor, state_again[name]) for name, tensor in state.items())
    torch.testing.assert_close(gradients_again, gradients, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("splits", [1, 2, 3, 6])
def test_rows_put_together_and_apart_again(splits: int) -> None:
    rows = torch.arange(12).view(6, 2)
    grouped = together(rows, splits)
    assert torch.equal(apart(grouped, splits), rows)
    for group, part in enumerate(grouped.chunk(splits)):
        assert torch.equal(part, rows[group::splits])


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_groups_that_lie_together_are_normalised_as_interleaved_ones(memory: torch.memory_format) -> None:
    """Output, gradients and running statistics, of a whole network."""
    made = []
    for interleaved in (True, False):
        encoder = build_encoder("resnet18", seed=0).double().to(memory_format=memory)
        assert split_batch_norms(encoder, 4, interleaved=interleaved) == 4
        x = torch.randn(8, 1, 64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        y = encoder(x) if interleaved else apart(encoder(together(x, 4)), 4)
        y.square().sum().backward()
        made.append((y.detach(), [p.grad for p in encoder.parameters()], list(encoder.buffers())))
    torch.testing.assert_close(made[0], made[1], rtol=1e-9, atol=1e-9)

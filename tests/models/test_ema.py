"""The slow network, against the formula tensor by tensor."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from scarce_cli.models.ema import frozen_copy, moving_average


def network(seed: int, width: int = 4) -> nn.Sequential:
    """A layer and a BatchNorm that has seen a batch."""
    torch.manual_seed(seed)
    made = nn.Sequential(nn.Linear(3, width), nn.BatchNorm1d(width), nn.Linear(width, 2)).double()
    made(torch.randn(8, 3, dtype=torch.float64) + seed)
    return made


def parameters(module: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in module.named_parameters()}


def buffers(module: nn.Module) -> dict[str, Tensor]:
    return {name: b.clone() for name, b in module.named_buffers()}


@pytest.mark.parametrize("momentum", [0.0, 0.3, 0.996, 0.999, 1.0])
def test_parameters_are_averaged_and_buffers_left_alone(momentum: float) -> None:
    slow, fast = network(1), network(2)
    before, theirs, kept = parameters(slow), parameters(fast), buffers(slow)
    moving_average(slow, fast, momentum)
    for name, parameter in slow.named_parameters():
        wanted = momentum * before[name] + (1 - momentum) * theirs[name]
        torch.testing.assert_close(parameter.detach(), wanted, rtol=1e-12, atol=1e-15)
    for name, buffer in slow.named_buffers():
        assert torch.equal(buffer, kept[name]), name
    assert all(torch.equal(theirs[name], p) for name, p in fast.named_parameters())


@pytest.mark.parametrize(("momentum", "source"), [(1.0, 0), (0.0, 1)])
def test_the_ends_are_exact_in_float32(momentum: float, source: int) -> None:
    pair = network(1).float(), network(2).float()
    wanted = parameters(pair[source])
    moving_average(*pair, momentum)
    assert all(torch.equal(wanted[name], p) for name, p in pair[0].named_parameters())


def test_buffers_are_copied_on_request() -> None:
    slow, fast = network(1), network(2)
    fast(torch.randn(8, 3, dtype=torch.float64))
    before, theirs = parameters(slow), parameters(fast)
    moving_average(slow, fast, 0.9, buffers=True)
    for name, buffer in slow.named_buffers():
        assert torch.equal(buffer, dict(fast.named_buffers())[name]), name
        assert buffer.data_ptr() != dict(fast.named_buffers())[name].data_ptr()
    assert int(slow[1].num_batches_tracked) == 2
    for name, parameter in slow.named_parameters():
        torch.testing.assert_close(parameter.detach(), 0.9 * before[name] + 0.1 * theirs[name], rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("momentum", [0.0, 0.3, 0.996, 1.0])
def test_a_step_that_is_taken_moves_as_without_the_gate(momentum: float) -> None:
    slow, fast = network(1), network(2)
    twin = copy.deepcopy(slow)
    moving_average(twin, fast, momentum, buffers=True)
    moving_average(slow, fast, momentum, taken=torch.tensor(True), buffers=True)
    for name, tensor in slow.state_dict().items():
        torch.testing.assert_close(tensor, twin.state_dict()[name], rtol=1e-12, atol=1e-15)
    assert all(torch.equal(tensor, buffers(fast)[name]) for name, tensor in buffers(slow).items())


def test_a_step_that_is_not_taken_keeps_every_bit_whatever_the_buffers() -> None:
    slow, fast = network(1), network(2)
    fast[1].running_mean.fill_(torch.nan)
    before = copy.deepcopy(slow.state_dict())
    moving_average(slow, fast, 0.5, taken=torch.tensor(False), buffers=True)
    assert all(torch.equal(tensor, before[name]) for name, tensor in slow.state_dict().items())


def test_a_network_without_buffers_can_be_averaged() -> None:
    slow, fast = nn.Linear(2, 2), nn.Linear(2, 2)
    moving_average(slow, fast, 0.0, buffers=True)
    assert torch.equal(slow.weight, fast.weight)


def test_many_steps_towards_a_network_at_rest_shrink_the_distance_by_the_power() -> None:
    slow, fast = network(1), network(2)
    gap = slow[0].weight.detach() - fast[0].weight.detach()
    for _ in range(7):
        moving_average(slow, fast, 0.8)
    torch.testing.assert_close(slow[0].weight.detach() - fast[0].weight.detach(), gap * 0.8**7, rtol=1e-9, atol=1e-12)


def test_no_graph_and_no_gradient() -> None:
    fast = network(2)
    slow = frozen_copy(network(1))
    moving_average(slow, fast, 0.5)
    assert all(p.grad is None and not p.requires_grad and p.is_leaf for p in slow.parameters())
    fast(torch.randn(4, 3, dtype=torch.float64)).sum().backward()
    assert all(p.grad is not None for p in fast.parameters())


def test_the_copy_is_frozen_and_shares_nothing() -> None:
    original = network(1)
    original(torch.randn(4, 3, dtype=torch.float64)).sum().backward()
    state = copy.deepcopy(original.state_dict())
    copied = frozen_copy(original)
    assert all(not p.requires_grad and p.grad is None for p in copied.parameters())
    assert all(p.requires_grad and p.grad is not None for p in original.parameters())
    assert all(torch.equal(tensor, copied.state_dict()[name]) for name, tensor in state.items())
    with torch.no_grad():
        for tensor in copied.state_dict().values():
            tensor.add_(1)
    assert all(torch.equal(tensor, original.state_dict()[name]) for name, tensor in state.items())


def test_other_layouts_are_refused() -> None:
    with pytest.raises(ValueError, match="same parameters"):
        moving_average(network(1), network(2, width=5), 0.5)
    with pytest.raises(ValueError, match="same buffers"):
        moving_average(nn.LayerNorm(4), nn.BatchNorm1d(4), 0.5)

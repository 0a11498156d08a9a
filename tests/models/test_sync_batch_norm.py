"""BatchNorm over all ranks, in one process; with two see tests/methods/test_ranks.py."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from scarce_cli.models.resnet import build_encoder
from scarce_cli.models.split_batch_norm import SplitBatchNorm2d, split_batch_norms
from scarce_cli.models.sync_batch_norm import SyncBatchNorm1d, SyncBatchNorm2d, synchronise_batch_norms


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_one_process_has_the_same_bits_as_without() -> None:
    plain = build_encoder("resnet18", seed=0).train()
    synchronised = copy.deepcopy(plain)
    synchronise_batch_norms(synchronised)
    for _ in range(2):
        features = [network(draw(4, 1, 64, 64)) for network in (plain, synchronised)]
        assert torch.equal(*features)
    assert plain.state_dict().keys() == synchronised.state_dict().keys()
    assert all(torch.equal(t, synchronised.state_dict()[name]) for name, t in plain.state_dict().items())
    assert torch.equal(plain.eval()(draw(1, 1, 64, 64)), synchronised.eval()(draw(1, 1, 64, 64)))


def test_parameters_and_buffers_are_taken_over() -> None:
    network = nn.Sequential(
        nn.Linear(3, 4), nn.BatchNorm1d(4, eps=1e-3, momentum=0.2), nn.Sequential(nn.BatchNorm2d(4))
    )
    network[1].eval()
    before = dict(network.named_parameters()) | dict(network.named_buffers())
    synchronise_batch_norms(network)
    after = dict(network.named_parameters()) | dict(network.named_buffers())
    assert before.keys() == after.keys()
    assert all(tensor is before[name] for name, tensor in after.items())
    assert isinstance(network[1], SyncBatchNorm1d)
    assert isinstance(network[2][0], SyncBatchNorm2d)
    assert (network[1].eps, network[1].momentum, network[1].training) == (1e-3, 0.2, False)
    assert (network[2][0].eps, network[2][0].momentum, network[2][0].training) == (1e-5, 0.1, True)


def test_a_norm_without_scale_stays_without() -> None:
    network = nn.Sequential(nn.BatchNorm1d(4, affine=False))
    synchronise_batch_norms(network)
    assert not list(network.parameters())


def test_norms_that_normalise_in_groups_stay_as_they_are() -> None:
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4))
    split_batch_norms(network, 2)
    synchronise_batch_norms(network)
    assert type(network[1]) is SplitBatchNorm2d


@pytest.mark.parametrize("norm", [nn.BatchNorm1d(4, momentum=None), nn.BatchNorm2d(4, track_running_stats=False)])
def test_norms_without_momentum_or_running_statistics_are_refused(norm: nn.Module) -> None:
    with pytest.raises(ValueError, match="only a BatchNorm with running statistics and a momentum"):
        synchronise_batch_norms(nn.Sequential(norm))


def test_rows_and_maps_are_not_mistaken_for_each_other() -> None:
    network = nn.Sequential(nn.BatchNorm2d(4))
    synchronise_batch_norms(network)
    with pytest.raises(ValueError, match="expected 4D input"):
        network(draw(3, 4))

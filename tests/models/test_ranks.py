"""In one process nothing is exchanged; what two do is tested in tests/methods/test_ranks.py."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from scarce_cli.models.ranks import mean_over_ranks, own_share, rank, sum_over_ranks, whole_batch, world_size


@pytest.mark.parametrize("function", [own_share, whole_batch, sum_over_ranks, mean_over_ranks])
def test_one_process_gets_back_what_it_gives(function: Callable[[Tensor], Tensor]) -> None:
    x = torch.randn(4, 3, requires_grad=True)
    assert function(x) is x


def test_one_process_is_the_first_of_one() -> None:
    assert (rank(), world_size()) == (0, 1)


@pytest.mark.parametrize("number", [0, 1, 2])
def test_shares_deal_out_the_whole_batch_like_cards(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scarce_cli.models.ranks.rank", lambda: number)
    monkeypatch.setattr("scarce_cli.models.ranks.world_size", lambda: 3)
    assert own_share(torch.arange(12)).tolist() == list(range(number, 12, 3))

"""Running statistics in flat tensors: the same names and values, put back where a step was bad."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import nn

from scarce_cli.engine.start import build_state
from scarce_cli.engine.statistics import Statistics

ENDS = ("running_mean", "running_var", "num_batches_tracked")


@pytest.mark.parametrize("method", ["toy", "moco", "barlow", "dino", "spark"])
def test_names_and_values_stay_and_only_the_norms_are_settled(method: str, make_job: Callable) -> None:
    made = build_state(make_job(method=method)).method
    for number, buffer in enumerate(made.buffers()):
        buffer.fill_(number)
    before = {name: value.clone() for name, value in made.state_dict().items()}
    statistics = Statistics(made)
    after = made.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], value) for name, value in after.items())
    copied = statistics.copy()
    for buffer in made.buffers():
        buffer.fill_(math.nan if buffer.is_floating_point() else 99)
    statistics.settle(copied, torch.tensor(False))
    for name, buffer in made.named_buffers():
        assert torch.equal(buffer, before[name]) == name.endswith(ENDS), name
    assert any(name.endswith(ENDS) for name in before)


def test_a_taken_step_keeps_what_the_batch_left() -> None:
    norm = nn.BatchNorm2d(3)
    other = nn.BatchNorm2d(3)
    statistics = Statistics(nn.Sequential(norm, nn.ReLU()))
    copied = statistics.copy()
    batch = torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    norm(batch)
    other(batch)
    statistics.settle(copied, torch.tensor(True))
    assert all(torch.equal(a, b) for a, b in zip(norm.buffers(), other.buffers(), strict=True))
    assert int(norm.num_batches_tracked) == 1
    norm.load_state_dict(nn.BatchNorm2d(3).state_dict())  # into the same memory: a run goes on
    statistics.settle(copied, torch.tensor(True))
    assert int(norm.num_batches_tracked) == 0


def test_a_module_without_norms_has_nothing_to_settle() -> None:
    statistics = Statistics(nn.Linear(2, 2))
    assert statistics.copy() == []
    statistics.settle([], torch.tensor(False))

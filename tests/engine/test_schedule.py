"""The learning rate: against torch's schedulers, and exact where the recipe says a number."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, SequentialLR

from scarce_cli.engine.schedule import warmup_cosine

RATES = st.floats(min_value=1e-9, max_value=10)


@pytest.mark.parametrize(("total", "warmup", "peak", "final"), [(40, 10, 3e-4, 0.0), (13, 2, 0.1, 1e-3), (9, 1, 1, 0)])
def test_it_is_torchs_linear_warm_up_and_cosine(total: int, warmup: int, peak: float, final: float) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=peak)
    up = LinearLR(optimizer, start_factor=1 / warmup, total_iters=max(warmup - 1, 1))
    down = CosineAnnealingLR(optimizer, T_max=total - warmup - 1, eta_min=final)
    scheduler = SequentialLR(optimizer, [up, down], milestones=[warmup])
    wanted = []
    for _ in range(total):
        wanted.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    ours = [warmup_cosine(n, total_steps=total, warmup_steps=warmup, peak=peak, final=final) for n in range(total)]
    assert ours == pytest.approx(wanted, rel=1e-9, abs=1e-15)


@given(warmup=st.integers(0, 50), rest=st.integers(2, 200), peak=RATES, share=st.floats(0, 1))
def test_the_first_the_last_of_the_warm_up_and_the_last_step_are_exact(
    warmup: int, rest: int, peak: float, share: float
) -> None:
    total, final = warmup + rest, peak * share
    rates = [
        warmup_cosine(step, total_steps=total, warmup_steps=warmup, peak=peak, final=final) for step in range(total)
    ]
    assert rates[-1] == final
    if warmup:
        assert rates[0] == pytest.approx(peak / warmup, rel=1e-15)
        assert rates[warmup - 1] == peak
    assert rates[warmup] == pytest.approx(peak, rel=1e-15)
    assert all(b > a for a, b in itertools.pairwise(rates[:warmup]))
    assert all(b <= a for a, b in itertools.pairwise(rates[warmup:]))
    assert max(rates) <= peak * (1 + 1e-15)


def test_the_middle_of_the_cosine_is_the_mean() -> None:
    rates = [warmup_cosine(n, total_steps=25, warmup_steps=4, peak=1.0, final=0.2) for n in range(4, 25)]
    assert rates[10] == pytest.approx(0.6, abs=1e-15)
    assert rates[5] == pytest.approx(0.2 + 0.4 * (1 + math.sqrt(0.5)), abs=1e-15)
    for n in range(21):
        assert rates[n] + rates[20 - n] == pytest.approx(1.2, abs=1e-15)


@pytest.mark.parametrize(
    ("total", "warmup", "wanted"), [(1, 0, [0.1]), (1, 1, [1.0]), (2, 2, [0.5, 1.0]), (2, 1, [1.0, 0.1])]
)
def test_the_shortest_runs(total: int, warmup: int, wanted: list[float]) -> None:
    rates = [warmup_cosine(n, total_steps=total, warmup_steps=warmup, peak=1.0, final=0.1) for n in range(total)]
    assert rates == wanted

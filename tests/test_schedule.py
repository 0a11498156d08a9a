"""Schedules: against torch's schedulers and numpy's formulas, and exact where the recipe says a number."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LinearLR, MultiStepLR, SequentialLR

from scarce_cli.schedule import CONVENTIONS, cosine, milestone_lr, ramp, warmup_cosine

RATES = st.floats(min_value=1e-9, max_value=10)


def _rates(name: str, total: int, warmup: int, peak: float, final: float) -> list[float]:
    given = {"total_steps": total, "warmup_steps": warmup, "peak": peak, "final": final}
    return [warmup_cosine(n, convention=CONVENTIONS[name], **given) for n in range(total)]


def _torchs(scheduler: torch.optim.lr_scheduler.LRScheduler, count: int) -> list[float]:
    wanted = []
    for _ in range(count):
        wanted.append(scheduler.optimizer.param_groups[0]["lr"])
        scheduler.optimizer.step()
        scheduler.step()
    return wanted


def _optimizer(peak: float) -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=peak)


@pytest.mark.parametrize(("total", "warmup", "peak", "final"), [(40, 10, 3e-4, 0.0), (13, 2, 0.1, 1e-3), (9, 1, 1, 0)])
def test_the_default_is_torchs_linear_warm_up_and_cosine(total: int, warmup: int, peak: float, final: float) -> None:
    optimizer = _optimizer(peak)
    up = LinearLR(optimizer, start_factor=1 / warmup, total_iters=max(warmup - 1, 1))
    down = CosineAnnealingLR(optimizer, T_max=total - warmup - 1, eta_min=final)
    wanted = _torchs(SequentialLR(optimizer, [up, down], milestones=[warmup]), total)
    assert _rates("scarce", total, warmup, peak, final) == pytest.approx(wanted, rel=1e-9, abs=1e-15)


@pytest.mark.parametrize(("epochs", "warmup"), [(800, 10), (7, 1), (5, 5), (3, 0)])
def test_the_published_series_multiplies_by_a_factor_an_epoch(epochs: int, warmup: int) -> None:
    """Its own formula, given to torch's LambdaLR as there."""

    def factor(epoch: int) -> float:
        if epoch < warmup:
            return (epoch + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * (epoch - warmup) / max(1, epochs - warmup)))

    wanted = _torchs(LambdaLR(_optimizer(0.045), factor), epochs)
    found = _rates("published", epochs, warmup, 0.045, 0.0)
    assert found == pytest.approx(wanted, rel=1e-12)
    assert found[-1] > 0  # not reached
    assert CONVENTIONS["published"].per_epoch


@pytest.mark.parametrize("warmup", [0, 1, 2, 6])
def test_dinos_warm_up_is_numpys_linspace(warmup: int) -> None:
    total, peak, final = 20, 5e-4, 1e-6
    steps = np.arange(total - warmup)
    down = final + 0.5 * (peak - final) * (1 + np.cos(np.pi * steps / len(steps)))
    wanted = np.concatenate([np.linspace(0, peak, warmup), down])
    np.testing.assert_allclose(_rates("dino", total, warmup, peak, final), wanted, rtol=1e-12)


def test_the_codes_of_spark_and_barlow_twins() -> None:
    wanted = []
    for step in range(50):
        if step < 8:
            wanted.append(0.005 * 2 + 0.995 * 2 * step / 8)
        else:
            wanted.append(0.001 * 2 + 0.999 * 2 * (0.5 + 0.5 * math.cos(math.pi * (step - 8) / (50 - 1 - 8))))
    found = _rates("spark", 50, 8, 2.0, 0.002)
    assert found == pytest.approx(wanted, rel=1e-12)
    assert found[-1] == 0.002
    share = [0.5 * (1 + math.cos(math.pi * n / 42)) for n in range(42)]
    wanted = [2 * n / 8 for n in range(8)] + [2 * q + 0.002 * (1 - q) for q in share]
    assert _rates("barlow", 50, 8, 2.0, 0.002) == pytest.approx(wanted, rel=1e-12)


def test_a_tenth_from_each_milestone_on_is_torchs() -> None:
    wanted = _torchs(MultiStepLR(_optimizer(0.03), [3, 7], gamma=0.1), 10)
    assert [milestone_lr(n, base=0.03, milestones=(3, 7)) for n in range(10)] == pytest.approx(wanted, rel=1e-12)
    assert milestone_lr(9, base=0.03, milestones=()) == 0.03


@given(warmup=st.integers(0, 50), rest=st.integers(2, 200), peak=RATES, share=st.floats(0, 1))
def test_the_first_the_last_of_the_warm_up_and_the_last_step_are_exact(
    warmup: int, rest: int, peak: float, share: float
) -> None:
    total, final = warmup + rest, peak * share
    rates = _rates("scarce", total, warmup, peak, final)
    assert rates[-1] == final
    if warmup:
        assert rates[0] == peak / warmup
        assert rates[warmup - 1] == peak
    assert rates[warmup] == peak
    assert all(b > a for a, b in itertools.pairwise(rates[:warmup]))
    assert all(b <= a for a, b in itertools.pairwise(rates[warmup:]))
    assert max(rates) <= peak


@given(name=st.sampled_from(sorted(CONVENTIONS)), warmup=st.integers(0, 30), rest=st.integers(2, 90), peak=RATES)
def test_every_convention_starts_and_ends_where_it_says(name: str, warmup: int, rest: int, peak: float) -> None:
    convention, final = CONVENTIONS[name], peak / 1000
    rates = _rates(name, warmup + rest, warmup, peak, final)
    assert rates[warmup] == peak
    assert (rates[-1] == final) == convention.reaches
    assert rates[-1] >= final
    if warmup > 1:
        assert (rates[warmup - 1] == peak) == convention.warmup_reaches
        share = 1 / warmup if convention.warmup_start is None else convention.warmup_start
        assert rates[0] == pytest.approx(share * peak, rel=1e-15)
    assert all(b > a for a, b in itertools.pairwise(rates[:warmup]))
    assert all(b < a for a, b in itertools.pairwise(rates[warmup:]))


def test_the_middle_of_the_cosine_is_the_mean() -> None:
    rates = _rates("scarce", 25, 4, 1.0, 0.2)[4:]
    assert rates[10] == pytest.approx(0.6, abs=1e-15)
    assert rates[5] == pytest.approx(0.2 + 0.4 * (1 + math.sqrt(0.5)), abs=1e-15)
    for n in range(21):
        assert rates[n] + rates[20 - n] == pytest.approx(1.2, abs=1e-15)


@pytest.mark.parametrize(
    ("total", "warmup", "wanted"), [(1, 0, [0.1]), (1, 1, [1.0]), (2, 2, [0.5, 1.0]), (2, 1, [1.0, 0.1])]
)
def test_the_shortest_runs(total: int, warmup: int, wanted: list[float]) -> None:
    assert _rates("scarce", total, warmup, 1.0, 0.1) == wanted


def test_parts_of_one_step_and_of_no_span() -> None:
    assert ramp(0, count=1, start=0.2, end=0.7, reaches=True) == 0.2  # as numpy.linspace
    assert ramp(0, count=1, start=0.2, end=0.7, reaches=False) == 0.2
    assert cosine(0, count=1, start=0.2, end=0.7, reaches=True) == 0.7
    assert cosine(0, count=1, start=0.2, end=0.7, reaches=False) == 0.2
    for reaches in (True, False):
        assert {cosine(n, count=9, start=0.3, end=0.3, reaches=reaches) for n in range(9)} == {0.3}
    assert warmup_cosine(
        0, total_steps=9, warmup_steps=3, peak=1.0, final=0.0, convention=CONVENTIONS["dino"], start=0.25
    ) == 0.25  # fmt: skip

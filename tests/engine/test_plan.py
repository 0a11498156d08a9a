"""What a recipe's schedules make of each step of a run."""

from __future__ import annotations

from typing import Any

import pytest

from scarce_cli.config import RunConfig
from scarce_cli.engine.plan import Plan
from scarce_cli.schedule import CONVENTIONS, cosine, warmup_cosine


def _plan(steps_per_epoch: int, *, epochs: int = 5, optimizer: Any = None, **schedule: Any) -> Plan:
    config = RunConfig.model_validate(
        {
            "run": {"epochs": epochs, "batch_size": 8},
            "model": {"backbone": "resnet18"},
            "data": {"size": 96},
            "optimizer": {"name": "lars", "lr": 0.3, "weight_decay": 0.04, **(optimizer or {})},
            "schedule": schedule,
        }
    )
    return Plan(config, steps_per_epoch)


@pytest.mark.parametrize("name", sorted(CONVENTIONS))
def test_the_rate_is_the_conventions_in_steps_or_in_epochs(name: str) -> None:
    plan, convention = _plan(7, convention=name, warmup_epochs=2.0, final_lr=0.01), CONVENTIONS[name]
    each = 1 if convention.per_epoch else 7
    for step in range(35):
        wanted = warmup_cosine(
            step * each // 7,
            total_steps=5 * each,
            warmup_steps=2 * each,
            peak=0.3,
            final=0.01,
            convention=convention,
        )
        assert plan.at(step).lr == wanted
    assert len({plan.at(step).lr for step in range(7)}) == (1 if convention.per_epoch else 7)


def test_the_rate_of_biases_and_norms_follows_the_same_curve_from_its_own_peak() -> None:
    plan = _plan(7, convention="barlow", warmup_epochs=1.0, final_lr=3e-4, optimizer={"lr_1d": 0.0072})
    for step in range(35):
        values = plan.at(step)
        assert values.lr_1d == pytest.approx(values.lr * 0.0072 / 0.3, rel=1e-12)
    assert plan.at(7).lr_1d == 0.0072
    same = _plan(7)
    assert all(same.at(step).lr_1d == same.at(step).lr for step in range(35))


@pytest.mark.parametrize("name", sorted(CONVENTIONS))
def test_the_weight_decay_goes_by_a_cosine_over_the_whole_run(name: str) -> None:
    convention = CONVENTIONS[name]
    plan = _plan(7, convention=name, warmup_epochs=2.0, optimizer={"final_weight_decay": 0.4})
    each = 1 if convention.per_epoch else 7
    for step in range(35):
        wanted = cosine(step * each // 7, count=5 * each, start=0.04, end=0.4, reaches=convention.reaches)
        assert plan.at(step).weight_decay == wanted
    assert plan.at(0).weight_decay == 0.04
    assert (plan.at(34).weight_decay == 0.4) == convention.reaches
    constant = _plan(7, convention=name)
    assert {constant.at(step).weight_decay for step in range(35)} == {0.04}


def test_milestones_are_epochs_and_replace_the_cosine() -> None:
    plan = _plan(7, convention="moco", milestones=(2, 4))
    found = [plan.at(step).lr for step in range(35)]
    assert found == pytest.approx([0.3] * 14 + [0.03] * 14 + [0.003] * 7, rel=1e-12)
    warm = _plan(7, milestones=(2, 4), warmup_epochs=1.0)
    assert [warm.at(step).lr for step in range(7)] == pytest.approx([0.3 * n / 7 for n in range(1, 8)])
    assert [warm.at(step).lr for step in range(7, 35)] == found[7:]

"""Two readings that say collapsed, and what does not count as two."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from scarce_cli.evaluation.collapse import Reading, is_confirmed, judge
from scarce_cli.vitals import Expectations, Failure
from tests.evaluation.collapse.test_verdict import FEATURES, MOCO, RANDOM, SPARK

LOSS = {"loss": 1.0, "loss_std": 0.1, "loss_bad": 0.0}
DEAD = {"relative_std": 0.001}
FEW = {"effective_rank": 5.0, "retrieval": 0.1}
WIDE = Expectations({"on_diagonal": 512.0})


def course(*moments: dict[str, Any] | None, **signals: Any) -> list[Reading]:
    """Readings 20 steps apart from 10 % of the run on; a moment is changes to FEATURES, or None for no features."""
    return [
        Reading(100 + 20 * n, 0.1 + 0.02 * n, None if now is None else replace(FEATURES, **now), LOSS | signals)
        for n, now in enumerate(moments)
    ]


def confirmed(readings: Sequence[Reading], expected: Expectations = SPARK) -> bool:
    return is_confirmed(readings, RANDOM, expected)


def test_two_measurements_are_two_whatever_lies_between() -> None:
    assert not confirmed(course({}, DEAD))
    assert confirmed(course({}, DEAD, DEAD))
    assert confirmed(course({}, DEAD, None, None, DEAD))
    assert not confirmed(course(DEAD, None, {}, None, DEAD))
    assert not confirmed(course(DEAD, DEAD, None))  # the last says nothing


def test_one_measurement_does_not_confirm_itself() -> None:
    readings = course({}, FEW, None, None, off_diagonal=512.0 * 511 * 0.01, on_diagonal=40.0)
    assert judge(readings[:2], RANDOM, WIDE).failure is Failure.DIMENSIONAL
    assert judge(readings, RANDOM, WIDE).state == "healthy"
    assert not confirmed(readings, WIDE)


def test_a_failure_that_the_method_says_is_contradicted_by_what_it_says_later() -> None:
    nan, fine = {"loss": math.nan, "loss_bad": 1.0}, LOSS
    said = [nan, *[fine] * 19, nan]
    readings = [replace(one, signals=now) for one, now in zip(course(*[None] * 21), said, strict=True)]
    assert judge(readings, RANDOM, SPARK).failure is Failure.DIVERGED
    assert not confirmed(readings)
    assert confirmed([*readings, replace(readings[-1], step=600, progress=0.6)])


def test_two_different_failures_confirm_neither() -> None:
    first, last = course(DEAD, {})
    assert not confirmed([first, replace(last, signals={"loss": math.nan, "loss_bad": 1.0})])


@pytest.mark.parametrize("first", [0, 880])
def test_a_lost_log_does_not_hide_that_nothing_is_learned(first: int) -> None:
    """The noise of a mean is that of its steps, however late the first reading that is known."""
    said = {"loss_std": 0.02, "loss_bad": 0.0, "explained": -0.01}
    blind = Expectations({"loss": 1.0, "explained": 0.0}, spreads=False, rises=frozenset({"explained"}))
    readings = [
        Reading(first + 20 * n, (first + 20 * n) / 1000, None, said | {"loss": 1.004 + 0.004 * (-1) ** n})
        for n in range(1, 6)
    ]
    assert judge(readings, RANDOM, blind).failure is (Failure.NOT_LEARNING if readings[-1].progress > 0.05 else None)


def test_a_run_whose_queue_filled_and_that_learns_nothing_since_is_named() -> None:
    losses = [3.0, 5.0, *[7.6] * 8]
    readings = [
        Reading(
            20 * n,
            0.02 * n,
            replace(FEATURES, relative_std=0.2),
            {"loss": loss, "loss_std": 0.01, "infonce_margin": 0.5},
        )
        for n, loss in enumerate(losses, 1)
    ]
    assert judge(readings, RANDOM, MOCO).failure is Failure.NOT_LEARNING
    learning = [replace(one, signals=one.signals | {"loss": 7.6 - 0.2 * n}) for n, one in enumerate(readings)]
    assert judge(learning, RANDOM, MOCO).state == "healthy"

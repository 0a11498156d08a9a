"""Readings as plain values, there and back."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from scarce_cli.evaluation.collapse import Reading, collapse_metrics

METRICS = collapse_metrics(np.random.default_rng(0).standard_normal((30, 20)))


@pytest.mark.parametrize(
    "reading", [Reading(0, 0.0, METRICS), Reading(70, 0.35, None, {"loss": 1.5}), Reading(3, 1.0, METRICS, {"a": -2.0})]
)
def test_plain_values_come_back_the_same(reading: Reading) -> None:
    plain = json.loads(json.dumps(reading.as_plain(), allow_nan=False))
    assert Reading.from_plain(plain) == reading
    assert Reading.from_plain(plain | {"verdict": "healthy"}) == reading


def test_a_signal_that_is_not_finite_comes_back_as_nan() -> None:
    """JSON has none."""
    plain = Reading(1, 0.1, None, {"loss": math.nan, "norm": math.inf, "fine": 1.0}).as_plain()
    assert plain["signals"] == {"loss": None, "norm": None, "fine": 1.0}
    found = Reading.from_plain(json.loads(json.dumps(plain, allow_nan=False))).signals
    assert math.isnan(found["loss"])
    assert math.isnan(found["norm"])
    assert found["fine"] == 1.0


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"step": 1.5}, TypeError),
        ({"step": True}, TypeError),
        ({"step": -1}, ValueError),
        ({"progress": 1.1}, ValueError),
        ({"progress": math.nan}, ValueError),
        ({"progress": None}, TypeError),
        ({"features": {}}, KeyError),
        ({"features": 3}, TypeError),
        ({"signals": None}, AttributeError),
        ({"signals": {"loss": "low"}}, ValueError),
    ],
)
def test_other_plain_values_are_refused(change: dict[str, Any], error: type[Exception]) -> None:
    plain = Reading(2, 0.5, METRICS, {"loss": 1.0}).as_plain()
    with pytest.raises(error):
        Reading.from_plain(plain | change)
    for key in plain:
        with pytest.raises(KeyError):
            Reading.from_plain({name: value for name, value in plain.items() if name != key})

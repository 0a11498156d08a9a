"""All measures of one set of features: exact numbers, what they do not depend on, and what is undefined."""

from __future__ import annotations

import json
from dataclasses import asdict, fields, replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.spatial.distance import pdist

from scarce_cli.errors import UsageError
from scarce_cli.evaluation.collapse import (
    CollapseMetrics,
    alignment,
    collapse_metrics,
    lidar,
    quick_metrics,
    rankme,
    retrieval,
)

STEADY = settings(max_examples=40, deadline=None, derandomize=True)
SHAPES = st.tuples(st.integers(2, 12), st.integers(1, 9))
NUMBERS = st.floats(-100, 100, allow_nan=False, width=32)


def features(films: int = 200, dimensions: int = 32, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((films, dimensions))


def half_dead() -> np.ndarray:
    x = np.abs(features()) + 1
    x[:, ::2] = 0
    return x


DRAWN = {
    "healthy": features,
    "with a mean": lambda: np.maximum(features() + 2, 0).astype(np.float32),
    "five directions and noise": lambda: features(200, 5) @ features(5, 32, 1) + 1e-4 * features(seed=2),
    "half the dimensions dead": half_dead,
    "fewer films than dimensions": lambda: features(20, 90) + 0.5,
    "orthogonal rows": lambda: np.linalg.qr(features(64, 64))[0][:40] * np.arange(1, 41)[:, None],
    "two clusters": lambda: np.repeat(3 * features(2, 16), 30, axis=0) + 0.1 * features(60, 16, 1),
    "all but constant": lambda: np.linspace(-2, 2, 48) + 1e-6 * features(60, 48),
}  # fmt: skip


def by_definition(x: np.ndarray) -> dict[str, float]:
    """Pair by pair and value by value."""
    x = x.astype(np.float64)
    unit, centred = x / np.linalg.norm(x, axis=1, keepdims=True), x - x.mean(axis=0)
    values = np.linalg.svd(centred, compute_uv=False)
    p, raw = values[values > 0] / values.sum(), np.linalg.svd(x, compute_uv=False)
    shares = raw / raw.sum() + 1e-7
    return {
        "std": np.mean([np.std(column, ddof=1) for column in x.T]),
        "relative_std": np.mean([np.std(column, ddof=1) for column in unit.T]) * x.shape[1] ** 0.5,
        "mean_cosine": 1 - pdist(x, "cosine").mean(),
        "mean_cosine_centred": 1 - pdist(centred, "cosine").mean(),
        "effective_rank": np.exp(-(p * np.log(p)).sum()),
        "rankme": np.exp(-(shares * np.log(shares)).sum()),
        "uniformity": np.log(np.exp(-2 * pdist(unit) ** 2).mean()),
    }


@pytest.mark.parametrize("name", DRAWN)
def test_every_measure_is_what_its_definition_says(name: str) -> None:
    x = DRAWN[name]()
    found = collapse_metrics(x)
    for field, wanted in by_definition(x).items():
        assert getattr(found, field) == pytest.approx(wanted, rel=1e-9, abs=1e-13), field
    assert (found.films, found.dimensions) == x.shape
    assert found.dead_dimensions == (16 if name == "half the dimensions dead" else 0)
    assert found.rank_cap == min(len(x) - 1, x.shape[1])
    assert found.relative_std**2 <= 1 - found.mean_cosine + 1e-12


@STEADY
@given(exponent=st.floats(-140, 140), seed=st.integers(0, 50))
def test_the_scale_of_the_features_does_not_matter_but_to_std(exponent: float, seed: int) -> None:
    x = features(20, 8, seed)
    here, there = collapse_metrics(x), collapse_metrics(x * 10**exponent)
    for name, value in asdict(here).items():
        scale = 10**exponent if name == "std" else 1
        assert getattr(there, name) == (None if value is None else pytest.approx(value * scale, rel=1e-9)), name


@STEADY
@given(st.integers(0, 1000))
def test_neither_the_order_of_films_nor_a_rotation_matters(seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, order = features(40, 20, seed), rng.permutation(40)
    views, turn = x + features(3, 40 * 20, seed).reshape(3, 40, 20), np.linalg.qr(rng.standard_normal((20, 20)))[0]
    here, there = collapse_metrics(x, views), collapse_metrics(x[order] @ turn, views[:, order] @ turn)
    for name, value in asdict(here).items():
        if name not in ("std", "relative_std"):  # a mean over the axes themselves
            assert getattr(there, name) == pytest.approx(value, rel=1e-8, abs=1e-12), name


@STEADY
@given(arrays(np.float64, SHAPES, elements=NUMBERS))
def test_the_rank_is_between_one_and_its_cap_and_nothing_is_nan(x: np.ndarray) -> None:
    found = collapse_metrics(x, np.stack([x, x[::-1]]))
    assert found.rank_cap == min(len(x) - 1, x.shape[1])
    if found.effective_rank is not None:
        assert 1 - 1e-9 <= found.effective_rank <= found.rank_cap * (1 + 1e-9)
    json.dumps(found.as_plain(), allow_nan=False)


def test_gaussian_features_fill_the_sphere_and_nearly_reach_the_cap() -> None:
    found = collapse_metrics(features(2000, 16))
    assert found.relative_std == pytest.approx(1, abs=0.01)
    assert found.mean_cosine == pytest.approx(0, abs=0.01)
    assert found.effective_rank == pytest.approx(16, abs=0.1)
    few = collapse_metrics(features(20, 400))
    assert few.rank_cap == 19
    assert few.effective_rank == pytest.approx(19, abs=0.2)


def test_orthogonal_rows_have_the_rank_of_their_number() -> None:
    found = collapse_metrics(np.eye(8))
    assert found.mean_cosine == 0
    assert found.mean_cosine_centred == pytest.approx(-1 / 7)
    assert found.effective_rank == pytest.approx(7, rel=1e-9)
    assert found.uniformity == pytest.approx(-4, rel=1e-12)  # all distances are the root of two


def test_a_film_far_from_all_others_shows_in_the_centred_cosine() -> None:
    x = np.full((100, 3), 1.0) + 1e-9 * features(100, 3)
    x[0] = -50
    assert collapse_metrics(x).mean_cosine_centred == pytest.approx(0.96, abs=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("value", [0.0, 1.0, -3.3e7, 1e-30])
def test_of_constant_features_what_is_undefined_is_none_and_nothing_is_nan(value: float, dtype: type) -> None:
    x = np.full((40, 24), value, dtype) * np.linspace(1, 2, 24, dtype=dtype)
    found = collapse_metrics(x, np.stack([x, x]))
    undefined = {"mean_cosine_centred", "effective_rank", "alpha", "alpha_range", "lidar"}
    undefined |= {"rankme"} if value == 0 else set()
    assert {name for name, found in asdict(found).items() if found is None} == undefined
    assert found.dead_dimensions == 24
    assert found.relative_std == pytest.approx(0, abs=1e-12)
    assert found.uniformity == pytest.approx(0, abs=1e-12)
    json.dumps(found.as_plain(), allow_nan=False)


def test_constant_features_are_one_direction_as_they_are() -> None:
    """RankMe does not take the mean off: it is defined, and lowest."""
    found = collapse_metrics(np.tile(features(1, 24), (40, 1))).rankme
    assert found == pytest.approx(1, abs=1e-4)


def test_views_are_measured_beside_the_films() -> None:
    x, views = features(), features(seed=1) + 0.3 * features(3, 200 * 32, 2).reshape(3, 200, 32)
    alone, both = collapse_metrics(x), collapse_metrics(x, views)
    assert both.alignment == alignment(views[0], views[1])
    assert both.retrieval == retrieval(views[0], views[1]) > 0.9
    assert both.lidar == lidar(views)
    assert replace(both, alignment=None, retrieval=None, lidar=None) == alone
    assert alone.rankme == rankme(x)
    assert both == collapse_metrics(x, views)


def test_what_cannot_be_measured_is_refused() -> None:
    x = features()
    with pytest.raises(UsageError, match="1 film is too few"):
        collapse_metrics(features(1))
    with pytest.raises(UsageError, match="one view of each film is too few"):
        collapse_metrics(x, x[None])
    broken = x.copy()
    broken[3, 4] = np.nan
    with pytest.raises(UsageError, match="not finite"):
        collapse_metrics(broken)
    with pytest.raises(UsageError, match="not finite"):
        collapse_metrics(x, np.stack([x, broken]))


def test_the_quick_numbers_are_the_exact_ones_of_the_batch() -> None:
    x = features(32, 24)
    quick, exact = quick_metrics(torch.from_numpy(x).float()), collapse_metrics(x.astype(np.float32))
    assert quick["relative_std"] == pytest.approx(exact.relative_std)
    assert quick["mean_cosine"] == pytest.approx(exact.mean_cosine)


@pytest.mark.parametrize("x", [features(), np.ones((5, 4))])
def test_plain_values_come_back_the_same(x: np.ndarray) -> None:
    for metrics in (collapse_metrics(x), collapse_metrics(x, np.stack([x, 2 * x]))):
        plain = json.loads(json.dumps(metrics.as_plain(), allow_nan=False))
        assert CollapseMetrics.from_plain(plain) == metrics
        assert CollapseMetrics.from_plain(plain | {"step": 7}) == metrics  # as in a line of a log
        assert set(plain) == {field.name for field in fields(CollapseMetrics)}


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("films", None, TypeError),
        ("films", 2.5, TypeError),
        ("films", True, TypeError),
        ("std", "0.1", TypeError),
        ("std", None, TypeError),
        ("mean_cosine", float("nan"), ValueError),
        ("effective_rank", float("inf"), ValueError),
        ("alpha_range", [6], TypeError),
        ("alpha_range", [6, "100"], TypeError),
        ("alpha_range", 6, TypeError),
        ("lidar", [], TypeError),
    ],
)
def test_other_plain_values_are_refused(name: str, value: Any, error: type[Exception]) -> None:
    plain = collapse_metrics(features()).as_plain()
    with pytest.raises(error):
        CollapseMetrics.from_plain(plain | {name: value})
    with pytest.raises(KeyError):
        CollapseMetrics.from_plain({key: value for key, value in plain.items() if key != name})

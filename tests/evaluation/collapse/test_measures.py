"""Collapse: exact numbers, what they do not depend on, and verdicts on features whose state is known."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from scarce_cli.errors import UsageError
from scarce_cli.evaluation.collapse import (
    CollapseMetrics,
    collapse_metrics,
    quick_metrics,
    verdict,
)

# Published series (SCARCE-CXR): std, mean cosine, effective rank at successive checkpoints, and how it ended.
PUBLISHED = {
    "dino": ("suspect", [(0.146, 0.974, 438.8), (0.137, 0.976, 411.9), (0.130, 0.978, 396.0)]),
    "spark": (
        "healthy",
        [(0.193, 0.967, 259.0), (0.199, 0.961, 244.9), (0.187, 0.959, 244.5), (0.197, 0.954, 242.8),
         (0.194, 0.953, 242.9), (0.183, 0.953, 247.7), (0.191, 0.953, 247.5)],
    ),
    "barlow": (
        "healthy",
        [(0.228, 0.581, 161.9), (0.187, 0.527, 179.9), (0.174, 0.497, 190.2), (0.167, 0.474, 196.6),
         (0.162, 0.475, 200.8), (0.163, 0.462, 201.3), (0.161, 0.463, 202.3), (0.161, 0.461, 202.4)],
    ),
    "moco": ("healthy", [(0.429, 0.672, 153.4), (0.174, 0.578, 211.4), (0.143, 0.539, 223.5)]),
}  # fmt: skip

STEADY = settings(max_examples=40, deadline=None, derandomize=True)
SHAPES = st.tuples(st.integers(2, 12), st.integers(1, 9))
NUMBERS = st.floats(-100, 100, allow_nan=False, width=32)


def features(films: int = 200, dimensions: int = 32, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((films, dimensions))


def published(name: str) -> list[CollapseMetrics]:
    _, rows = PUBLISHED[name]
    return [CollapseMetrics(512, 2048, std / 2048**0.5, std, cosine, rank, 511) for std, cosine, rank in rows]


@STEADY
@given(exponent=st.floats(-140, 140), seed=st.integers(0, 50))
def test_the_scale_of_the_features_does_not_matter(exponent: float, seed: int) -> None:
    x = features(20, 8, seed)
    here, there = collapse_metrics(x), collapse_metrics(x * 10**exponent)
    for name, value in asdict(here).items():
        assert getattr(there, name) == pytest.approx(value, rel=1e-9), name


@STEADY
@given(st.integers(0, 1000))
def test_neither_the_order_of_films_nor_a_rotation_matters(seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = features(30, 10, seed)
    turned = rng.permutation(x) @ np.linalg.qr(rng.standard_normal((10, 10)))[0]
    here, there = collapse_metrics(x), collapse_metrics(turned)
    assert there.mean_cosine == pytest.approx(here.mean_cosine, abs=1e-12)
    assert there.effective_rank == pytest.approx(here.effective_rank, rel=1e-9)


@STEADY
@given(arrays(np.float64, SHAPES, elements=NUMBERS))
def test_the_rank_is_between_one_and_its_cap(x: np.ndarray) -> None:
    found = collapse_metrics(x)
    assert found.rank_cap == min(len(x) - 1, x.shape[1])
    if found.effective_rank is not None:
        assert 1 - 1e-9 <= found.effective_rank <= found.rank_cap * (1 + 1e-9)


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
    assert found.effective_rank == pytest.approx(7)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("value", [0.0, 1.0, -3.3e7, 1e-30])
def test_constant_features_have_no_rank_and_give_no_nan(value: float, dtype: type) -> None:
    found = collapse_metrics(np.full((40, 24), value, dtype) * np.linspace(1, 2, 24, dtype=dtype))
    assert found.effective_rank is None
    json.dumps(asdict(found), allow_nan=False)
    state, reasons = verdict([found], collapse_metrics(features()))
    assert state == "collapsed"
    assert "the features are constant" in reasons


def test_healthy_features_are_healthy() -> None:
    assert verdict([collapse_metrics(features())], collapse_metrics(features(seed=1)))[0] == "healthy"


def test_features_on_a_line_are_collapsed() -> None:
    line = features(100, 1) * features(1, 32) + 3 * features(1, 32, seed=4)
    state, reasons = verdict([collapse_metrics(line)])
    assert state == "collapsed"
    assert "on a line" in reasons[0]


def test_nearly_constant_features_are_collapsed_though_their_rank_looks_high() -> None:
    found = collapse_metrics(1 + 1e-4 * features())
    assert found.effective_rank is not None
    assert found.effective_rank > 25
    assert verdict([found])[0] == "collapsed"


@pytest.mark.parametrize("films", [2, 3, 5])
def test_a_handful_of_healthy_films_is_not_called_collapsed(films: int) -> None:
    """Two films span a line, whatever the encoder."""
    assert verdict([collapse_metrics(features(films))])[0] == "healthy"


def test_less_than_half_of_random_is_suspect() -> None:
    random = collapse_metrics(features())
    below, above = (replace(random, relative_std=random.relative_std * part) for part in (0.49, 0.51))
    state, reasons = verdict([below], random)
    assert state == "suspect"
    assert "random network" in reasons[0]
    assert verdict([above], random)[0] == "healthy"
    assert verdict([below])[0] == "healthy"


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_runs_are_judged_as_they_ended(name: str) -> None:
    """DINO failed with a rank of 400 that fell; SparK's cosine of 0.95 did no harm."""
    state, reasons = verdict(published(name))
    assert state == PUBLISHED[name][0]
    assert (state == "suspect") == any("from checkpoint to checkpoint" in reason for reason in reasons)


def test_one_step_up_in_a_long_fall_changes_nothing() -> None:
    start = collapse_metrics(features())
    levels = [1.0, 0.95, 0.9, 0.91, 0.85, 0.8, 0.75, 0.7]
    curve = [replace(start, relative_std=level, effective_rank=30 * level) for level in levels]
    assert verdict(curve)[0] == "suspect"
    assert verdict(curve[::-1])[0] == "healthy"
    assert verdict(curve[:2])[0] == "healthy"  # two points are no trend


def test_a_fall_of_one_number_alone_is_no_sign() -> None:
    start = collapse_metrics(features())
    levels = [1.0, 0.8, 0.6]
    assert verdict([replace(start, relative_std=level) for level in levels])[0] == "healthy"
    assert verdict([replace(start, effective_rank=30 * level) for level in levels])[0] == "healthy"


def test_one_film_or_unfinished_numbers_are_refused() -> None:
    with pytest.raises(UsageError, match="1 film is too few"):
        collapse_metrics(features(1))
    x = features()
    x[3, 4] = np.nan
    with pytest.raises(UsageError, match="not finite"):
        collapse_metrics(x)


def test_the_quick_numbers_are_the_exact_ones_of_the_batch() -> None:
    x = features(32, 24)
    quick, exact = quick_metrics(torch.from_numpy(x).float()), collapse_metrics(x.astype(np.float32))
    assert quick["relative_std"] == pytest.approx(exact.relative_std)
    assert quick["mean_cosine"] == pytest.approx(exact.mean_cosine)

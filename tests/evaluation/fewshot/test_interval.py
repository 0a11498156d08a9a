from __future__ import annotations

import numpy as np
import pytest

from scarce_cli.evaluation.fewshot.interval import (
    resampled_weights,
    score_interval,
    standard_error,
    widening,
)
from scarce_cli.evaluation.fewshot.leave_out import LeftOut


def test_standard_error_is_hanley_and_mcneils() -> None:
    """Their assumption, drawn: negatives exponential, positives with a mean of A / (1 - A)."""
    rng = np.random.default_rng(0)
    positive, negative = rng.exponential(4.0, (20_000, 8, 1)), rng.exponential(1.0, (20_000, 1, 12))
    assert standard_error(0.8, 8, 12) == pytest.approx((positive > negative).mean(axis=(1, 2)).std(), rel=0.02)


@pytest.mark.parametrize("auc", [0.0, 0.02, 0.5, 0.83, 0.999, 1.0])
@pytest.mark.parametrize("wider", [1.0, 1.7])
def test_interval_holds_the_values_that_are_not_rejected(auc: float, wider: float) -> None:
    values = np.linspace(1e-6, 1 - 1e-6, 20_001)
    errors = np.array([standard_error(value, 9, 14) for value in values.tolist()])
    kept = values[np.abs(values - auc) <= 1.959964 * wider * errors]
    low, high = score_interval(auc, 9, 14, wider)
    assert low == pytest.approx(kept.min(), abs=1e-4)
    assert high == pytest.approx(kept.max(), abs=1e-4)
    assert 0 <= low <= auc <= high <= 1


def test_widening_is_the_bootstraps_spread_over_the_formulas() -> None:
    rng = np.random.default_rng(1)
    scores_A, scores_B = rng.exponential(3.0, 40), rng.exponential(1.0, 40)
    wins_AB = (scores_A[:, None] > scores_B).astype(float)
    weights = resampled_weights(40, 2000, rng), resampled_weights(40, 2000, rng)
    all_pairs = LeftOut(wins_AB, np.ones((40, 40)), np.zeros(80))
    assert widening(all_pairs, all_pairs.aucs(*weights)) == pytest.approx(1.0, abs=0.15)
    near = np.abs(np.arange(40)[:, None] - np.arange(40)) < 2  # few partners for each: pairs spread of themselves
    few_pairs = LeftOut(wins_AB * near, near.astype(float), np.zeros(80))
    assert widening(few_pairs, few_pairs.aucs(*weights)) > 1.2


def test_nothing_is_seen_to_spread_where_all_pairs_are_won() -> None:
    rng = np.random.default_rng(2)
    perfect = LeftOut(np.ones((6, 6)), np.ones((6, 6)), np.zeros(12))
    weights = resampled_weights(6, 100, rng), resampled_weights(6, 100, rng)
    assert np.unique(weights[0].sum(axis=1)).tolist() == [6]
    assert widening(perfect, perfect.aucs(*weights)) == 1.0

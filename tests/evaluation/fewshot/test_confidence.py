"""Intervals of shares and differences: scipy's textbook intervals as oracles."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, norm, t, ttest_1samp, ttest_ind

from scarce_cli.evaluation.fewshot.confidence import Part, difference_interval, share_interval

STEADY = settings(max_examples=60, deadline=None, derandomize=True)


@pytest.mark.parametrize(("hits", "cases"), [(0, 8), (3, 10), (23, 23), (40, 41)])
def test_a_share_of_yes_or_no_cases_has_wilson_s_interval(hits: int, cases: int) -> None:
    """At the level that gives the normal distribution the quantile of Student's t."""
    p = hits / cases
    level = 2 * norm.cdf(t.ppf(0.975, cases - 1)) - 1
    expected = binomtest(hits, cases).proportion_ci(confidence_level=level, method="wilson")
    for parts in [[Part(p * (1 - p) / cases, cases)]] + ([[]] if p in (0, 1) else []):
        assert share_interval(p, parts, cases) == pytest.approx(expected, abs=1e-9)


def test_differences_have_student_s_interval() -> None:
    rng = np.random.default_rng(0)
    one, other = rng.normal(0.1, 0.02, 7), rng.normal(0, 0.1, 12)
    parts = [Part(float(x.var(ddof=1)) / len(x), len(x)) for x in (one, other)]
    alone = difference_interval(float(one.mean()), parts[:1], 99)
    assert alone == pytest.approx(ttest_1samp(one, 0).confidence_interval(), abs=1e-12)
    welch = ttest_ind(one, other, equal_var=False).confidence_interval()  # degrees of freedom by Satterthwaite
    assert difference_interval(float(one.mean() - other.mean()), parts, 99) == pytest.approx(welch, abs=1e-12)


@STEADY
@given(st.floats(0, 1), st.floats(0, 0.2), st.floats(1.5, 500), st.floats(1.5, 500))
def test_an_interval_of_a_share_stays_in_range_and_holds_the_share(
    share: float, variance: float, number: float, patients: float
) -> None:
    low, high = share_interval(share, [Part(variance, number), Part(variance / 2, 9)], patients)
    assert 0 <= low <= share + 1e-12
    assert share - 1e-12 <= high <= 1
    assert share_interval(1 - share, [Part(variance, number), Part(variance / 2, 9)], patients) == pytest.approx(
        (1 - high, 1 - low), abs=1e-9
    )


def test_fewer_patients_give_a_wider_interval_also_where_nothing_varies() -> None:
    lows = [share_interval(1.0, [], n)[0] for n in (2, 3, 10, 30, 100)]
    assert lows == sorted(lows)
    assert lows[1] < 0.2  # three of three right
    assert 0.95 < lows[-1] < 0.97
    assert share_interval(0.7, [Part(0.0, 10)], 1) == (0, 1)
    assert difference_interval(0.7, [Part(0.0, 10)], 1) == (-1, 1)
    assert difference_interval(0.9, [Part(0.3, 3)], 3) == (-1, 1)
    assert difference_interval(0.0, [], 30) == (0, 0)

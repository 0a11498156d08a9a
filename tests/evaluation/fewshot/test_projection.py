from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import least_squares

from scarce_cli.evaluation.fewshot.films import Floats
from scarce_cli.evaluation.fewshot.interval import score_interval
from scarce_cli.evaluation.fewshot.projection import Curve, PowerLaw, Today, fit_power_law, more_cases, project

SIZES = np.array([2.0, 3.0, 5.0, 8.0, 12.0, 18.0, 22.0])


def a_curve(law: PowerLaw, noise: float = 0.0, sizes: Floats = SIZES) -> Curve:
    rng = np.random.default_rng(0)
    resampled = law(sizes) + noise * rng.normal(size=(200, 1)) + noise / 5 * rng.normal(size=(200, len(sizes)))
    return Curve(sizes, law(sizes), np.full(len(sizes), 0.05), resampled)


@pytest.mark.parametrize("law", [PowerLaw(0.9, 0.5, 0.7), PowerLaw(0.8, 0.6, 1.5), PowerLaw(1.0, 0.45, 0.2)])
def test_curves_of_known_truth_are_found_again(law: PowerLaw) -> None:
    found = fit_power_law(SIZES, law(SIZES), np.ones(len(SIZES)))
    np.testing.assert_allclose(found(SIZES), law(SIZES), atol=1e-4)
    assert found(np.array([100.0]))[0] == pytest.approx(law(np.array([100.0]))[0], abs=3e-3)


def test_no_start_of_a_least_squares_solver_ends_lower() -> None:
    rng = np.random.default_rng(1)
    for _ in range(15):
        aucs = np.clip(PowerLaw(*rng.uniform([0.6, 0, 0.1], [1, 0.6, 1.5]))(SIZES) + 0.03 * rng.normal(size=7), 0, 1)
        spreads = rng.uniform(0.02, 0.1, 7)
        law = fit_power_law(SIZES, aucs, spreads)

        def off(v: Floats, aucs: Floats = aucs, spreads: Floats = spreads) -> Floats:
            return (v[0] - v[1] * SIZES ** -v[2] - aucs) / spreads

        starts = [(0.9, 0.3, 0.3), (0.9, 0.3, 1.0), (0.6, 0.01, 1.9)]
        ends = [least_squares(off, start, bounds=([-1, 0, 0.05], [1, 5, 2])).cost for start in starts]
        assert 0.5 * (off(np.array([law.a, law.b, law.c])) ** 2).sum() <= min(ends) * 1.005 + 1e-9
        assert law.a <= 1
        assert law.b >= 0


def test_with_more_cases_the_interval_is_above_the_target_and_with_one_less_it_is_not() -> None:
    law, today = PowerLaw(0.93, 0.5, 0.6), Today(cases=23, low=0.65, widening=1.3)
    more = more_cases(law, today, 0.8, most=230)
    assert more is not None
    low = [score_interval(float(law(np.array([n]))[0]), n, n, 1.3)[0] for n in (23 + more - 1, 23 + more)]
    assert low[0] <= 0.8 < low[1]
    assert more_cases(law, today, 0.8, most=more - 1) is None


def test_number_and_its_interval_in_words() -> None:
    projection, note = project(a_curve(PowerLaw(0.93, 0.5, 0.6), 0.03), Today(23, 0.65, 1.2), 0.8)
    assert projection is not None
    assert projection.low is not None
    assert projection.more_cases is not None
    assert projection.low < projection.more_cases < (projection.high or projection.most)
    end = f"{projection.high:,}" if projection.high else f"more than {projection.most}"
    assert projection.text == (
        f"about {projection.more_cases} more cases ({projection.low} to {end}) until the interval is above 0.80, "
        "if the curve goes on as it began"
    )
    assert (projection.most, note) == (230, "")


def test_already_above() -> None:
    projection, _ = project(a_curve(PowerLaw(0.97, 0.2, 1.0)), Today(23, 0.81, 1.0), 0.8)
    assert projection is not None
    assert (projection.more_cases, projection.low, projection.high) == (0, 0, 0)
    assert projection.text == "the interval is above 0.80 already"


def test_a_curve_that_ends_below_the_target_says_so() -> None:
    for law in (PowerLaw(0.74, 0.3, 0.8), PowerLaw(0.5, 0.0, 1.0)):
        projection, _ = project(a_curve(law), Today(23, 0.5, 1.0), 0.8)
        assert projection is not None
        assert (projection.more_cases, projection.low, projection.high) == (None, None, None)
        assert f"it ends at {law.a:.2f}" in projection.text


def test_too_far_and_too_few_sizes() -> None:
    projection, _ = project(a_curve(PowerLaw(0.81, 0.3, 0.8)), Today(23, 0.5, 1.0), 0.8)
    assert projection is not None
    assert projection.more_cases is None
    assert projection.text.startswith("more than 230 more cases until")
    nothing, note = project(a_curve(PowerLaw(0.9, 0.5, 0.7), sizes=SIZES[:3]), Today(5, 0.5, 1.0), 0.8)
    assert nothing is None
    assert note == "5 cases give a learning curve of 3 sizes: too few to go on from"

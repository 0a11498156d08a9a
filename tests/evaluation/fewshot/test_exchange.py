"""Exchange within patients: all exchanges done by hand as oracle; p uniform when nothing tells the two apart."""

from __future__ import annotations

from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, kstest, rankdata
from sklearn.metrics import roc_auc_score

from scarce_cli.evaluation.fewshot.exchange import Shares, exchange_p, holm, joint, p_value, patient_shares

STEADY = settings(max_examples=60, deadline=None, derandomize=True)


def data(seed: int, patients: int = 6, films: int = 16) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Scores of two initialisations, one of them with many ties, on other scales; several films a patient."""
    rng = np.random.default_rng(seed)
    a, b = rng.integers(0, 6, (2, 2, films)).astype(float), 100 * rng.standard_normal((3, 2, films)).round(1)
    labels = rng.permutation(np.arange(films) < films // 3)
    return a, b, labels, rng.permutation(np.arange(films) % patients) + 40


def auc(labels: np.ndarray, scores: np.ndarray) -> float:
    pairs = scores[labels][:, None] - scores[~labels]
    return float((pairs > 0).mean() + (pairs == 0).mean() / 2)


def by_hand(a: np.ndarray, b: np.ndarray, labels: np.ndarray, exchanged: np.ndarray) -> float:
    """Difference of mean AUCs after the mid-ranks of the films of some patients are exchanged."""
    found = []
    for k in range(a.shape[1]):
        for one, other in product(a[:, k], b[:, k]):
            x, y = rankdata(one), rankdata(other)
            new, old = np.where(exchanged, y, x), np.where(exchanged, x, y)
            found.append(auc(labels, new) - auc(labels, old))
    return float(np.mean(found))


def test_shares_give_the_difference_of_every_exchange() -> None:
    a, b, labels, patients = data(0)
    shares = patient_shares(a, b, labels, patients)
    observed = np.mean([roc_auc_score(labels, row) for row in a.reshape(-1, 16)])
    observed -= np.mean([roc_auc_score(labels, row) for row in b.reshape(-1, 16)])
    assert shares.difference == pytest.approx(observed, abs=1e-14)
    np.testing.assert_array_equal(shares.patients, np.arange(40, 46))
    large = []
    for signs in product((1, -1), repeat=6):
        expected = by_hand(a, b, labels, np.isin(patients, shares.patients[np.array(signs) < 0]))
        assert np.array(signs) @ shares.shares == pytest.approx(expected, abs=1e-14)
        large.append(abs(expected) >= abs(observed) - 1e-12)
    assert p_value(shares) == np.mean(large)
    p, again = exchange_p(a, b, labels, patients)
    assert p == p_value(shares)
    np.testing.assert_array_equal(again.shares, shares.shares)


@STEADY
@given(st.integers(0, 2**30))
def test_order_counts_scale_does_not_and_the_two_can_be_swapped(seed: int) -> None:
    a, b, labels, patients = data(seed, patients=14, films=30)
    shares, swapped = patient_shares(a, b, labels, patients), patient_shares(b, a, labels, patients)
    np.testing.assert_allclose(swapped.shares, -shares.shares, atol=1e-15)
    assert p_value(swapped, 99) == p_value(shares, 99)
    scaled = patient_shares(np.exp(a), b / 1e6 - 5, labels, patients)
    np.testing.assert_array_equal(scaled.shares, shares.shares)
    turned = patient_shares(a, b, ~labels, patients)  # AUCs become 1 - AUC
    np.testing.assert_allclose(turned.shares, -shares.shares, atol=1e-15)
    order = np.random.default_rng(seed).permutation(30)
    moved = patient_shares(a[:, :, order], b[:, :, order], labels[order], patients[order])
    np.testing.assert_allclose(moved.shares, shares.shares, atol=1e-15)
    copies = np.tile(np.arange(30), 3)
    copied = patient_shares(a[:, :, copies], b[:, :, copies], labels[copies], patients[copies])
    np.testing.assert_allclose(copied.shares, shares.shares, atol=1e-14)  # no new evidence
    assert patient_shares(a, a, labels, patients).shares == pytest.approx(0, abs=1e-15)


def test_random_exchanges_come_near_to_all_of_them() -> None:
    rng = np.random.default_rng(3)
    shares = Shares(np.arange(13), rng.normal(0.03, 0.05, 13))
    every = np.array([abs(np.dot(s, shares.shares)) for s in product((1, -1), repeat=13)])
    exact = (every >= abs(shares.difference) - 1e-12).mean()
    assert 0.1 < exact < 0.5
    assert p_value(shares, 9999) == pytest.approx(exact, abs=4 * (exact * (1 - exact) / 9999) ** 0.5)
    assert p_value(shares, 9999, seed=1) != p_value(shares, 9999, seed=0)
    assert p_value(shares, 9999) == p_value(shares, 9999)


def test_no_difference_has_p_one_and_no_p_is_zero() -> None:
    nothing = Shares(np.arange(40), np.zeros(40))
    assert p_value(nothing) == 1
    assert p_value(Shares(np.arange(40), np.full(40, 0.02)), 99) == 0.01
    assert p_value(Shares(np.arange(3), np.full(3, 0.3))) == 0.25  # 2 of 8: three patients can say no more
    # Patients without a share are not counted: with two others all exchanges are looked at.
    assert p_value(Shares(np.arange(40), np.r_[0.1, 0.2, np.zeros(38)])) == 0.5


def simulated(rng: np.random.Generator, gain: float) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Two correlated scores of 30 patients with 1 to 3 films that are alike; ``gain`` is what the first is better."""
    patients = np.repeat(np.arange(30), rng.integers(1, 4, 30))
    labels = patients < 12
    shared, own = rng.standard_normal(30)[patients], rng.standard_normal((2, 30))[:, patients]
    scores = shared + own + 0.5 * rng.standard_normal((2, 1, len(patients)))[:, 0] + labels
    draws = scores[:, None, None] + 0.3 * rng.standard_normal((2, 1, 2, len(patients)))
    return draws[0] + gain * labels, np.exp(draws[1]), labels, patients


def test_p_is_uniform_when_both_are_equally_good_and_small_when_not() -> None:
    rng = np.random.default_rng(0)
    ps = np.array([exchange_p(*simulated(rng, 0), permutations=199, seed=t)[0] for t in range(400)])
    assert kstest(ps, "uniform").pvalue > 0.01
    assert binomtest(int((ps <= 0.05).sum()), len(ps), 0.05).pvalue > 0.01
    better = np.array([exchange_p(*simulated(rng, 2), permutations=199, seed=t)[0] for t in range(60)])
    assert (better <= 0.05).mean() > 0.7


def test_a_patient_is_exchanged_in_all_findings_at_once() -> None:
    """Two findings on overlapping patients; by hand."""
    one, other = Shares(np.array([1, 4, 6]), np.array([0.1, -0.2, 0.3])), Shares(np.array([0, 4]), np.array([0.2, 0.1]))
    both = joint([one, other])
    np.testing.assert_array_equal(both.patients, [0, 1, 4, 6])
    np.testing.assert_allclose(both.shares, [0.1, 0.05, -0.05, 0.15], atol=1e-15)
    assert both.difference == pytest.approx((one.difference + other.difference) / 2)
    np.testing.assert_allclose(joint([one, one, one]).shares, one.shares, atol=1e-15)
    sums = [abs(np.dot(s, both.shares)) for s in product((1, -1), repeat=4)]
    assert p_value(both) == np.mean(np.array(sums) >= both.difference - 1e-12)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.5]) == [1, 1]
    assert holm([0.2]) == [0.2]
    assert holm([]) == []


@STEADY
@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_holm_is_bonferroni_in_every_subset(ps: list[float]) -> None:
    """Closed testing: a hypothesis is refused where every set of hypotheses with it is, by Bonferroni."""
    every = [c for size in range(1, len(ps) + 1) for c in combinations(range(len(ps)), size)]
    for number, adjusted in enumerate(holm(ps)):
        closed = max(min(1, len(c) * min(ps[i] for i in c)) for c in every if number in c)
        assert adjusted == pytest.approx(closed, abs=1e-15)

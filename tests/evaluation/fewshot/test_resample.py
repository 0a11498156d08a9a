"""Resamples and their intervals: scikit-learn on repeated films as oracle, coverage by simulation."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.metrics import average_precision_score, roc_auc_score

from scarce_cli.evaluation.fewshot import metrics
from scarce_cli.evaluation.fewshot.metrics import MEASURES, measures, ppv
from scarce_cli.evaluation.fewshot.resample import (
    Resampler,
    Sampled,
    difference,
    estimate,
    mean_difference,
    mean_estimate,
    sample,
)
from scarce_cli.evaluation.fewshot.result import Estimate


def resampler(patients: np.ndarray, draws: int, resamples: int = 200, seed: int = 0) -> Resampler:
    return Resampler.make(patients, np.arange(len(patients)), draws, resamples, seed)


def scores_of(
    rng: np.random.Generator, labels: np.ndarray, shape: tuple[int, int], strength: float = 1.0
) -> np.ndarray:
    """(S, K, N): classifiers of differing strength that agree in part."""
    shared, own = rng.standard_normal(len(labels)), rng.standard_normal((*shape, len(labels)))
    return rng.normal(strength, 0.3, (*shape, 1)) * labels + 0.8 * shared + 0.6 * own


def width(found: Estimate) -> float:
    return found.high - found.low


def test_tested_patients_are_drawn_not_films_and_alike_for_every_task() -> None:
    patients = np.array([7, 7, 7, 2, 2, 9, 4, 30])
    made = Resampler.make(patients, np.array([0, 2, 3, 4, 5, 7]), draws=3, resamples=500, seed=0)
    one, other = made.weights(np.array([0, 2, 3, 5, 7]), 0, 500), made.weights(np.array([4, 0]), 100, 500)
    assert (one[:, 0] == one[:, 1]).all()
    assert (one[:, [0, 2, 3, 4]].sum(axis=1) == 4).all()  # patients 7, 2, 9 and 30; 4 is not tested
    np.testing.assert_array_equal(other, one[100:, [2, 0]])
    assert one[:, 3].mean() == pytest.approx(1, abs=0.12)
    assert np.corrcoef(one[:, 2], one[:, 3])[0, 1] < 0
    with pytest.raises(AssertionError):
        made.weights(np.array([6]), 0, 1)


def test_what_is_drawn_depends_on_the_seed_and_on_nothing_else() -> None:
    patients = np.arange(20)
    made, again, more = resampler(patients, 5), resampler(patients, 5), resampler(patients, 9)
    np.testing.assert_array_equal(made.counts, again.counts)
    np.testing.assert_array_equal(made.counts, more.counts)
    np.testing.assert_array_equal(made.chosen_weights(4), more.chosen_weights(4))
    assert (made.counts != resampler(patients, 5, seed=1).counts).any()
    assert (made.chosen.sum(axis=1) == 5).all()
    assert (made.chosen_weights(3).sum(axis=1) == 3).all()
    assert (made.chosen != made.chosen_weights(5)).any()


def test_every_resample_is_the_mean_over_its_draws_and_weights_of_its_patients() -> None:
    rng = np.random.default_rng(0)
    patients = rng.integers(0, 12, 30)
    films = np.arange(3, 30)
    labels, scores = rng.random(27) < 0.5, rng.integers(0, 5, (2, 3, 27)).astype(float)
    made = resampler(patients, draws=3, resamples=6)
    found = sample(scores, labels, films, made, prevalence=0.1)
    for b in range(6):
        times = made.weights(films, b, b + 1)[0]
        y = np.repeat(labels, times)
        kept = [(k, s) for k, n in enumerate(made.chosen[b]) for s, m in enumerate(made.chosen_weights(2)[b])
                for _ in range(n * m)]  # fmt: skip
        assert len(kept) == 6
        rows = [np.repeat(scores[s, k], times) for k, s in kept]
        assert found.resampled["auc"][b] == pytest.approx(np.mean([roc_auc_score(y, x) for x in rows]), abs=1e-12)
        precise = np.mean([average_precision_score(y, x) for x in rows])
        assert found.resampled["average_precision"][b] == pytest.approx(precise, abs=1e-12)
        useful = np.mean([ppv(measures(x, y).sensitivity_95, 0.95, 0.1) for x in rows])
        assert found.resampled["ppv_95"][b] == pytest.approx(useful, abs=1e-12)
    for name in MEASURES:
        expected = [[getattr(measures(x, labels), name)[0] for x in row] for row in scores]
        np.testing.assert_array_equal(found.values[name], expected)


def test_spread_is_over_draws_after_the_mean_over_weights() -> None:
    made = Sampled({"auc": np.array([[0.4, 0.6, 0.8], [0.6, 0.8, 1.0]])}, {"auc": np.zeros(5)}, np.arange(9))
    found = estimate(made, "auc")
    assert (found.mean, found.sd) == pytest.approx((0.7, 0.2))
    one = replace(made, values={"auc": np.array([[0.4]])})
    assert (estimate(one, "auc").mean, estimate(one, "auc").sd) == (0.4, 0)


def test_resamples_without_one_class_are_counted_and_left_out() -> None:
    labels = np.arange(30) < 1
    found = sample(np.arange(30.0, 0, -1)[None, None], labels, np.arange(30), resampler(np.arange(30), 1, 400))
    assert found.left_out == pytest.approx(np.exp(-1), abs=0.06)
    assert np.isfinite(found.resampled["auc"]).mean() == 1 - found.left_out
    one = estimate(found, "auc")
    assert (one.mean, one.low, one.high) == (1, 0, 1)  # a single patient tells nothing


def test_three_patients_that_are_all_found_prove_little() -> None:
    """Every resample has an AUC of 1: percentiles would leave no doubt."""
    labels = np.arange(60) < 3
    found = sample(np.tile(labels * 9.0, (1, 4, 1)), labels, np.arange(60), resampler(np.arange(60), 4))
    assert np.nanmin(found.resampled["auc"]) == 1
    one = estimate(found, "auc")
    assert one.mean == one.high == 1
    assert 0.05 < one.low < 0.2


def test_copies_of_a_patient_s_films_are_no_new_evidence() -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(40) % 2 == 0
    scores = scores_of(rng, labels, (1, 5))
    films = np.tile(np.arange(40), 9)
    once = sample(scores, labels, np.arange(40), resampler(np.arange(40), 5))
    copied = sample(scores[:, :, films], labels[films], np.arange(360), resampler(films, 5))
    naive = sample(scores[:, :, films], labels[films], np.arange(360), resampler(np.arange(360), 5))
    for name in ("auc", "average_precision", "sensitivity_90"):
        alone, again = estimate(once, name), estimate(copied, name)
        assert [again.low, again.high] == pytest.approx([alone.low, alone.high], abs=1e-12)
    assert width(estimate(naive, "auc")) < 0.8 * width(estimate(once, "auc"))


def test_differences_are_paired() -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(120) % 3 == 0
    made = resampler(np.arange(120), 5)
    scores = scores_of(rng, labels, (1, 5))
    one, better = (sample(x, labels, np.arange(120), made) for x in (scores, scores + 0.05 * labels))
    gain, back = difference(better, one, "auc"), difference(one, better, "auc")
    assert gain.low > 0
    assert width(gain) < 0.2 * width(estimate(one, "auc"))
    assert [back.mean, back.sd, back.low, back.high] == pytest.approx([-gain.mean, gain.sd, -gain.high, -gain.low])
    nothing = difference(one, one, "auc")
    assert (nothing.mean, nothing.sd, nothing.low, nothing.high) == (0, 0, 0, 0)
    several = sample(scores_of(rng, labels, (4, 5), 0.5), labels, np.arange(120), made)
    more = difference(one, several, "auc")
    assert more.mean == pytest.approx(estimate(one, "auc").mean - estimate(several, "auc").mean)
    assert more.low < more.mean < more.high


def test_random_weights_widen_what_they_differ_in() -> None:
    rng = np.random.default_rng(0)
    labels, made = np.arange(200) % 2 == 0, resampler(np.arange(200), 4)
    base = scores_of(rng, labels, (1, 4))
    alike = sample(np.tile(base, (3, 1, 1)), labels, np.arange(200), made)
    unlike = sample(base + np.array([-0.7, 0, 0.7])[:, None, None] * labels, labels, np.arange(200), made)
    assert width(estimate(unlike, "auc")) > 1.3 * width(estimate(alike, "auc"))


def test_a_mean_over_findings_is_taken_in_each_resample() -> None:
    rng = np.random.default_rng(0)
    films = np.arange(300)
    made = resampler(films, 12)
    tasks = [films[:120], films[100:220], films[200:]]
    ours = [sample(scores_of(rng, f % 3 == 0, (1, 12)), f % 3 == 0, f, made) for f in tasks]
    theirs = [sample(scores_of(rng, f % 3 == 0, (2, 12), 0.2), f % 3 == 0, f, made) for f in tasks]
    one, alone = mean_estimate(ours, "auc"), [estimate(s, "auc") for s in ours]
    assert one.mean == pytest.approx(np.mean([e.mean for e in alone]))
    assert one.sd == pytest.approx(np.mean([s.values["auc"][0] for s in ours], axis=0).std(ddof=1))
    assert width(one) < 0.8 * np.mean([width(e) for e in alone])
    same = mean_estimate([ours[0]] * 3, "auc")  # thrice the same finding is no more evidence
    assert [same.low, same.high] == pytest.approx([alone[0].low, alone[0].high], abs=1e-12)
    assert mean_estimate(ours[:1], "auc") == alone[0]
    gain = mean_difference(ours, theirs, "auc")
    assert gain.mean == pytest.approx(one.mean - mean_estimate(theirs, "auc").mean)
    assert mean_difference(ours[:1], theirs[:1], "auc") == difference(ours[0], theirs[0], "auc")


def test_a_mean_lacks_the_resamples_that_one_of_its_findings_lacks() -> None:
    made = Sampled({"auc": np.array([[0.7]])}, {"auc": np.array([0.6, 0.8, 0.7, 0.5])}, np.arange(9))
    holes = replace(made, resampled={"auc": np.array([0.6, 0.8, np.nan, np.nan])})
    kept = replace(made, resampled={"auc": np.array([0.6, 0.8])})
    assert mean_estimate([made, holes], "auc").low == pytest.approx(mean_estimate([kept, kept], "auc").low, abs=1e-12)


def test_memory_is_bounded_and_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    labels, made = np.arange(20) < 7, resampler(np.arange(20), 3, 50)
    scores = scores_of(rng, labels, (2, 3))
    whole = sample(scores, labels, np.arange(20), made)
    monkeypatch.setattr(metrics, "_HELD", 7 * (4 * 20 + 64 * 7 + 1))
    parts = sample(scores, labels, np.arange(20), made)
    for name in MEASURES:
        np.testing.assert_array_equal(parts.resampled[name], whole.resampled[name])


def test_intervals_cover_the_truth_with_five_patients() -> None:
    """Truth: mean AUC over the strengths of draws; noise of a difference has variance 2. Of 120 intervals that hold
    in 95 % of cases, fewer than 108 cover once in a hundred times; percentiles do in about 100."""
    drawn = np.random.default_rng(1).normal(0, 0.3, 100_000)
    truths = [norm.cdf((s + drawn) / 2**0.5).mean() for s in (2.0, 1.7)]
    labels, films = np.arange(65) < 5, np.arange(65)
    inside, percentiles = np.zeros(3), 0
    for trial in range(120):
        rng, made = np.random.default_rng(trial), resampler(films, 5, 100, seed=trial)
        both = [sample(scores_of(rng, labels, (1, 5), s), labels, films, made) for s in (2.0, 1.7)]
        found = [*(estimate(one, "auc") for one in both), difference(*both, "auc")]
        truth = [*truths, truths[0] - truths[1]]
        inside += [e.low <= t <= e.high for e, t in zip(found, truth, strict=True)]
        low, high = np.nanpercentile(both[0].resampled["auc"], [2.5, 97.5])
        percentiles += low <= truths[0] <= high
    assert (inside >= 108).all()
    assert inside.sum() < 360
    assert percentiles < 108

"""Resamples of test patients and draws, alike for everything that is to be compared.

F films, N test films of a task, P tested patients, K draws, S sets of random weights, B resamples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scarce_cli.evaluation.fewshot.confidence import Part, difference_interval, share_interval
from scarce_cli.evaluation.fewshot.films import Bools, Floats, Ints
from scarce_cli.evaluation.fewshot.metrics import MEASURES, Ranking, ppv
from scarce_cli.evaluation.fewshot.result import Estimate

_ROUNDING = 1e-24  # a variance this small is that of the last binary digit
_PATIENTS, _DRAWS, _WEIGHTS = range(3)  # streams of random numbers: more of one moves no other


@dataclass(frozen=True)
class Resampler:
    """Which patients, draws and random weights are in each of B resamples: the same for every finding, number of
    shots and initialisation, so that differences, and means over findings, are paired."""

    rows: Ints  # (F,) of `counts`; -1 where no film of the patient is tested
    counts: NDArray[np.uint8]  # (P, B) how often each patient is in each resample
    chosen: NDArray[np.uint8]  # (B, K) how often each draw is
    seed: int

    @classmethod
    def make(cls, patients: Ints, tested: Ints, draws: int, resamples: int, seed: int) -> Resampler:
        """Draw patients, not films, with replacement: films of one patient are no independent evidence.

        Args:
            patients: (F,) number of each film's patient.
            tested: numbers of all films that any task tests, at least one.
            draws: support sets of every task and number of shots.
            resamples: B.
            seed: of all that is drawn.
        """
        present = np.unique(patients[tested])
        place = np.searchsorted(present, patients).clip(max=len(present) - 1)
        return cls(
            rows=np.where(present[place] == patients, place, -1),
            counts=_drawn(len(present), resamples, (seed, _PATIENTS)),
            chosen=_drawn(draws, resamples, (seed, _DRAWS)).T,
            seed=seed,
        )

    @property
    def resamples(self) -> int:
        """B."""
        return self.counts.shape[1]

    def weights(self, films: Ints, start: int, stop: int) -> NDArray[np.uint8]:
        """(stop - start, N): how often each film, by its patient, is in these resamples. All must be tested films."""
        rows = self.rows[films]
        assert (rows >= 0).all(), "a film that was not announced as tested"
        return self.counts[rows, start:stop].T

    def chosen_weights(self, count: int) -> NDArray[np.uint8]:
        """(B, S): how often each of S random weights of an initialisation is in each resample."""
        return _drawn(count, self.resamples, (self.seed, _WEIGHTS, count)).T


def _drawn(things: int, resamples: int, seed: tuple[int, ...]) -> NDArray[np.uint8]:
    """(things, resamples): how often each is drawn when as many are drawn with replacement.

    One byte will do: the chance of more than 255 of one thing is below 1e-500.
    """
    rng = np.random.default_rng(seed)
    counts = np.empty((things, resamples), np.uint8)
    for column in range(resamples):
        counts[:, column] = np.bincount(rng.integers(things, size=things), minlength=things)
    return counts


@dataclass(frozen=True)
class Sampled:
    """One task, number of shots and initialisation: every measure as it is, and in every resample.

    Measures: those of `metrics.MEASURES`, and with a prevalence ``ppv_90`` and ``ppv_95``.
    """

    values: Mapping[str, Floats]  # (S, K)
    resampled: Mapping[str, Floats]  # (B,) mean over draws and weights; NaN where the resample lacks a class
    rarer: Ints  # patients, as rows of the resampler, of the class that fewer test patients have

    @property
    def left_out(self) -> float:
        """Share of resamples that lack a class, 0 to 1: nothing can be measured in them."""
        return float(np.isnan(self.resampled[MEASURES[0]]).mean())


def sample(
    scores_SKN: Floats, labels_N: Bools, films_N: Ints, resampler: Resampler, prevalence: float | None = None
) -> Sampled:
    """Measure a task as it is and in every resample.

    Args:
        scores_SKN: finite, higher for the finding.
        labels_N: the test film has the finding; both classes must be there.
        films_N: numbers of the test films.
        resampler: of at least these films and of K draws.
        prevalence: adds positive predictive values at a specificity of 90 and 95 %.
    """
    draws = scores_SKN.shape[1]
    assert draws == resampler.chosen.shape[1], "as many draws as are resampled"
    rankings = [[Ranking(scores, labels_N) for scores in scores_KN] for scores_KN in scores_SKN]
    step = rankings[0][0].step()
    whole = _each(rankings, np.ones((len(labels_N), 1), np.float32), prevalence)
    values = {name: found[:, :, 0] for name, found in whole.items()}
    share_BK = resampler.chosen / draws
    share_BS = resampler.chosen_weights(len(scores_SKN)) / len(scores_SKN)
    parts = []
    for start in range(0, resampler.resamples, step):
        part = slice(start, min(start + step, resampler.resamples))
        weights_NB = np.ascontiguousarray(resampler.weights(films_N, part.start, part.stop).T, np.float32)
        found = _each(rankings, weights_NB, prevalence)
        parts.append({n: np.einsum("skb,bk,bs->b", v, share_BK[part], share_BS[part]) for n, v in found.items()})
    resampled = {name: np.concatenate([part[name] for part in parts]) for name in values}
    sides = [np.unique(resampler.rows[films_N[labels_N == has]]) for has in (True, False)]
    return Sampled(values, resampled, min(sides, key=len))


def _each(
    rankings: list[list[Ranking]], weights_NB: NDArray[np.float32], prevalence: float | None
) -> dict[str, Floats]:
    """Every measure of every ranking: (S, K, B)."""
    measured = [[ranking.measures(weights_NB) for ranking in row] for row in rankings]
    found = {name: np.array([[getattr(m, name) for m in row] for row in measured]) for name in MEASURES}
    if prevalence is not None:
        found["ppv_90"] = ppv(found["sensitivity_90"], 0.90, prevalence)
        found["ppv_95"] = ppv(found["sensitivity_95"], 0.95, prevalence)
    return found


def estimate(sampled: Sampled, measure: str) -> Estimate:
    """Mean over draws and weights of a measure, its spread over draws, and its 95 % interval (`share_interval`)."""
    return _estimate([sampled], [], measure)


def difference(ours: Sampled, theirs: Sampled, measure: str) -> Estimate:
    """Ours less theirs on the same test films, resamples and draws; numbers of random weights may differ."""
    return _estimate([ours], [theirs], measure)


def mean_estimate(findings: Sequence[Sampled], measure: str) -> Estimate:
    """The mean over findings, in each resample: all of one initialisation and number of shots."""
    return _estimate(findings, [], measure)


def mean_difference(ours: Sequence[Sampled], theirs: Sequence[Sampled], measure: str) -> Estimate:
    """The mean over findings of ours less theirs, findings in the same order."""
    assert len(ours) == len(theirs)
    return _estimate(ours, theirs, measure)


def _estimate(ours: Sequence[Sampled], theirs: Sequence[Sampled], measure: str) -> Estimate:
    """Patients are given the variance of the resamples that draws and random weights do not explain."""
    resampled_LB = np.array([one.resampled[measure] for one in ours])  # L findings
    sides = [np.mean([one.values[measure] for one in side], axis=0) for side in (ours, theirs) if side]
    draws = sides[0].mean(axis=0)
    if theirs:
        resampled_LB = resampled_LB - [one.resampled[measure] for one in theirs]
        draws = draws - sides[1].mean(axis=0)
    others = [_part(draws), *(_part(side.mean(axis=1)) for side in sides)]
    patients = _effective_patients(ours, resampled_LB)
    rest = _variance(resampled_LB.mean(axis=0)) - sum(p.variance * (1 - 1 / p.number) for p in others if p)
    parts = [part for part in others if part]
    if patients > 1:
        parts.append(Part(max(rest, 0.0) * patients / (patients - 1), patients))
    mean = float(draws.mean())
    low, high = (difference_interval if theirs else share_interval)(mean, parts, patients)
    return Estimate(mean, float(draws.std(ddof=1)) if len(draws) > 1 else 0.0, low, high)


def _part(values: Floats) -> Part | None:
    """How the mean of independent values varies; None for a single one, of which it cannot be told."""
    return Part(_variance(values) / len(values), len(values)) if len(values) > 1 else None


def _variance(values: Floats) -> float:
    """Unbiased, of those that are not NaN; 0 for fewer than two."""
    there = values[np.isfinite(values)]
    variance = float(there.var(ddof=1)) if len(there) > 1 else 0.0
    return variance if variance > _ROUNDING else 0.0


def _effective_patients(findings: Sequence[Sampled], resampled_LB: Floats) -> float:
    """Patients of the rarer class behind a mean over findings: Kish's (1965) effective number.

    A patient counts by the variance he brings in: through all findings that he has, and more through one that few
    have. For one finding it is its number of patients, for findings without a patient in common up to their sum.
    """
    variances = np.array([_variance(row) for row in resampled_LB])
    variances = variances if variances.any() else np.ones(len(findings))
    patient, index = np.unique(np.concatenate([one.rarer for one in findings]), return_inverse=True)
    pull = np.concatenate(
        [np.full(len(o.rarer), np.sqrt(v / len(o.rarer))) for o, v in zip(findings, variances, strict=True)]
    )
    own = np.bincount(index, pull, minlength=len(patient)) ** 2
    return float(own.sum() ** 2 / (own**2).sum())

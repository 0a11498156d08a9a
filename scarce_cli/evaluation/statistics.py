"""AUC, and intervals for means of AUCs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

Floats = NDArray[np.float64]
_CHUNK = 4_000_000  # weights held at once, 32 MB


@dataclass(frozen=True)
class Estimate:
    """A mean with its spread over draws and its 95 % interval."""

    mean: float
    sd: float  # over draws, unbiased
    low: float
    high: float


def auc(scores: Floats, labels: NDArray[np.bool_]) -> float:
    """Area under the ROC curve: the chance that a positive scores above a negative, ties half.

    Mann & Whitney, 1947. Needs both classes.
    """
    positives = int(labels.sum())
    negatives = len(labels) - positives
    ranks = rankdata(scores)
    return float((ranks[labels].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def weighted_aucs(scores: Floats, labels: NDArray[np.bool_], weights_BN: Floats) -> Floats:
    """AUC under each of B weightings of the N films: (B,). NaN where a class has no weight."""
    order = np.argsort(scores, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(scores[order]) > 0])
    weights = weights_BN[:, order]
    positive = np.add.reduceat(weights * labels[order], starts, axis=1)
    negative = np.add.reduceat(weights * ~labels[order], starts, axis=1)
    below = np.cumsum(negative, axis=1) - negative / 2
    with np.errstate(invalid="ignore", divide="ignore"):
        return (positive * below).sum(axis=1) / (positive.sum(axis=1) * negative.sum(axis=1))


def bootstrap_weights(patients: NDArray[np.int64], resamples: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """How often each film is in each resample when PATIENTS are drawn with replacement: (resamples, N)."""
    _, index = np.unique(patients, return_inverse=True)
    count = int(index.max()) + 1
    return rng.multinomial(count, np.full(count, 1 / count), size=resamples)[:, index].astype(np.float64)


def bootstrap_means(
    scores_KN: Floats, labels: NDArray[np.bool_], patients: NDArray[np.int64], *, resamples: int, seed: int
) -> Floats:
    """Mean AUC over K draws in each resample of draws and of test patients: (resamples,).

    Both are resampled together, so the spread holds what the choice of support films and what the
    choice of test patients contributes. The same seed resamples alike, so that two initialisations
    tested on the same films can be compared in pairs.
    """
    rng = np.random.default_rng(seed)
    draws = len(scores_KN)
    chosen = rng.integers(draws, size=(resamples, draws))
    means = np.empty(resamples)
    step = max(1, _CHUNK // len(labels))
    for start in range(0, resamples, step):
        stop = min(start + step, resamples)
        weights = bootstrap_weights(patients, stop - start, rng)
        aucs = np.stack([weighted_aucs(scores, labels, weights) for scores in scores_KN])
        rows = np.arange(stop - start)[:, None]
        means[start:stop] = aucs.T[rows, chosen[start:stop]].mean(axis=1)
    return means


def summarize(values: Floats, resampled: Floats) -> Estimate:
    """Mean and spread of ``values`` (one per draw) with the percentile interval of ``resampled`` means."""
    finite = resampled[np.isfinite(resampled)]
    low, high = np.percentile(finite, [2.5, 97.5]) if len(finite) else (np.nan, np.nan)
    sd = float(values.std(ddof=1)) if len(values) > 1 else 0.0
    return Estimate(float(values.mean()), sd, float(low), float(high))

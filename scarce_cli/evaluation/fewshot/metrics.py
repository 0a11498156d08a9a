"""What scores are worth on test films: AUC, average precision, sensitivity at a high specificity.

N films, B weightings of them (how often each film is in a resample), G distinct scores that some positive film has.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from scarce_cli.evaluation.fewshot.films import Bools, Floats, Ints

Weights = NDArray[Any]

_HELD = 12_000_000  # bytes worked on at once
_ROUNDING = 1e-9  # of the negatives' weight: 0.9 x 30 is not 27 in binary


@dataclass(frozen=True)
class Measured:
    """(B,) arrays, 0 to 1; NaN where a class has no weight."""

    auc: Floats
    average_precision: Floats
    sensitivity_90: Floats
    sensitivity_95: Floats


MEASURES = tuple(field.name for field in fields(Measured))


class Ranking:
    """Films in the order of their scores, from the highest, sorted once for all weightings.

    Between two scores of positive films the order of negative films changes no measure, so their weights are added
    up first: G steps are left where N films were.
    """

    def __init__(self, scores_N: Floats, labels_N: Bools) -> None:
        """``scores_N``: finite, higher for the finding. ``labels_N``: the film has it; at least one does."""
        scores, labels = -np.asarray(scores_N, np.float64), np.asarray(labels_N, bool)
        levels, level = np.unique(scores[labels], return_inverse=True)
        others = scores[~labels]
        # 2 g: before the g-th level; 2 g + 1: tied with it.
        place = np.searchsorted(levels, others, "left") + np.searchsorted(levels, others, "right")
        self._positive = _adder(level, np.flatnonzero(labels), len(levels), len(labels))
        self._negative = _adder(place, np.flatnonzero(~labels), 2 * len(levels) + 1, len(labels))

    def step(self) -> int:
        """Weightings that `measures` can take at once within about 12 MB, at least 1."""
        levels, films = self._positive.shape
        return max(1, _HELD // (4 * films + 64 * levels + 1))

    def measures(self, weights_NB: Weights) -> Measured:
        """All measures under B weightings: float64, at least 0, or counts in float32 that sum to less than 2^24."""
        positive = _rows(self._positive @ weights_NB)  # (B, G)
        edges = np.cumsum(_rows(self._negative @ weights_NB), axis=1)  # (B, 2 G + 1)
        before, reached, negatives = edges[:, :-1:2], edges[:, 1::2], edges[:, -1]
        hits = np.cumsum(positive, axis=1)
        positives = positive.sum(axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            beaten = (positive * (negatives[:, None] - (before + reached) / 2)).sum(axis=1)
            precise = np.where(positive > 0, positive * hits / (hits + reached), 0).sum(axis=1)
            found = {
                "auc": beaten / (positives * negatives),
                "average_precision": precise / positives,
                "sensitivity_90": _hits(hits, reached, negatives, 0.90) / positives,
                "sensitivity_95": _hits(hits, reached, negatives, 0.95) / positives,
            }
        known = (positives > 0) & (negatives > 0)
        return Measured(**{name: np.where(known, values, np.nan) for name, values in found.items()})


def _adder(row: Ints, film: Ints, rows: int, films: int) -> sparse.csr_array:
    """(rows, films) matrix that adds up the weights of the films of each row.

    In single precision, so that counts (exact in it) stay as narrow as they are; weights in double stay double.
    """
    starts = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=rows))])
    order = film[np.argsort(row, kind="stable")]
    return sparse.csr_array((np.ones(len(film), np.float32), order, starts), shape=(rows, films))


def _rows(sums: Weights) -> Floats:
    """(B, G) of (G, B): sums along a row are quick."""
    return np.ascontiguousarray(sums.T, np.float64)


def _hits(hits_BG: Floats, reached_BG: Floats, negatives_B: Floats, specificity: float) -> Floats:
    """Largest weight of positives above a threshold whose specificity is at least that: (B,)."""
    allowed = (1 - specificity + _ROUNDING) * negatives_B
    return np.where(reached_BG <= allowed[:, None], hits_BG, 0).max(axis=1, initial=0)


def measures(scores_N: Floats, labels_N: Bools, weights_BN: Weights | None = None) -> Measured:
    """How well scores tell films with a finding from films without, under each of B weightings (none: B = 1).

    Tied scores are one threshold; nothing is interpolated.

    - AUC: the chance that a positive scores above a negative, ties half (Mann & Whitney, 1947).
    - Average precision: sum over thresholds of precision times the gain in sensitivity.
    - Sensitivity at a specificity of 90 or 95 %: the largest of a threshold whose specificity is at least that.

    Args:
        scores_N: finite, higher for the finding.
        labels_N: the film has the finding.
        weights_BN: at least 0; a whole number is a repetition.
    """
    weights = np.ones((1, len(labels_N)), np.int64) if weights_BN is None else weights_BN
    ranking = Ranking(scores_N, labels_N)
    step = ranking.step()
    parts = [ranking.measures(_narrow(weights[at : at + step])) for at in range(0, len(weights), step)]
    return Measured(*(np.concatenate([getattr(part, name) for part in parts]) for name in MEASURES))


def _narrow(weights_BN: Weights) -> Weights:
    """The same as (N, B), counts in single precision."""
    dtype = np.float32 if weights_BN.dtype.kind in "bui" else np.float64
    return np.ascontiguousarray(weights_BN.T, dtype)


def ppv(sensitivity: Floats, specificity: float, prevalence: float) -> Floats:
    """Chance that a film that is called positive has the finding (Bayes), for each sensitivity.

    Args:
        sensitivity: any shape, 0 to 1; NaN stays NaN.
        specificity: 0 to below 1. Where sensitivities are at a specificity of *at least* this, so is the result.
        prevalence: share of films with the finding where the model is to be used, above 0, at most 1.
    """
    found = np.asarray(sensitivity, np.float64) * prevalence
    return found / (found + (1 - specificity) * (1 - prevalence))

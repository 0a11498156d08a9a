"""The interval of an AUC of a few patients.

With few patients or a high AUC neither the bootstrap's percentiles nor a symmetric interval on the logit scale covers
(simulated, 95 % wanted: 23 + 23 patients and an AUC of .97: 82 and 80 %; 10 + 10 and .998: below 5 %). The interval of
all values that are not rejected does (91 to 99 % for 10 to 50 cases and AUCs of .63 to .999; with 5 cases 83 % at .60,
98 % from .72 on); the bootstrap says how much wider it must be than for a fixed score of one film a patient.

Shape suffixes: A cases, B controls, K resamples.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import brentq

from scarce_cli.evaluation.fewshot.films import Floats
from scarce_cli.evaluation.fewshot.leave_out import LeftOut

Z = 1.959963984540054
"""Standard deviations on either side of a 95 % interval."""


def standard_error(auc: float, cases: float, controls: float) -> float:
    """Standard error of an AUC by Hanley & McNeil 1982, equations 1 and 2 (two exponential distributions).

    Args:
        auc: 0 to 1; 0 at both ends.
    """
    q1, q2 = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    variance = auc * (1 - auc) + (cases - 1) * (q1 - auc**2) + (controls - 1) * (q2 - auc**2)
    return float(np.sqrt(max(variance, 0.0) / (cases * controls)))


def score_interval(auc: float, cases: int, controls: int, widening: float) -> tuple[float, float]:
    """All values whose standard error, times ``widening`` and 1.96, reaches the AUC that was found: the idea of
    Newcombe 2006 (Statistics in Medicine 25, 559), method 5. It does not shrink to a point at 1, where no bootstrap
    sees a spread."""

    def reach(value: float) -> float:
        return Z * widening * standard_error(value, cases, controls)

    tiny = 1e-9  # at 0 and 1 themselves the standard error is 0
    start = min(max(auc, tiny), 1 - tiny)
    low = 0.0 if auc <= tiny else brentq(lambda value: auc - value - reach(value), tiny, start, xtol=1e-12)
    high = 1.0 if auc >= 1 - tiny else brentq(lambda value: value - auc - reach(value), start, 1 - tiny, xtol=1e-12)
    return float(low), float(high)


def resampled_weights(count: int, resamples: int, rng: np.random.Generator) -> Floats:
    """(K, count) how often each of ``count`` patients of one class is in each resample with replacement."""
    return rng.multinomial(count, np.full(count, 1 / count), size=resamples).astype(np.float64)


def widening(left_out: LeftOut, aucs_K: Floats) -> float:
    """How much wider the bootstrap over patients is than `standard_error`: 1 or more.

    It takes up several films of a patient, and that the learned patients are few too: pairs that are compared once
    under a model of their own spread more than their patients alone would.
    """
    expected = standard_error(left_out.auc(), *left_out.wins_AB.shape)
    found = aucs_K[np.isfinite(aucs_K)]
    return 1.0 if expected == 0 or len(found) < 2 else max(1.0, float(found.std(ddof=1)) / expected)

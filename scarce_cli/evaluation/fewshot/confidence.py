"""95 % intervals that hold with few patients, where percentiles of the bootstrap are too narrow.

Three or ten patients vary less among themselves than the population they come from, and when a measure is at its end
(an AUC of 1 on three films) every resample says the same: percentiles would give 1.000 to 1.000. So the resamples
give a variance only; how far it can be trusted follows from the numbers of patients, draws and random weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

from scipy.stats import t as student

_LEVEL = 0.975  # of one side
_ROUNDING = 1e-12  # a share this near to 0 or 1 is there


@dataclass(frozen=True)
class Part:
    """One thing drawn at random that an estimate varies with."""

    variance: float  # of the estimate, unbiased
    number: float  # how many were drawn: patients, draws or random weights; above 1


def share_interval(share: float, parts: Sequence[Part], patients: float) -> tuple[float, float]:
    """Interval of a measure between 0 and 1: Wilson's (1927, JASA 22) for an effective number of cases.

    The effective number is how many yes-or-no cases would have this variance, as is done in surveys. Never 0 wide,
    never beyond 0 or 1. Where nothing varies, it is the number of ``patients``: no mean over patients varies more
    than that of yes-or-no cases. A single patient tells nothing: 0 to 1.
    """
    if patients <= 1:
        return 0.0, 1.0
    variance = sum(part.variance for part in parts)
    spread = max(share * (1 - share), 0.0)
    number = spread / variance if variance > 0 and spread > _ROUNDING else patients
    q = _quantile(parts, patients) ** 2 / number
    half = sqrt(q * spread + q * q / 4)
    return max(0.0, (share + q / 2 - half) / (1 + q)), min(1.0, (share + q / 2 + half) / (1 + q))


def difference_interval(difference: float, parts: Sequence[Part], patients: float) -> tuple[float, float]:
    """Interval of a difference between two such measures: Student's t, within -1 and 1; all of that for one patient."""
    if patients <= 1:
        return -1.0, 1.0
    half = _quantile(parts, patients) * sqrt(sum(part.variance for part in parts))
    return max(-1.0, difference - half), min(1.0, difference + half)


def _quantile(parts: Sequence[Part], patients: float) -> float:
    """Of Student's t with degrees of freedom by Satterthwaite (1946, Biometrics Bulletin 2)."""
    within = sum(part.variance**2 / (part.number - 1) for part in parts)
    freedom = sum(part.variance for part in parts) ** 2 / within if within > 0 else patients - 1
    return float(student.ppf(_LEVEL, freedom))

"""How many more cases until the interval of the AUC is above a target, if the learning curve goes on as it began.

AUC(n) = a - b n^-c, an inverse power law (Mukherjee et al. 2003; Figueroa et al. 2012), fitted by weighted least
squares. The interval at n cases and n controls is that of `interval.score_interval`, with today's widening.

It is rough, and its interval says so: simulated with 23 cases that need 61 or 146 more, the number is within a factor
of two in 51 and 40 % of the studies; its interval holds the truth in nine of ten, mostly with no upper end.

Shape suffixes: S sizes, K resampled curves, G exponents tried.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from scarce_cli.evaluation.fewshot.films import Floats
from scarce_cli.evaluation.fewshot.interval import Z, standard_error
from scarce_cli.evaluation.fewshot.result import Projection

FEWEST_SIZES = 4  # of a curve that three parameters are fitted to
MOST = 500  # more cases that are looked ahead to, at the most

_EXPONENTS = np.geomspace(0.05, 2.0, 60)
_CEILING = 1.0


@dataclass(frozen=True)
class PowerLaw:
    """AUC(n) = a - b * n**-c with a <= 1, b >= 0, 0 < c <= 2."""

    a: float
    b: float
    c: float

    def __call__(self, sizes: Floats) -> Floats:
        return self.a - self.b * sizes**-self.c


@dataclass(frozen=True)
class Curve:
    """A learning curve with what it could as well have been."""

    sizes_S: Floats  # cases learned from, and as many controls, ascending
    aucs_S: Floats
    spreads_S: Floats  # standard deviation of each
    resampled_KS: Floats  # the same curve from other patients and repeats


@dataclass(frozen=True)
class Today:
    """What is known with all cases."""

    cases: int
    low: float  # lower end of the 95 % interval
    widening: float  # of the interval, see `interval.widening`


def fit_power_law(sizes_S: Floats, aucs_S: Floats, spreads_S: Floats) -> PowerLaw:
    """The smallest sum of squared distances over spreads. For each exponent tried, a and b are the solution of a
    linear problem (Golub & Pereyra 1973), so no start is needed and no other minimum is missed."""
    weights_S = 1 / spreads_S**2
    weights_S = weights_S / weights_S.sum()
    law, place = _best(_EXPONENTS, sizes_S, aucs_S, weights_S)
    near = _EXPONENTS[max(place - 1, 0)], _EXPONENTS[min(place + 1, len(_EXPONENTS) - 1)]
    return law if law.b == 0 else _best(np.linspace(*near, 41), sizes_S, aucs_S, weights_S)[0]


def _best(exponents_G: Floats, sizes_S: Floats, aucs_S: Floats, weights_S: Floats) -> tuple[PowerLaw, int]:
    """The best law with one of these exponents, and which."""
    x_GS = sizes_S ** -exponents_G[:, None]
    mean_x, mean_y = x_GS @ weights_S, float(aucs_S @ weights_S)
    from_mean_GS = x_GS - mean_x[:, None]
    b = np.maximum(-(from_mean_GS @ (weights_S * (aucs_S - mean_y))) / (from_mean_GS**2 @ weights_S), 0.0)
    a = mean_y + b * mean_x
    under_ceiling = np.maximum((x_GS @ (weights_S * (_CEILING - aucs_S))) / (x_GS**2 @ weights_S), 0.0)
    b = np.where(a > _CEILING, under_ceiling, b)
    a = np.minimum(a, _CEILING)
    place = int(((a[:, None] - b[:, None] * x_GS - aucs_S) ** 2 @ weights_S).argmin())
    return PowerLaw(float(a[place]), float(b[place]), float(exponents_G[place])), place


def more_cases(law: PowerLaw, today: Today, target: float, most: int) -> int | None:
    """The smallest number of further cases, 1 to ``most``, with as many controls, that lifts the interval's lower end
    above ``target``: the value at which the target itself is rejected. None if it takes more."""
    counts = today.cases + np.arange(1.0, most + 1)
    above = law(counts) - target > Z * today.widening * _errors(target, today.cases, most)
    return int(above.argmax()) + 1 if above.any() else None


@lru_cache(maxsize=8)
def _errors(target: float, cases: int, most: int) -> Floats:
    """(most,) standard error of an AUC of ``target`` with 1, 2, ... more cases and as many controls."""
    return np.array([standard_error(target, cases + more, cases + more) for more in range(1, most + 1)])


def project(curve: Curve, today: Today, target: float) -> tuple[Projection | None, str]:
    """The projection, or None and the reason.

    The interval of the number is that of the numbers from the resampled curves: 2.5 to 97.5 %.
    """
    if len(curve.sizes_S) < FEWEST_SIZES:
        return None, f"{today.cases} cases give a learning curve of {len(curve.sizes_S)} sizes: too few to go on from"
    law = fit_power_law(curve.sizes_S, curve.aucs_S, curve.spreads_S)
    most = min(10 * today.cases, MOST)
    if today.low > target:
        return _projection(law, target, (0, 0, 0), most, f"the interval is above {target:.2f} already"), ""
    others = [fit_power_law(curve.sizes_S, aucs_S, curve.spreads_S) for aucs_S in curve.resampled_KS]
    counts = [more_cases(other, today, target, most) for other in others]
    low, high = (_quantile(counts, q, most) for q in (0.025, 0.975))
    found = more_cases(law, today, target, most)
    return _projection(law, target, (found, low, high), most, _in_words(law, target, (found, low, high), most)), ""


def _quantile(counts: list[int | None], q: float, most: int) -> int | None:
    """Of counts of which some are beyond ``most``."""
    values = np.sort([most + 1 if count is None else count for count in counts])
    value = int(values[min(int(q * len(values)), len(values) - 1)])
    return None if value > most else value


def _projection(
    law: PowerLaw, target: float, counts: tuple[int | None, int | None, int | None], most: int, text: str
) -> Projection:
    return Projection(target, law.a, law.b, law.c, *counts, most=most, text=text)


def _in_words(law: PowerLaw, target: float, counts: tuple[int | None, int | None, int | None], most: int) -> str:
    found, low, high = counts
    if found is not None:
        least, end = min(low or found, found), f"more than {most:,}" if high is None else f"{max(high, found):,}"
        return (
            f"about {found:,} more cases ({least:,} to {end}) until the interval is above {target:.2f}, "
            "if the curve goes on as it began"
        )
    best = "" if low is None else f" ({low:,} at best)"
    if law.a <= target:
        return (
            f"if the curve goes on as it began, it ends at {law.a:.2f}: more cases alone do not lift the interval "
            f"above {target:.2f}{best}"
        )
    return (
        f"more than {most:,} more cases{best} until the interval is above {target:.2f}, "
        "if the curve goes on as it began"
    )

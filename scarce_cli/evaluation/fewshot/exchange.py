"""Is one initialisation better than another on the same films? A test by exchanging the two within patients.

N test films, K draws, S and T sets of random weights of the two, P patients, R permutations.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

from scarce_cli.evaluation.fewshot.films import Bools, Floats, Ints

PERMUTATIONS = 9_999
_EXACT = 12  # patients up to which all 2^P exchanges are looked at
_ROUNDING = 1e-12  # of sums below 1 in size; two different sums are further apart
_HELD = 500_000  # looked up at once


@dataclass(frozen=True)
class Shares:
    """What each patient contributes to a difference of AUCs: with his two scores exchanged, it changes its sign."""

    patients: Ints  # (P,) distinct, ascending
    shares: Floats  # (P,)

    @property
    def difference(self) -> float:
        """The observed difference of mean AUCs."""
        return float(self.shares.sum())


def patient_shares(a_SKN: Floats, b_TKN: Floats, labels: Bools, patients: Ints) -> Shares:
    """Take the difference of the mean AUCs of ``a`` and ``b`` apart into patients.

    Bandos, Rockette & Gur (2005, Statistics in Medicine 24): scores become mid-ranks among the test films, so that
    the two can be exchanged; AUCs do not change. With s = -1 for a patient whose two ranks are exchanged, else 1,
    a positive film i and a negative film j add to the difference, with XY = [X_i > Y_j] + [X_i = Y_j] / 2,

        ((s_i + s_j) (AA - BB) + (s_i - s_j) (AB - BA)) / (2 m n),

    which is linear in the signs: all exchanges are one product of signs and shares. Averaged over draws, and over
    all pairs of weights of the two.

    Args:
        a_SKN, b_TKN: finite scores of the same draws and films, higher for the finding.
        labels: (N,) both classes must be there.
        patients: (N,) number of each film's patient; all films of one are exchanged together.
    """
    film = np.mean([_film_shares(a, b, labels) for a, b in zip(_ranks(a_SKN), _ranks(b_TKN), strict=True)], axis=0)
    distinct, index = np.unique(patients, return_inverse=True)
    return Shares(distinct, _summed(index, film, len(distinct)))


def _summed(index: Ints, values: Floats, count: int) -> Floats:
    return np.bincount(index, values, minlength=count).astype(np.float64)


def _ranks(scores_SKN: Floats) -> Ints:
    """(K, S, N): twice the mid-rank of each film among all, 2 to 2 N, whole numbers."""
    return np.rint(2 * rankdata(scores_SKN, axis=-1)).astype(np.int64).swapaxes(0, 1)


def _film_shares(a_SN: Ints, b_TN: Ints, labels: Bools) -> Floats:
    """(N,) the factor of each film's sign, for one draw.

    A positive film's is the mean over negatives of (AA + AB - BA - BB) / 2, divided by m; a negative film's is the
    mean over positives of (AA - AB + BA - BB) / 2, divided by n: how much lower ``a`` ranks it among positives.
    """
    film = np.empty(len(labels))
    for side, sign in ((labels, 1), (~labels, -1)):
        higher = _higher(a_SN[:, side], b_TN[:, side], *(_below(x[:, ~side], len(labels)) for x in (a_SN, b_TN)))
        film[side] = sign * higher / (2 * side.sum())
    return film


def _below(ranks_SM: Ints, films: int) -> Floats:
    """(S, 2 N + 1): share of the M films below each possible rank, ties half."""
    counts = np.array([np.bincount(ranks, minlength=2 * films + 1) for ranks in ranks_SM])
    return (np.cumsum(counts, axis=1) - counts / 2) / ranks_SM.shape[1]


def _higher(a_SX: Ints, b_TX: Ints, below_a: Floats, below_b: Floats) -> Floats:
    """(X,) how much higher ``a`` ranks these films than ``b`` does, among the other class as either ranks it."""
    own_a = np.take_along_axis(below_a, a_SX, axis=1).mean(axis=0)
    own_b = np.take_along_axis(below_b, b_TX, axis=1).mean(axis=0)
    across = below_b.mean(axis=0)[a_SX].mean(axis=0) - below_a.mean(axis=0)[b_TX].mean(axis=0)
    return own_a + across - own_b


def joint(findings: Sequence[Shares]) -> Shares:
    """Shares in the difference of means over findings: a patient is exchanged in all findings at once."""
    patients = np.concatenate([one.patients for one in findings])
    shares = np.concatenate([one.shares for one in findings]) / len(findings)
    distinct, index = np.unique(patients, return_inverse=True)
    return Shares(distinct, _summed(index, shares, len(distinct)))


def p_value(observed: Shares, permutations: int = PERMUTATIONS, seed: int = 0) -> float:
    """Two-sided: how often a difference at least this large arises when nothing tells the two apart.

    The hypothesis: exchanging the two within a patient changes nothing. Support sets and weights are as they are,
    so it speaks of other test patients, not of other support sets. Up to 12 patients all exchanges are counted;
    else R random ones, the observed one among them: (1 + those as large) / (R + 1), Phipson & Smyth (2010).
    """
    shares = observed.shares[observed.shares != 0]
    least = abs(shares.sum()) - _ROUNDING
    if len(shares) <= _EXACT:
        return float((abs(_signs(len(shares)) @ shares) >= least).mean())
    large = sum(int((abs(part) >= least).sum()) for part in _exchanged(shares, permutations, seed))
    return (1 + large) / (permutations + 1)


def _signs(count: int) -> Floats:
    """(2^count, count): all ways to give signs to ``count`` patients."""
    return 1.0 - 2.0 * (np.arange(2**count)[:, None] >> np.arange(count) & 1).astype(np.float64)


def _exchanged(shares: Floats, permutations: int, seed: int) -> Iterator[Floats]:
    """The differences under R random exchanges, in parts. One random byte gives eight patients their signs, and
    their sum is looked up: much faster than a product of signs and shares."""
    eights = np.pad(shares, (0, -len(shares) % 8)).reshape(-1, 8)
    sums = (eights @ _signs(8).T).ravel()
    first = 256 * np.arange(len(eights))
    rng, step = np.random.default_rng(seed), max(1, _HELD // len(eights))
    for start in range(0, permutations, step):
        rows = min(step, permutations - start)
        drawn = np.frombuffer(rng.bytes(rows * len(eights)), np.uint8).reshape(rows, -1)
        yield sums[first + drawn].sum(axis=1)


def exchange_p(
    a_SKN: Floats, b_TKN: Floats, labels: Bools, patients: Ints, permutations: int = PERMUTATIONS, seed: int = 0
) -> tuple[float, Shares]:
    """The p-value of one finding, and the shares that `joint` takes (see `patient_shares`, `p_value`)."""
    observed = patient_shares(a_SKN, b_TKN, labels, patients)
    return p_value(observed, permutations, seed), observed


def holm(ps: Sequence[float]) -> list[float]:
    """p-values corrected for their number, in the order given (Holm, 1979): valid however they depend on each other.

    The smallest is multiplied by their number, the next by one less, and so on; none is below a smaller one's, none
    above 1.
    """
    order = np.argsort(ps, kind="stable")
    stepped = np.maximum.accumulate(np.asarray(ps, np.float64)[order] * np.arange(len(ps), 0, -1))
    adjusted = np.empty(len(ps))
    adjusted[order] = np.minimum(stepped, 1)
    return [float(p) for p in adjusted]

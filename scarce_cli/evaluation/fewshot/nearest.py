"""Classifiers that learn nothing: the nearest class mean and the nearest films, on unit features.

Both take the same support sets as the linear probe and give scores of the same shape; neither has anything to choose.

Shape suffixes: F films of the data set, N films that are scored, D features, P support sets, M films of one of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from scarce_cli.evaluation.fewshot.episodes import Support
from scarce_cli.evaluation.fewshot.films import Bools, Floats, Ints

NEIGHBOURS = 20
TEMPERATURE = 0.07
_EQUAL = 1e-12  # cosines that differ by less are the same: products of equal films are not equal to the last bit
_HELD = 64 << 20  # bytes of features and cosines held at once


def score_prototype(x_FD: NDArray[np.floating], supports: Sequence[Support], test_N: Ints) -> Floats:
    """(P, N) by how much the squared distance to the mean of the films with the finding is less than to the mean of
    those without (Snell et al., 2017, arXiv 1703.05175); -4 to 4, positive for the finding.

    Squared distances rather than cosines: for them the mean is the point nearest to the films of a class, and a class
    whose films lie far apart has a short mean, which a cosine would stretch to the length of the other's.

    Args:
        x_FD: unit features, float32 or float64; computed in float64.
        test_N: numbers of the films to score.
    """
    means_2PD = np.stack([_means(x_FD, support) for support in supports], axis=1)
    toward_PD = 2 * (means_2PD[1] - means_2PD[0])
    lengths_2P = np.square(means_2PD).sum(axis=2)
    scores_PN = np.empty((len(supports), len(test_N)))
    for part in _parts(len(test_N), x_FD.shape[1]):
        scores_PN[:, part] = toward_PD @ np.asarray(x_FD[test_N[part]], np.float64).T
    return scores_PN + (lengths_2P[0] - lengths_2P[1])[:, None]


def score_knn(
    x_FD: NDArray[np.floating], supports: Sequence[Support], test_N: Ints, *, neighbours: int = NEIGHBOURS
) -> Floats:
    """(P, N) share of the finding among the films of largest cosine, each weighted by exp(cosine / 0.07): 0 to 1
    (Wu et al., 2018, arXiv 1805.01978; Caron et al., 2021, arXiv 2104.14294).

    Small support sets have fewer than ``neighbours`` films: then all of them vote. Films that tie for the last place
    share it, so the order of the films does not matter. A film whose neighbours are all of one class scores exactly
    0 or 1; such films are tied, and the AUC counts a tie as half right.

    Args:
        x_FD: unit features, float32 or float64; computed in float64.
        test_N: numbers of the films to score.
    """
    films_M, place = np.unique(np.concatenate([support.films for support in supports]), return_inverse=True)
    places = np.split(place, np.cumsum([len(support.films) for support in supports])[:-1])
    known_MD = np.asarray(x_FD[films_M], np.float64)
    scores_PN = np.empty((len(supports), len(test_N)))
    for part in _parts(len(test_N), max(x_FD.shape[1], len(films_M))):
        cosines_NM = np.asarray(x_FD[test_N[part]], np.float64) @ known_MD.T
        for number, (support, own) in enumerate(zip(supports, places, strict=True)):
            scores_PN[number, part] = _vote(cosines_NM[:, own], support.labels, neighbours)
    return scores_PN


def _means(x_FD: NDArray[np.floating], support: Support) -> Floats:
    """(2, D) of the films without and with the finding."""
    films = [support.films[support.labels == label] for label in (False, True)]
    return np.stack([x_FD[one].astype(np.float64).mean(axis=0) for one in films])


def _vote(cosines_NM: Floats, labels_M: Bools, neighbours: int) -> Floats:
    """(N,). The weights for and against are added up apart: where one is nothing, the share is exactly 0 or 1."""
    count = min(neighbours, len(labels_M))
    last_N1 = np.partition(cosines_NM, -count, axis=1)[:, -count, None]
    nearer_NM = cosines_NM > last_N1 + _EQUAL
    tied_NM = ~nearer_NM & (cosines_NM >= last_N1 - _EQUAL)
    seats_N1 = count - nearer_NM.sum(axis=1, keepdims=True)
    part_NM = nearer_NM + tied_NM * (seats_N1 / tied_NM.sum(axis=1, keepdims=True))
    weights_NM = part_NM * np.exp((cosines_NM - cosines_NM.max(axis=1, keepdims=True)) / TEMPERATURE)
    for_N, against_N = (weights_NM[:, labels_M == label].sum(axis=1) for label in (True, False))
    return for_N / (for_N + against_N)


def _parts(films: int, numbers: int) -> list[slice]:
    """Slices of the films to score, each with so many numbers a film."""
    step = max(1, _HELD // (8 * numbers))
    return [slice(start, start + step) for start in range(0, films, step)]

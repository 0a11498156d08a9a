"""Class means and nearest films: scikit-learn and the formulas written out as oracles."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid

from scarce_cli.evaluation.collapse import l2_normalize
from scarce_cli.evaluation.fewshot import nearest
from scarce_cli.evaluation.fewshot.episodes import Support
from scarce_cli.evaluation.fewshot.nearest import score_knn, score_prototype

FILMS, TEST = 150, np.arange(100, 150)
BOTH = pytest.mark.parametrize("score", [score_prototype, score_knn])


def features(dtype: type = np.float64) -> np.ndarray:
    x = np.random.default_rng(0).standard_normal((FILMS, 12)) + 1
    return l2_normalize(x + 0.5 * (np.arange(FILMS) % 2 == 0)[:, None]).astype(dtype)


def supports(*shots: int) -> list[Support]:
    rng = np.random.default_rng(1)
    pools = np.arange(0, 100, 2), np.arange(1, 100, 2)
    films = [np.concatenate([rng.choice(pool, count, replace=False) for pool in pools]) for count in shots]
    return [Support(some, some % 2 == 0) for some in films]


@pytest.mark.filterwarnings("ignore:.*:FutureWarning")
def test_prototypes_are_scikit_learns_and_the_formula() -> None:
    x, drawn = features(), supports(2, 5, 5, 40)
    for support, found in zip(drawn, score_prototype(x, drawn, TEST), strict=True):
        model = NearestCentroid().fit(x[support.films], support.labels)
        assert (model.predict(x[TEST]) == (found > 0)).all()
        wanted = [np.square(x[TEST] - mean).sum(axis=1) for mean in model.centroids_]
        np.testing.assert_allclose(found, wanted[0] - wanted[1], atol=1e-12)


@pytest.mark.parametrize("neighbours", [1, 5, 20])
def test_neighbours_are_scikit_learns(neighbours: int) -> None:
    x, drawn = features(), supports(1, 5, 12, 40)

    def weights(distances: np.ndarray) -> np.ndarray:
        return np.exp((1 - distances) / 0.07)

    for support, found in zip(drawn, score_knn(x, drawn, TEST, neighbours=neighbours), strict=True):
        count = min(neighbours, len(support.films))
        model = KNeighborsClassifier(count, metric="cosine", algorithm="brute", weights=weights)
        model.fit(x[support.films], support.labels)
        np.testing.assert_allclose(found, model.predict_proba(x[TEST])[:, 1], atol=1e-10)


@BOTH
def test_neither_the_order_nor_the_company_of_films_matters(score: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every film stands there three times, so that the last of the nearest are tied."""
    x, drawn = np.tile(features()[:50], (3, 1)), supports(2, 30)
    rng = np.random.default_rng(2)
    orders = [rng.permutation(len(support.films)) for support in drawn]
    mixed = [Support(s.films[order], s.labels[order]) for s, order in zip(drawn, orders, strict=True)]
    found = score(x, drawn, TEST)
    np.testing.assert_allclose(score(x, mixed, TEST), found, atol=1e-12)
    monkeypatch.setattr(nearest, "_HELD", 2_000)  # bytes: a few films at once
    np.testing.assert_allclose(np.concatenate([score(x, [s], TEST) for s in drawn]), found, atol=1e-12)


@BOTH
def test_exchanged_classes_give_the_opposite(score: Callable) -> None:
    x, drawn = features(), supports(3, 30)
    exchanged = [Support(support.films, ~support.labels) for support in drawn]
    middle = 0.5 if score is score_knn else 0.0
    np.testing.assert_allclose(score(x, exchanged, TEST) - middle, middle - score(x, drawn, TEST), atol=1e-12)


@BOTH
def test_a_collapsed_network_tells_no_film_from_another(score: Callable) -> None:
    """All features are the same up to rounding: the films with the finding must not win by standing first."""
    x = l2_normalize(np.ones((FILMS, 7)) + 1e-15 * np.random.default_rng(0).standard_normal((FILMS, 7)))
    found = score(x, supports(1, 30), TEST)
    np.testing.assert_allclose(found, 0.5 if score is score_knn else 0.0, atol=1e-12)


def test_films_among_their_own_are_tied_exactly() -> None:
    """Two clusters: all neighbours are of one class, and rounding must not rank what is tied."""
    rng = np.random.default_rng(0)
    has = np.arange(FILMS) % 2 == 0
    x = l2_normalize(np.where(has[:, None], [1.0, 0.0], [0.0, 1.0]) + 0.1 * rng.standard_normal((FILMS, 2)))
    assert (score_knn(x, supports(40), TEST)[0] == has[TEST]).all()


@BOTH
def test_features_kept_in_half_the_bytes_are_computed_in_float64(score: Callable) -> None:
    x, drawn = features(np.float32), supports(4, 9)
    found = score(x, drawn, TEST)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, score(x.astype(np.float64), drawn, TEST), atol=1e-15)

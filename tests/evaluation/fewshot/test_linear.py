"""The linear probe of many support sets: scikit-learn's LogisticRegressionCV as oracle."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegressionCV
from sklearn.model_selection import StratifiedKFold

from scarce_cli.evaluation.collapse import l2_normalize
from scarce_cli.evaluation.fewshot import linear
from scarce_cli.evaluation.fewshot.choose_c import choose_and_fit
from scarce_cli.evaluation.fewshot.episodes import Support
from scarce_cli.evaluation.fewshot.linear import CS, fit_linear, score_linear
from scarce_cli.evaluation.fewshot.logistic import Problem

FILMS, TEST = 120, np.arange(80, 120)


def features(seed: int = 0) -> np.ndarray:
    """Every other film has the finding, which a shift of the features tells."""
    rng = np.random.default_rng(seed)
    shift = 0.4 * rng.standard_normal(64) * (np.arange(FILMS) % 2 == 0)[:, None]
    return l2_normalize(np.maximum(rng.standard_normal((FILMS, 64)) + 1 + shift, 0))


def supports(*shots: int, seed: int = 0) -> list[Support]:
    rng = np.random.default_rng(seed)
    pools = np.arange(0, 80, 2), np.arange(1, 80, 2)
    films = [np.concatenate([rng.choice(pool, count, replace=False) for pool in pools]) for count in shots]
    return [Support(some, some % 2 == 0) for some in films]


@pytest.mark.filterwarnings("ignore:.*:FutureWarning", "ignore:lbfgs failed to converge")
def test_scores_are_scikit_learns() -> None:
    x, drawn = features(), supports(20, 3, 8, 20, 5)
    scores, cs = score_linear(x, drawn, TEST)
    for support, found, c in zip(drawn, scores, cs, strict=True):
        folds = StratifiedKFold(min(5, len(support.films) // 2))
        model = LogisticRegressionCV(Cs=CS, cv=folds, scoring="neg_log_loss", tol=1e-9, max_iter=10_000)
        model.fit(x[support.films], support.labels)
        assert c == np.ravel(model.C_)[0]
        np.testing.assert_allclose(found, model.decision_function(x[TEST]), atol=1e-4)
    assert len(set(cs)) > 1


def test_a_support_set_is_scored_alike_whatever_it_is_solved_with(monkeypatch: pytest.MonkeyPatch) -> None:
    x, drawn = features(), supports(2, 9, 1, 9, 30)
    scores, cs = score_linear(x, drawn, TEST)
    monkeypatch.setattr(linear, "_HELD", 5_000)  # bytes: a few films at once, to learn from and to score
    again, again_cs = score_linear(x, drawn[::-1], TEST)
    np.testing.assert_allclose(again[::-1], scores, atol=1e-10)
    assert (again_cs[::-1] == cs).all()


def test_features_kept_in_half_the_bytes_are_computed_in_float64() -> None:
    x, drawn = features().astype(np.float32), supports(5, 12)
    narrow, wide = score_linear(x, drawn, TEST)[0], score_linear(x.astype(np.float64), drawn, TEST)[0]
    assert narrow.dtype == np.float64
    np.testing.assert_array_equal(narrow, wide)


def test_the_patients_of_a_support_set_are_those_of_its_films() -> None:
    x, patients = features(), np.arange(FILMS)[::-1] // 4
    (drawn,) = supports(15)
    found = fit_linear(x, [drawn], patients)
    (wanted,) = choose_and_fit([Problem(x[drawn.films], drawn.labels, patients[drawn.films])], CS)
    (apart,) = choose_and_fit([Problem(x[drawn.films], drawn.labels)], CS)
    assert (found.c_P[0], found.tied_P[0]) == (wanted.c, wanted.tied)
    np.testing.assert_allclose(found.coef_PD[0], wanted.model.coef, atol=1e-12)
    assert np.abs(wanted.scores_KC - apart.scores_KC).max() > 0.01  # the patients do matter here


def test_one_shot_has_a_fixed_c_and_a_single_c_is_not_chosen() -> None:
    assert (fit_linear(features(), supports(1, 4), cs=[3.0]).c_P == 3.0).all()
    one = fit_linear(features(), supports(1))
    assert (one.c_P[0], one.tied_P[0]) == (1.0, 0)

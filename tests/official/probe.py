"""08_probe: logistic regression on a handful of films."""

from __future__ import annotations

from functools import partial

import numpy as np
from numpy.typing import NDArray

from scarce_cli.evaluation.collapse import l2_normalize
from scarce_cli.evaluation.fewshot.choose_c import Scoring, choose_c
from scarce_cli.evaluation.fewshot.folds import stratified_folds
from scarce_cli.evaluation.fewshot.logistic import LinearModel, Problem, fit_many
from scarce_cli.evaluation.fewshot.metrics import measures
from tests.official.common import EXACT, Check, Data, Family, close


def _films(data: Data) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Training and test features as the classifier sees them."""
    parts = [np.asarray(data[name], np.float64) for name in ("features_train", "features_test")]
    train, test = map(l2_normalize, parts) if data["l2_normalize_first"] else parts
    return train, test


def _models(data: Data) -> list[LinearModel]:
    train, _ = _films(data)
    problem = Problem(train, np.asarray(data["labels_train"]) == 1)
    return fit_many([problem], [float(c) for c in np.asarray(data["Cs"])])[0]


def _decisions(data: Data, part: int) -> NDArray[np.float64]:
    films = _films(data)[part]
    return np.stack([model.scores(films) for model in _models(data)])


def _newton_intercept(data: Data) -> None:
    found = [model.intercept for model in _models(data)]
    np.testing.assert_allclose(found, data["newton_intercept"], rtol=EXACT, atol=1e-12)  # 0 by symmetry for N = 2


def _coef(data: Data) -> None:
    """scikit-learn's own distance from the optimum is the tolerance, and the rounding to float32."""
    for model, wanted, far in zip(
        _models(data), np.asarray(data["coef"]), data["max_abs_coef_diff_sklearn_vs_newton"], strict=True
    ):
        rounding = 1e-6 * np.abs(wanted).max()
        np.testing.assert_allclose(model.coef, wanted, rtol=2e-6, atol=float(far) * 1.01 + rounding)


def _no_farther(found: object, data: Data, key: str, reference: str) -> None:
    """Not farther from scikit-learn's numbers than the optimum is: lbfgs leaves the flat direction of the
    intercept up to 0.002 away."""
    wanted, optimum = np.asarray(data[key], np.float64), np.asarray(data[reference], np.float64)
    allowed = 1.01 * np.abs(optimum - wanted).max() + EXACT * np.abs(wanted).max() + 1e-12
    np.testing.assert_allclose(np.asarray(found), wanted, rtol=0, atol=allowed, err_msg=key)


def _decision_train(data: Data) -> None:
    """The reference has no optimum for the training films: scikit-learn's distance in each weight bounds it."""
    films, wanted = _films(data)[0], np.asarray(data["decision_train"], np.float64)
    shift = np.abs(np.asarray(data["intercept"]) - np.asarray(data["newton_intercept"])).max()
    far = float(np.max(data["max_abs_coef_diff_sklearn_vs_newton"])) * np.abs(films).sum(axis=1).max() + shift
    np.testing.assert_allclose(_decisions(data, 0), wanted, rtol=1e-6, atol=1.01 * far + 1e-9)


def _accuracy(data: Data) -> None:
    right = (_decisions(data, 1) > 0) == (np.asarray(data["labels_test"]) == 1)
    close(right.mean(axis=1), data, "accuracy_test")


def _auc(data: Data) -> None:
    labels = np.asarray(data["labels_test"]) == 1
    close([measures(row, labels).auc[0] for row in _decisions(data, 1)], data, "auc_test")


SCORINGS: tuple[Scoring, ...] = ("accuracy", "roc_auc", "neg_log_loss")


def _folds(data: Data) -> None:
    labels, folds = np.asarray(data["labels_train"]) == 1, int(data["cv_n_folds"])
    assert folds == min(5, len(labels) // 2)
    assert (stratified_folds(labels, folds) == data["cv_fold_of_sample"]).all()


def _cross_validation(data: Data, scoring: Scoring) -> None:
    """Shares of films and ranks are exact; scikit-learn's log-loss is as far off as its weights."""
    (train, test), labels = _films(data), np.asarray(data["labels_train"]) == 1
    cs = [float(c) for c in np.asarray(data["Cs"])]
    found = choose_c(train, labels, cs, scoring=scoring, folds=int(data["cv_n_folds"]))
    wanted, loose = np.asarray(data[f"cv_{scoring}_scores"], np.float64), scoring == "neg_log_loss"
    np.testing.assert_allclose(found.scores_KC, wanted, rtol=1e-4 if loose else EXACT, atol=1e-5 if loose else 0)
    assert found.c == data[f"cv_{scoring}_chosen_C"]
    assert found.tied == data[f"cv_{scoring}_tied_best"]
    scores, wanted = found.model.scores(test), np.asarray(data["labels_test"]) == 1
    close(measures(scores, wanted).auc[0], data, f"cv_{scoring}_test_auc")


_CV: dict[str, Check] = {"cv_fold_of_sample": _folds, "cv_n_folds": _folds}
for _scoring in SCORINGS:
    _check = partial(_cross_validation, scoring=_scoring)
    _CV |= {f"cv_{_scoring}_{what}": _check for what in ("scores", "chosen_C", "tied_best", "test_auc")}


PROBE = Family(
    checks={
        "newton_coef": lambda data: close([m.coef for m in _models(data)], data, "newton_coef", atol=EXACT),
        "newton_intercept": _newton_intercept,
        "newton_decision_test": lambda data: close(_decisions(data, 1), data, "newton_decision_test", atol=EXACT),
        "coef": _coef,
        "intercept": lambda data: _no_farther(
            [m.intercept for m in _models(data)], data, "intercept", "newton_intercept"
        ),
        "decision_test": lambda data: _no_farther(_decisions(data, 1), data, "decision_test", "newton_decision_test"),
        "decision_train": _decision_train,
        "auc_test": _auc,
        "accuracy_test": _accuracy,
        **_CV,
    },
    unchecked={
        **dict.fromkeys(
            ("features_train", "labels_train", "features_test", "labels_test", "l2_normalize_first", "Cs"), "input"
        ),
        "max_abs_coef_diff_sklearn_vs_newton": "the tolerance of coef",
        "newton_max_abs_gradient": "how good the reference is",
    },
    optional=frozenset(_CV),  # for N > 2 only
)


FAMILIES = {"08_probe": PROBE}

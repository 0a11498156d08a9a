from __future__ import annotations

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from scarce_cli.evaluation.fewshot.interval import resampled_weights
from scarce_cli.evaluation.fewshot.learning import draw_curve, drawn_orders
from scarce_cli.evaluation.fewshot.leave_out import People
from tests.evaluation.fewshot.test_leave_out import some_patients


def test_points_are_scikit_learns() -> None:
    x_ND, labels, patients = some_patients(9, 10)
    people = People.of(x_ND, labels, patients)
    rng = np.random.default_rng(1)
    weights = resampled_weights(9, 30, rng), resampled_weights(10, 30, rng)
    points, curve = draw_curve(people, weights, (1.0,), 6, 7)
    assert [point.cases for point in points] == [2, 3, 5, 8]
    assert curve.sizes_S.tolist() == [2, 3, 5, 8]
    assert curve.resampled_KS.shape == (30, 4)
    assert np.isfinite(curve.resampled_KS).all()
    for point, mean in zip(points, curve.aucs_S, strict=True):
        aucs = []
        for cases, controls in drawn_orders(people.case_P, 6, 7):
            learned = np.isin(patients, np.r_[cases[: point.cases], controls[: point.cases]])
            model = LogisticRegression(C=1.0, tol=1e-10, solver="newton-cholesky").fit(x_ND[learned], labels[learned])
            aucs.append(roc_auc_score(labels[~learned], model.decision_function(x_ND[~learned])))
        np.testing.assert_allclose(point.auc, np.mean(aucs), atol=1e-9)
        np.testing.assert_allclose((point.low, point.high), np.percentile(aucs, [2.5, 97.5]), atol=1e-9)
        assert mean == point.auc


def test_repeats_that_a_resample_leaves_no_patient_of_are_passed_over() -> None:
    x_ND, labels, patients = some_patients(6, 6)
    people = People.of(x_ND, labels, patients)
    one_patient = np.eye(6)[:1] * 6
    _, curve = draw_curve(people, (one_patient, np.ones((1, 6))), (1.0,), 4, 0)
    assert np.isfinite(curve.resampled_KS).all()

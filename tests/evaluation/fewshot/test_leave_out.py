from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from scarce_cli.evaluation.fewshot.films import Bools, Floats, Ints
from scarce_cli.evaluation.fewshot.leave_out import LeftOut, People, leave_pairs_out

CS = (0.1, 1.0, 10.0)


def some_patients(cases: int, controls: int, shift: float = 0.5, seed: int = 0) -> tuple[Floats, Bools, Ints]:
    """Unit features of patients with one to three films each, the films of a patient alike, in any order."""
    rng = np.random.default_rng(seed)
    films = rng.integers(1, 4, cases + controls)
    patients = rng.permutation(np.repeat(np.arange(cases + controls), films))
    case = rng.permutation(cases + controls) < cases
    centres = rng.normal(size=(cases + controls, 12)) + 3 + shift * case[:, None] * np.resize([1, -1], 12)
    x_ND = centres[patients] + 0.3 * rng.normal(size=(len(patients), 12))
    return x_ND / np.linalg.norm(x_ND, axis=1, keepdims=True), case[patients], patients


def sklearn_scores(x_ND: Floats, labels: Bools, learned: Bools, c: float) -> Floats:
    model = LogisticRegression(C=c, tol=1e-10, solver="newton-cholesky", max_iter=1000)
    return model.fit(x_ND[learned], labels[learned]).decision_function(x_ND)


def parts_of(pairs_AB: Floats) -> list[tuple[frozenset[int], frozenset[int]]]:
    """Cases and controls of each part: with two patients of a class in it at most, all of its pairs are compared."""
    return sorted(
        {(frozenset(np.flatnonzero(pairs_AB[:, b])), frozenset([b])) for b in range(pairs_AB.shape[1])}, key=str
    )


@pytest.mark.parametrize(("cases", "controls"), [(7, 5), (5, 5)])
def test_agrees_with_scikit_learn_film_by_film(cases: int, controls: int) -> None:
    """C and scores of every pair again, one model at a time; with five controls each is a part of its own."""
    x_ND, labels, patients = some_patients(cases, controls)
    found = leave_pairs_out(People.of(x_ND, labels, patients), CS, np.random.default_rng(1))
    with_finding, without = np.unique(patients[labels]), np.unique(patients[~labels])
    parts = [np.r_[with_finding[list(a)], without[list(b)]] for a, b in parts_of(found.pairs_AB)]
    assert sorted(np.concatenate(parts)) == list(range(cases + controls))
    of_film = np.array([[patient in part for part in parts].index(True) for patient in patients])
    losses = np.zeros((5, len(CS)))
    for (g, h), (place, c) in ((pair, one) for pair in combinations(range(5), 2) for one in enumerate(CS)):
        loss = np.logaddexp(
            0, np.where(labels, -1, 1) * sklearn_scores(x_ND, labels, (of_film != g) & (of_film != h), c)
        )
        losses[g, place] += loss[of_film == h].sum()
        losses[h, place] += loss[of_film == g].sum()
    chosen = np.array(CS)[losses.argmin(axis=1)]
    deviations: dict[int, list[float]] = {film: [] for film in range(len(labels))}
    for a, b in np.argwhere(found.pairs_AB):
        case, control = patients == with_finding[a], patients == without[b]
        learned = ~case & ~control
        scores = sklearn_scores(x_ND, labels, learned, chosen[of_film[case][0]])
        assert found.wins_AB[a, b] == (scores[case][:, None] > scores[control]).sum()
        assert found.pairs_AB[a, b] == case.sum() * control.sum()
        for film in np.flatnonzero(~learned):
            deviations[film].append((scores[film] - scores[learned].mean()) / scores[learned].std())
    np.testing.assert_allclose(found.scores_N, [np.mean(deviations[film]) for film in range(len(labels))], atol=1e-5)


def test_each_meets_as_many_partners_as_there_are_in_his_part_and_five_at_most() -> None:
    for cases, controls, partners in ((12, 12, 2), (30, 30, 5), (30, 12, 2)):
        x_ND, labels, patients = some_patients(cases, controls)
        found = leave_pairs_out(People.of(x_ND, labels, patients), (1.0,), np.random.default_rng(0))
        met = (found.pairs_AB > 0).sum(axis=1)
        assert met.min() >= partners
        assert met.max() <= 5


def test_order_of_films_and_rotation_of_features_change_nothing() -> None:
    x_ND, labels, patients = some_patients(8, 8)
    rng = np.random.default_rng(5)
    order, turned = rng.permutation(len(labels)), np.linalg.qr(rng.normal(size=(12, 12)))[0]
    one = leave_pairs_out(People.of(x_ND, labels, patients), CS, np.random.default_rng(2))
    other = leave_pairs_out(
        People.of(x_ND[order] @ turned, labels[order], patients[order] * 3), CS, np.random.default_rng(2)
    )
    np.testing.assert_array_equal(one.wins_AB, other.wins_AB)
    np.testing.assert_allclose(one.scores_N[order], other.scores_N, atol=1e-6)


def test_shuffled_labels_do_no_worse_than_chance() -> None:
    """At C = 0.01 the mean AUC of films left out one by one is near 0: every model leans the other way."""
    x_ND, labels, patients = some_patients(6, 6, shift=0)
    people = People.of(x_ND, labels, patients)
    rng = np.random.default_rng(3)
    aucs = [leave_pairs_out(people.with_labels(rng.permutation(people.case_P)), (0.01,), rng).auc() for _ in range(40)]
    assert abs(np.mean(aucs) - 0.5) < 3 * np.std(aucs) / np.sqrt(40)


def test_weights_are_repetitions() -> None:
    rng = np.random.default_rng(4)
    pairs_AB = rng.integers(0, 3, (4, 3)).astype(float)
    wins_AB = np.floor(pairs_AB * rng.random((4, 3)))
    left_out = LeftOut(wins_AB, pairs_AB, np.zeros(7))
    weights = np.array([[2, 0, 1, 1]]), np.array([[0, 1, 2]])
    repeated = np.ix_([0, 0, 2, 3], [1, 2, 2])
    assert left_out.aucs(*weights)[0] == wins_AB[repeated].sum() / pairs_AB[repeated].sum()
    assert left_out.aucs(np.ones((1, 4)), np.ones((1, 3)))[0] == left_out.auc()

"""The few-shot probe: no patient on both sides, the same draws for everybody, planted truth found."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scarce_cli.errors import UsageError
from scarce_cli.evaluation import probe
from scarce_cli.evaluation.probe import (
    REST,
    Films,
    ProbeSettings,
    Score,
    Skipped,
    Task,
    draw_supports,
    make_task,
    run_probe,
)

STEADY = settings(max_examples=50, deadline=None, derandomize=True)
QUICK = ProbeSettings(shots=(1, 5), draws=5, resamples=100, test_fraction=0.4)


def some_films(count: int = 120, per_patient: int = 2, seed: int = 0) -> Films:
    """Half of the patients have a nodule, a third an effusion, some both."""
    rng = np.random.default_rng(seed)
    patients = count // per_patient
    findings = [
        frozenset(name for name, share in (("nodule", 0.5), ("effusion", 0.3)) if rng.random() < share)
        for _ in range(patients)
    ]
    owner = [n // per_patient for n in range(count)]
    return Films(tuple(f"P{p:05d}" for p in owner), tuple(findings[p] for p in owner))


def labels_of(films: Films, finding: str) -> np.ndarray:
    return np.array([finding in names for names in films.findings])


def planted(films: Films, strength: float, seed: int = 0) -> np.ndarray:
    """Noise, and the nodule along the first dimension."""
    x = np.random.default_rng(seed).standard_normal((len(films.patients), 16))
    x[:, 0] += strength * labels_of(films, "nodule")
    return x


def scores(
    films: Films, features: Mapping[str, np.ndarray], settings: ProbeSettings = QUICK, negative: str | None = None
) -> list[Score]:
    results = run_probe([make_task(films, "nodule", negative, settings)], features, settings)
    return [row for row in results if isinstance(row, Score)]


def test_the_split_is_the_same_for_every_finding() -> None:
    films = some_films()
    sides: dict[str, bool] = {}
    for finding, negative in (("nodule", None), ("effusion", None), ("nodule", "effusion")):
        task = make_task(films, finding, negative, QUICK)
        for film, side in zip(task.films, task.test, strict=True):
            assert sides.setdefault(films.patients[film], bool(side)) == side


def test_the_rest_is_everything_else() -> None:
    films = some_films()
    task = make_task(films, "nodule", None, QUICK)
    assert task.negative == REST
    assert len(task.films) == len(films.patients)
    assert (task.labels == labels_of(films, "nodule")).all()


def test_a_named_negative_leaves_out_neither_and_both() -> None:
    films = some_films()
    task = make_task(films, "nodule", "effusion", QUICK)
    nodule, effusion = labels_of(films, "nodule"), labels_of(films, "effusion")
    assert (nodule & effusion).any()
    assert (~nodule & ~effusion).any()
    assert set(task.films) == set(np.flatnonzero(nodule ^ effusion))
    assert (task.labels == nodule[task.films]).all()


@pytest.mark.parametrize(("finding", "negative"), [("hernia", None), ("nodule", "hernia")])
def test_an_unknown_finding_is_named_with_those_there_are(finding: str, negative: str | None) -> None:
    with pytest.raises(UsageError, match="no film is labelled 'hernia'") as raised:
        make_task(some_films(), finding, negative, QUICK)
    assert "nodule (" in raised.value.remedy
    assert "effusion (" in raised.value.remedy


def test_a_misspelt_finding_is_put_right_and_a_long_list_is_cut() -> None:
    films = Films(tuple("abc"), tuple(frozenset(f"finding {n}" for n in range(k, 40)) for k in range(3)))
    with pytest.raises(UsageError, match="did you mean 'finding 3'") as raised:
        make_task(films, "findng 3", None, QUICK)
    assert raised.value.remedy.endswith("(3), and 20 more")


def test_a_finding_that_every_film_has_leaves_no_rest() -> None:
    films = Films(("a", "b"), (frozenset({"nodule"}),) * 2)
    with pytest.raises(UsageError, match=f"no film is labelled '{REST}'"):
        make_task(films, "nodule", None, QUICK)


@STEADY
@given(seed=st.integers(0, 1000), shots=st.integers(1, 12), per_patient=st.integers(1, 4))
def test_supports_are_balanced_distinct_and_inside_training(seed: int, shots: int, per_patient: int) -> None:
    task = make_task(some_films(seed=seed, per_patient=per_patient), "nodule", None, replace(QUICK, seed=seed))
    if task.missing() or shots > task.available():
        return
    supports = draw_supports(task, shots, QUICK)
    assert len(supports) == QUICK.draws
    for support in supports:
        assert len(set(support)) == len(support) == 2 * shots
        assert not task.test[support].any()
        assert (task.labels[support] == np.repeat([True, False], shots)).all()


def test_films_of_a_support_are_of_different_patients_while_there_are_enough() -> None:
    task = make_task(some_films(240, per_patient=4), "nodule", None, QUICK)
    positives = ~task.test & task.labels
    people = len(set(task.patients[positives]))
    for shots in (5, people, people + 3):
        for support in draw_supports(task, shots, QUICK):
            assert len(set(task.patients[support[:shots]])) == min(shots, people)


def test_every_film_can_be_drawn() -> None:
    task = make_task(some_films(), "nodule", None, QUICK)
    drawn = np.concatenate(draw_supports(task, 5, replace(QUICK, draws=300)))
    counts = np.bincount(drawn, minlength=len(task.films))[~task.test]
    assert counts.min() > 0
    for label in (True, False):
        of_class = counts[task.labels[~task.test] == label]
        assert of_class.std() < 3 * of_class.mean() ** 0.5  # Poisson would be once the root


def test_draws_differ_and_are_fixed_by_seed_finding_and_shots() -> None:
    films = some_films()
    nodule, effusion = (make_task(films, name, None, QUICK) for name in ("nodule", "effusion"))
    again = draw_supports(nodule, 5, QUICK)
    assert all((a == b).all() for a, b in zip(draw_supports(nodule, 5, QUICK), again, strict=True))
    assert len({tuple(support) for support in again}) == QUICK.draws
    for other in (draw_supports(nodule, 5, replace(QUICK, seed=1)), draw_supports(effusion, 5, QUICK)):
        assert {tuple(s) for s in other}.isdisjoint({tuple(s) for s in again})


def test_every_initialisation_gets_the_same_supports_and_test_films(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each film's feature is its own number, so what the classifier is given shows which films they are."""
    films = some_films()
    numbers = np.tile(np.arange(1.0, len(films.patients) + 1)[:, None], (1, 2))
    seen: list[tuple[float, ...]] = []
    fit = probe.fit_logistic

    def spy(x: np.ndarray, labels: np.ndarray, c: float) -> object:
        seen.append(tuple(x[:, 0]))
        return fit(x, labels, c)

    monkeypatch.setattr(probe, "fit_logistic", spy)
    monkeypatch.setattr(probe, "l2_normalize", lambda x: x / 1000)
    rows = scores(films, {"a": numbers, "b": numbers, "c": numbers})
    per_shots = QUICK.draws * 3
    for start in (0, per_shots):
        block = seen[start : start + per_shots]
        assert block[:5] == block[5:10] == block[10:15]
        assert len(set(block)) == QUICK.draws
    assert {(row.test_positives, row.test_negatives) for row in rows} == {
        (rows[0].test_positives, rows[0].test_negatives)
    }


def test_the_same_features_gain_nothing_over_themselves() -> None:
    films = some_films()
    rows = scores(films, {"random": planted(films, 1), "spark": planted(films, 1)})
    for random, spark in zip(rows[::2], rows[1::2], strict=True):
        assert random.difference is None
        assert spark.auc == random.auc
        assert spark.difference is not None
        assert (spark.difference.mean, spark.difference.low, spark.difference.high) == (0, 0, 0)


def test_planted_features_are_found_and_noise_is_not() -> None:
    films = some_films(400)
    found = scores(films, {"noise": planted(films, 0, seed=1), "planted": planted(films, 40)})
    by_name = {(row.initialisation, row.shots): row for row in found}
    for shots in QUICK.shots:
        perfect, noise = by_name["planted", shots], by_name["noise", shots]
        assert perfect.auc.mean == 1
        assert noise.auc.mean == pytest.approx(0.5, abs=0.12)
        assert noise.auc.low < 0.5 < noise.auc.high
        assert perfect.difference is not None
        assert perfect.difference.mean == pytest.approx(1 - noise.auc.mean)
        assert perfect.difference.low > 0.3


def test_more_shots_help() -> None:
    films = some_films(400)
    few, many = scores(films, {"planted": planted(films, 1.5)}, replace(QUICK, shots=(1, 40), draws=10))
    assert many.auc.mean > few.auc.mean + 0.05
    assert many.auc.sd < few.auc.sd


def test_the_length_of_a_feature_vector_does_not_matter() -> None:
    films = some_films()
    x = planted(films, 2)
    lengths = np.random.default_rng(5).uniform(0.1, 10, (len(x), 1))
    for one, other in zip(scores(films, {"a": x}), scores(films, {"a": x * lengths}), strict=True):
        assert other.auc.mean == pytest.approx(one.auc.mean, abs=1e-9)


def test_the_seed_fixes_the_result() -> None:
    films = some_films()
    features = {"random": planted(films, 0), "spark": planted(films, 1)}
    assert scores(films, features) == scores(films, features)
    assert scores(films, features) != scores(films, features, replace(QUICK, seed=1))


def test_films_without_part_in_the_task_have_no_influence() -> None:
    films = some_films()
    x = planted(films, 1)
    used = make_task(films, "nodule", "effusion", QUICK).films
    other = x.copy()
    other[np.setdiff1d(np.arange(len(x)), used)] = np.nan
    assert scores(films, {"a": other}, negative="effusion") == scores(films, {"a": x}, negative="effusion")


def test_more_shots_than_films_are_left_out_with_the_reason() -> None:
    films = some_films(40)
    settings = replace(QUICK, shots=(1, 500))
    task = make_task(films, "nodule", None, settings)
    results = run_probe([task], {"a": planted(films, 1)}, settings)
    assert [row.shots for row in results] == [1, 500]
    assert isinstance(results[1], Skipped)
    assert results[1].reason == f"only {task.available()} training films of the rarer class"


def split(*sides: tuple[bool, bool]) -> Task:
    """A task with one film for each (label, test)."""
    labels, test = (np.array(part) for part in zip(*sides, strict=True))
    return Task("nodule", REST, np.arange(len(sides)), labels, np.arange(len(sides)), test)


@pytest.mark.parametrize(
    ("task", "reason"),
    [
        (split((True, False), (False, False), (True, True)), "no test patient has a film of 'the rest'"),
        (split((True, False), (False, False), (False, True)), "no test patient has a film of 'nodule'"),
        (split((True, True), (False, True), (False, False)), "no training patient has a film of 'nodule'"),
        (split((True, True), (False, True), (True, False)), "no training patient has a film of 'the rest'"),
        (split((True, False), (False, False)), "no test patient has a film of 'nodule'"),
    ],
)
def test_a_split_with_one_class_is_left_out_with_the_reason(task: Task, reason: str) -> None:
    (row,) = run_probe([task], {"a": np.eye(len(task.films))}, QUICK)
    assert isinstance(row, Skipped)
    assert (row.shots, row.reason) == (None, reason)


def test_results_hold_no_nan() -> None:
    """Two test films of two patients: half of the resamples have one class only."""
    task = split((True, False), (False, False), (True, True), (False, True))
    settings = replace(QUICK, shots=(1,))
    rows = run_probe([task], {"a": np.eye(4), "b": np.ones((4, 3))}, settings)
    assert len(rows) == 2
    json.dumps([asdict(row) for row in rows], allow_nan=False)


def test_a_patient_in_both_parts_stops_the_program() -> None:
    task = replace(split((True, False), (False, True)), patients=np.array([4, 4]))
    with pytest.raises(AssertionError, match="both parts"):
        run_probe([task], {"a": np.eye(2)}, QUICK)

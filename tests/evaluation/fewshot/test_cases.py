from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from scarce_cli.errors import UsageError
from scarce_cli.evaluation.fewshot.cases import CasesSettings, Chosen, choose_cases, run_cases
from scarce_cli.evaluation.fewshot.episodes import Skipped
from scarce_cli.evaluation.fewshot.films import Films
from tests.evaluation.fewshot.test_leave_out import some_patients

QUICK = CasesSettings(cs=(0.1, 10.0), permutations=19, resamples=200, repeats=4)


def films_of(*rows: tuple[str, str]) -> Films:
    """From patients and what their film shows, findings joined by |."""
    findings = tuple(frozenset(found.split("|")) if found else frozenset[str]() for _, found in rows)
    names = tuple(f"{number}.png" for number in range(len(rows)))
    blank = ("",) * len(rows)
    return Films(names, tuple(patient for patient, _ in rows), findings, blank, blank)


def many(found: str, count: int, first: int = 0) -> list[tuple[str, str]]:
    return [(f"p{number}", found) for number in range(first, first + count)]


def chosen_from(films: Films, against: str | None = None, cases: int = 23, seed: int = 0) -> Chosen:
    chosen = choose_cases(films, "nodule", against, cases, seed)
    assert isinstance(chosen, Chosen)
    return chosen


def test_who_is_a_case_and_who_a_control() -> None:
    rows = [*many("nodule", 6), *many("normal", 6, 10)]
    rows += [("p0", "normal"), ("p1", "nodule|effusion"), ("p10", "effusion"), ("silent", ""), ("p2", "")]
    chosen = chosen_from(films_of(*rows))
    patients = [rows[film][0] for film in chosen.films]
    assert [rows[film] for film in chosen.films[chosen.labels]] == [*many("nodule", 6), ("p1", "nodule|effusion")]
    assert {"p0"}.isdisjoint(np.array(patients)[~chosen.labels])  # his normal film counts for nothing
    assert patients.count("p10") == 2
    assert "silent" not in patients
    assert len(set(chosen.patients)) == 12
    assert all(
        (chosen.patients == number).sum() == patients.count(patients[i]) for i, number in enumerate(chosen.patients)
    )


def test_against_a_named_finding() -> None:
    rows = [*many("nodule", 6), *many("effusion", 6, 10), *many("normal", 6, 20)]
    rows += [("p10", "nodule|effusion"), ("p11", "normal")]
    chosen = chosen_from(films_of(*rows), "effusion")
    assert {rows[film] for film in chosen.films[~chosen.labels]} == set(many("effusion", 5, 11))  # p10 has a nodule too
    assert all(rows[film][1] == "nodule" for film in chosen.films[chosen.labels])


def test_choice_is_stable_and_follows_the_seed() -> None:
    rows = [*many("nodule", 60), *many("normal", 60, 100)]
    films = films_of(*rows)
    chosen = chosen_from(films)
    assert (chosen.labels.sum(), (~chosen.labels).sum()) == (23, 23)
    names = {rows[film] for film in chosen.films}
    backwards = films_of(*rows[::-1])
    assert {rows[::-1][film] for film in chosen_from(backwards).films} == names
    assert {rows[film] for film in chosen_from(films, cases=12).films} < names
    assert {rows[film] for film in chosen_from(films, seed=1).films} != names
    assert len(chosen_from(films_of(*many("nodule", 30), *many("normal", 8, 100))).films) == 23 + 8


def test_too_few_are_left_out_with_the_reason_and_an_unknown_finding_is_an_error() -> None:
    few = choose_cases(films_of(*many("nodule", 4), *many("normal", 9, 10)), "nodule", None, 23, 0)
    assert few == Skipped("nodule", "the rest", None, "4 patients with films of 'nodule'; at least 5 are needed")
    alone = choose_cases(films_of(*many("nodule", 9), *many("effusion", 2, 20)), "nodule", "effusion", 23, 0)
    assert isinstance(alone, Skipped)
    assert "2 patients with films of 'effusion'" in alone.reason
    with pytest.raises(UsageError, match="no film is labelled 'nodul'"):
        choose_cases(films_of(*many("nodule", 9)), "nodul", None, 23, 0)


def test_what_can_be_told_is_told_and_noise_is_not() -> None:
    steps: list[None] = []
    found = run_cases(*some_patients(12, 10, shift=1.2), QUICK, lambda: steps.append(None))
    assert len(steps) == found.permutations == 19
    assert found.p == 1 / 20
    assert 0.5 < found.auc.low < found.auc.mean <= found.auc.high <= 1
    assert 0.35 < found.shuffled < 0.65
    assert [point.cases for point in found.curve] == [2, 3, 5, 8]
    assert (found.cases, found.controls) == (12, 10)
    noise = run_cases(*some_patients(12, 10, shift=0.0, seed=1), QUICK)
    assert noise.p > 0.05
    assert noise.auc.low < 0.5 < noise.auc.high


def test_the_same_again_and_no_nan_with_the_fewest_patients_and_constant_features() -> None:
    x_ND, labels, patients = some_patients(5, 5)
    one, other = run_cases(x_ND, labels, patients, QUICK), run_cases(x_ND, labels, patients, QUICK)
    np.testing.assert_array_equal(one.scores, other.scores)
    assert one.result("a", "b", "c") == other.result("a", "b", "c")
    assert one.projection is None
    assert one.note
    flat = run_cases(np.ones_like(x_ND) / np.sqrt(12), labels, patients, replace(QUICK, permutations=3))
    assert not flat.scores.any()
    assert (flat.auc.mean, flat.p) == (0.5, 1)
    assert 0 <= flat.auc.low <= flat.auc.mean <= flat.auc.high <= 1

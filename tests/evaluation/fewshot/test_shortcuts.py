"""What columns alone tell of a finding."""

from __future__ import annotations

import shlex
from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from scarce_cli.evaluation.fewshot.choosing import apply_where, parse_where
from scarce_cli.evaluation.fewshot.episodes import Task
from scarce_cli.evaluation.fewshot.films import REST, Films
from scarce_cli.evaluation.fewshot.shortcuts import LIGHT, TELLS, find_shortcuts

N = 900
_RNG = np.random.default_rng(11)
PATIENTS = np.sort(_RNG.integers(500, size=N))
TESTED = PATIENTS % 4 == 0
MASS = (_RNG.random(500) < 0.3)[PATIENTS]
NORTH = np.where(MASS, _RNG.random(N) < 0.8, _RNG.random(N) < 0.2)  # eight of ten masses come from the north
NOISE, OTHER = _RNG.random(N) < 0.5, (_RNG.random(N) < 0.3) & ~TESTED & ~MASS
ORDER = _RNG.permutation(N)
AGE = np.round(_RNG.normal(60, 12, N) + 14 * MASS).astype(int)
SOURCE = tuple(np.where(NORTH, "north [1]", "south").tolist())


def films_of(**columns: tuple[str, ...]) -> Films:
    return Films(
        names=tuple(f"{i}.png" for i in range(N)),
        patients=tuple(f"P{p:03d}" for p in PATIENTS),
        findings=tuple(frozenset({"Mass"} if mass else {"No Finding"}) for mass in MASS),
        pixels=("",) * N,
        views=("",) * N,
        columns=columns,
    )


def task_of(films: Films, against: str = REST) -> Task:
    has, test = films.showing("Mass"), TESTED
    used = test & (has | (films.known() if against == REST else films.showing(against)))
    return Task("Mass", against, np.flatnonzero(used), has[used], {})


def test_a_column_that_tells_is_found_and_scored_as_scikit_learn_does() -> None:
    films = films_of(source=SOURCE, noise=tuple(np.where(NOISE, "a", "b").tolist()))
    (found,) = find_shortcuts(films, task_of(films), {})
    share = np.array([MASS[~TESTED & ~NORTH].mean(), MASS[~TESTED & NORTH].mean()])
    expected = roc_auc_score(MASS[TESTED], share[NORTH[TESTED].astype(int)])
    assert found.auc == pytest.approx(expected, abs=1e-12)
    assert (found.column, found.same) == ("source", ())
    assert TELLS < found.low < found.auc < found.high
    assert f"AUC of {found.auc:.2f} ({found.low:.2f} to {found.high:.2f})" in found.text
    assert "with it 81% 'north [1]'" in found.text


def test_the_interval_is_that_of_patients_drawn_anew() -> None:
    films = films_of(source=SOURCE)
    (found,) = find_shortcuts(films, task_of(films), {})
    rng, tested = np.random.default_rng(1), PATIENTS[TESTED]
    by_patient = {p: np.flatnonzero(tested == p) for p in np.unique(tested)}
    people, labels, north = list(by_patient), MASS[TESTED], NORTH[TESTED]
    aucs = []
    for _ in range(1000):
        rows = np.concatenate([by_patient[p] for p in rng.choice(people, len(people))])
        shown, there = labels[rows], north[rows]
        aucs.append(0.5 + (there[shown].mean() - there[~shown].mean()) / 2)  # of a score with two values
    assert (found.low, found.high) == pytest.approx(np.percentile(aucs, [2.5, 97.5]), abs=0.015)


@pytest.mark.parametrize(
    ("value", "condition"),
    [
        ("north [1]", "source=north [1]"),
        ("n\x1b[31m\u202e*", "source=n?[[]31m?[*]"),
        ("x'y" + "z" * 120, "source=x'y" + "z" * 97 + "*"),
    ],
)
def test_what_to_do_is_a_condition_that_takes_the_shortcut_away(value: str, condition: str) -> None:
    films = films_of(source=tuple(value if north else "south" for north in NORTH))
    (found,) = find_shortcuts(films, task_of(films), {})
    assert found.text.isprintable()
    asked = shlex.split(found.text.partition("--where ")[2].removesuffix("."))
    assert asked == [condition]
    kept = apply_where(films, parse_where(asked)).films
    assert kept.tolist() == np.flatnonzero(NORTH).tolist()
    task = task_of(films)
    inside = np.isin(task.test, kept)
    shown = tuple(names if north else frozenset() for names, north in zip(films.findings, NORTH, strict=True))
    north = replace(films, findings=shown)  # the others belong to no class
    assert find_shortcuts(north, replace(task, test=task.test[inside], labels=task.labels[inside]), {}) == []


def test_a_source_that_holds_one_class_alone_cannot_be_kept_to() -> None:
    films = films_of(source=tuple("clinic" if mass else "public" for mass in MASS))
    (found,) = find_shortcuts(films, task_of(films, "No Finding"), {})
    assert found.auc == found.low == found.high == 1
    assert "from No Finding" in found.text
    assert "none to keep to" in found.text
    assert "--where" not in found.text


def test_facts_of_the_files_and_columns_that_say_the_same() -> None:
    films = films_of(source=SOURCE, licence=tuple(f"licence of {source}" for source in SOURCE))
    facts = {"size of the file": tuple("512 x 512" if north else "64 x 64" for north in NORTH)}
    (found,) = find_shortcuts(films, task_of(films), facts)
    assert (found.column, found.same) == ("source", ("licence", "size of the file"))
    assert "'licence' and 'size of the file' alone" in found.text
    (alone,) = find_shortcuts(films_of(), task_of(films), facts)
    assert alone.column == "size of the file"
    assert "--where COLUMN=VALUE" in alone.text


def test_age_and_sex_are_told_as_what_they_are() -> None:
    ages = [f"{age:03d}Y" for age in AGE]
    ages[:9] = [""] * 9
    films = films_of(PatientAge=tuple(ages), Sex=tuple("F" if north else "M" for north in NORTH))
    found = {one.column: one.text for one in find_shortcuts(films, task_of(films), {})}
    assert found["PatientAge"].startswith("Age alone ('PatientAge') tells Mass from the rest")
    older = f"older (median {np.median(AGE[9:][MASS[9:]]):.0f} against {np.median(AGE[9:][~MASS[9:]]):.0f} years)"
    assert older in found["PatientAge"]
    assert "age is not stated for" in found["PatientAge"]
    assert found["Sex"].startswith("Sex alone ('Sex') tells")
    assert "81% 'F'" in found["Sex"]


def test_brightness_is_told_as_what_it_is() -> None:
    """Every film has a brightness of its own; in the table such a column counts as a name."""
    light = tuple(f"{200 - age + i / 1000:.3f}" for i, age in enumerate(AGE))
    films = films_of(light=light)
    (found,) = find_shortcuts(films, task_of(films), {LIGHT: light})
    assert found.column == LIGHT
    assert "brightness of the film alone, in fifths, tells" in found.text
    assert "--where" not in found.text


def test_names_and_free_text_are_neither_used_nor_told() -> None:
    """Each of these columns gives every mass away; none of their cells may be repeated."""
    secret = ["mass: " if mass else "clear: " for mass in MASS]
    films = films_of(
        report=tuple(f"{text}Mrs {i}" for i, text in enumerate(secret)),
        subject=tuple(f"{text}{p}" for p, text in zip(PATIENTS, secret, strict=True)),
        number=tuple(str(10_000 * mass + p) for p, mass in zip(PATIENTS, MASS, strict=True)),
        word=tuple(f"{text}{p % 15}" for p, text in zip(PATIENTS, secret, strict=True)),
    )
    assert find_shortcuts(films, task_of(films), {}) == []
    mixed = films_of(source=tuple(f"Mrs {i}" if i % 50 == 0 else source for i, source in enumerate(SOURCE)))
    (found,) = find_shortcuts(mixed, task_of(mixed), {})
    assert "Mrs" not in found.text


def test_what_is_not_learned_from() -> None:
    """Films of no class, films that the table says nothing of, and training films of patients who are tested."""
    films = films_of(source=SOURCE)
    plain = find_shortcuts(films, task_of(films, "No Finding"), {})
    swapped = films_of(source=tuple("south" if o else value for o, value in zip(OTHER, SOURCE, strict=True)))
    assert find_shortcuts(swapped, task_of(swapped, "No Finding"), {})[0].auc == plain[0].auc  # only the order counts
    hernia, unknown = (
        tuple(shown if o else names for o, names in zip(OTHER, films.findings, strict=True))
        for shown in (frozenset({"Hernia"}), frozenset[str]())
    )
    first = find_shortcuts(replace(films, findings=hernia), task_of(films, "No Finding"), {})
    second = replace(films, findings=unknown)
    assert [one.text for one in find_shortcuts(second, task_of(second), {})] == [
        one.text.replace("No Finding", REST) for one in first
    ]
    task = task_of(films, "No Finding")
    half = replace(task, test=task.test[::2], labels=task.labels[::2])
    unused = np.setdiff1d(task.test, half.test)
    unused = unused[np.isin(PATIENTS[unused], PATIENTS[half.test])]
    assert len(unused) > 20
    turned = list(SOURCE)
    for i in unused:
        turned[i] = "south" if MASS[i] else "north [1]"
    moved = films_of(source=tuple(turned))
    assert find_shortcuts(moved, half, {}) == find_shortcuts(films, half, {})


def test_too_few_patients_to_say_anything() -> None:
    films = films_of(source=SOURCE)
    masses = np.flatnonzero(MASS & TESTED)
    few = masses[np.isin(PATIENTS[masses], np.unique(PATIENTS[masses])[:4])]
    test = np.sort(np.concatenate([few, np.flatnonzero(~MASS & TESTED)]))
    assert find_shortcuts(films, Task("Mass", REST, test, MASS[test], {}), {}) == []


def test_the_order_of_films_does_not_matter() -> None:
    films = films_of(source=SOURCE, age=tuple(map(str, AGE)))
    task = task_of(films)
    place = np.empty(N, int)
    place[ORDER] = np.arange(N)
    moved = replace(
        films,
        patients=tuple(films.patients[i] for i in ORDER),
        findings=tuple(films.findings[i] for i in ORDER),
        columns={name: tuple(values[i] for i in ORDER) for name, values in films.columns.items()},
    )
    test = np.sort(place[task.test])
    again = replace(task, test=test, labels=moved.showing("Mass")[test])
    assert find_shortcuts(moved, again, {}) == find_shortcuts(films, task, {})

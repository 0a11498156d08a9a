"""Episodes: no patient on both sides, the same whatever the order, little changed by films added later."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scarce_cli.errors import UsageError
from scarce_cli.evaluation.fewshot.drawing import _mix, draw_episodes, in_test_part, united_patients, unlabelled
from scarce_cli.evaluation.fewshot.episodes import Episodes, EpisodeSettings, Skipped, Task
from scarce_cli.evaluation.fewshot.films import REST, Films
from tests.evaluation.fewshot.tables import FINDINGS, chosen, make_films, shuffled, some_films, tables

STEADY = settings(max_examples=40, deadline=None, derandomize=True)
QUICK = EpisodeSettings(shots=(1, 3, 8), draws=4, test_fraction=0.4)
NAMES = st.text(min_size=1, max_size=6)


def the_task(films: Films, finding: str = "nodule", against: str | None = None, how: EpisodeSettings = QUICK) -> Task:
    (task,) = draw_episodes(films, [finding], against, how).tasks
    return task


def by_name(films: Films, episodes: Episodes) -> list[object]:
    """Episodes with films by name."""

    def named(numbers: np.ndarray) -> list[str]:
        return [films.names[n] for n in numbers]

    return [
        (
            task.finding,
            sorted(zip(named(task.test), task.labels.tolist(), strict=True)),
            {shots: [named(s.films) for s in draws] for shots, draws in task.supports.items()},
        )
        for task in episodes.tasks
    ] + list(episodes.skipped)


@STEADY
@given(
    patients=st.lists(NAMES, min_size=1, max_size=40),
    fraction=st.floats(0.05, 0.95),
    seed=st.integers(0, 2**32 - 1),
)
def test_a_patient_is_never_in_both_parts(patients: list[str], fraction: float, seed: int) -> None:
    test = in_test_part(patients, fraction, seed)
    assert test.dtype == bool
    for patient in set(patients):
        assert len({bool(side) for name, side in zip(patients, test, strict=True) if name == patient}) == 1


@STEADY
@given(st.lists(NAMES, min_size=1, max_size=20), st.lists(NAMES, max_size=20), st.integers(0, 100))
def test_more_films_move_nobody(patients: list[str], more: list[str], seed: int) -> None:
    before, after = in_test_part(patients, 0.3, seed), in_test_part([*more, *patients], 0.3, seed)
    assert (after[len(more) :] == before).all()


def test_the_share_of_test_patients_is_the_one_asked_for() -> None:
    names = [f"{n:08d}_000" for n in range(5000)]
    for fraction in (0.1, 0.2, 0.5):
        assert in_test_part(names, fraction, 0).mean() == pytest.approx(fraction, abs=0.02)


def test_another_seed_is_another_split() -> None:
    """Two patients tested together once are together again no more often than by chance."""
    names = [f"{n:05d}" for n in range(400)]
    sides = np.array([in_test_part(names, 0.2, seed) for seed in range(60)], float)
    together = np.corrcoef(sides.T)[np.triu_indices(400, 1)]
    assert np.abs(together).max() < 0.8
    assert together.std() == pytest.approx(60**-0.5, rel=0.1)


@STEADY
@given(tables(), st.sampled_from([None, *FINDINGS[1:]]), st.integers(0, 50), st.randoms())
def test_episodes_of_any_table_keep_every_promise(films: Films, against: str | None, seed: int, luck: object) -> None:
    """Patients apart (also those to be kept together), classes as labelled, distinct films, nested shots, all
    test films used, and nothing left out without a reason."""
    how = replace(QUICK, shots=(1, 2, 4), draws=2, seed=seed)
    there = {name for names in films.findings for name in names} - {against}
    if not there or (against is not None and not films.showing(against).any()):
        return
    pairs = [(luck.randrange(len(films)), luck.randrange(len(films))) for _ in range(luck.randrange(3))]  # type: ignore[attr-defined]
    episodes = draw_episodes(films, sorted(there), against, how, pairs)
    patients = np.array(united_patients(films, pairs), object)
    side = in_test_part(united_patients(films, pairs), how.test_fraction, seed)
    told = {(one.finding, one.shots) for one in episodes.skipped}
    for one, other in pairs:
        assert side[one] == side[other]
    for task in episodes.tasks:
        has, other = films.showing(task.finding), films.known() if against is None else films.showing(against)
        positive, negative = has & (~other if against else True), other & ~has
        assert task.test.tolist() == np.flatnonzero((positive | negative) & side).tolist()
        assert (task.labels == has[task.test]).all()
        assert 0 < task.labels.sum() < len(task.labels)
        assert all(shots in task.supports or (task.finding, shots) in told for shots in how.shots)
        for shots, draws in task.supports.items():
            assert len(draws) == how.draws
            for number, support in enumerate(draws):
                assert len(set(support.films.tolist())) == 2 * shots
                assert positive[support.films[:shots]].all()
                assert negative[support.films[shots:]].all()
                assert support.labels.tolist() == [True] * shots + [False] * shots
                assert not set(patients[support.films]) & set(patients[task.test])
                more = task.supports[max(task.supports)][number].films.reshape(2, -1)
                assert (more[:, :shots].ravel() == support.films).all()
    drawn = {task.finding for task in episodes.tasks}
    assert all(finding in drawn or any(finding == f for f, _ in told) for finding in there)


@STEADY
@given(tables(), st.integers(0, 50))
def test_the_order_of_the_films_does_not_matter(films: Films, seed: int) -> None:
    there = sorted({name for names in films.findings for name in names})
    other, _ = shuffled(films, seed)
    assert by_name(films, draw_episodes(films, there, None, QUICK)) == by_name(
        other, draw_episodes(other, there, None, QUICK)
    )


def test_a_draw_is_what_its_ranks_say() -> None:
    """Against plain integers: one film of each patient by the patients' ranks, then a second one of each."""
    films = some_films(90, per_patient=3)
    task = the_task(films, how=EpisodeSettings(shots=(30,), draws=1, seed=7))
    (support,) = task.supports[30]
    for label, found in ((1, support.films[:30]), (0, support.films[30:])):
        key = as_hash(json.dumps([7, "nodule", REST, 0, label]))
        side = in_test_part(films.patients, 0.2, 7)
        ranked: dict[str, list[int]] = {}
        for film in np.flatnonzero(~side & (films.showing("nodule") == bool(label))):
            ranked.setdefault(films.patients[film], []).append(int(film))
        for of in ranked.values():
            of.sort(key=lambda film: split_mix(as_hash(films.names[film]) ^ key))
        people = sorted(ranked, key=lambda patient: split_mix(as_hash(patient) ^ key))
        rounds = [ranked[patient][nth] for nth in range(3) for patient in people if nth < len(ranked[patient])]
        assert len(people) < 30 < len(rounds)
        assert found.tolist() == rounds[:30]


def as_hash(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big")


def split_mix(state: int) -> int:
    z = (state + 0x9E3779B97F4A7C15) % 2**64
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) % 2**64
    return z ^ (z >> 31)


def test_mixing_is_split_mix_64() -> None:
    """The first numbers of the published generator from seed 1234567."""
    gamma = 0x9E3779B97F4A7C15
    states = np.array([(1234567 + step * gamma) % 2**64 for step in range(3)], np.uint64)
    assert _mix(states).tolist() == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_draws_are_independent_and_reach_every_film() -> None:
    """Each draw is a fresh sample: how often a film comes up, and two together, is as chance has it."""
    films = some_films(300, per_patient=1)
    task = the_task(films, how=replace(QUICK, shots=(20,), draws=400))
    taken = np.zeros((400, len(films)))
    for row, support in zip(taken, task.supports[20], strict=True):
        row[support.films] = 1
    for members in (films.showing("nodule"), ~films.showing("nodule")):
        train = np.setdiff1d(np.flatnonzero(members), task.test)
        counts, share = taken[:, train].sum(axis=0), 20 / len(train)
        assert counts.min() > 0
        assert counts.std() == pytest.approx((400 * share * (1 - share)) ** 0.5, rel=0.25)
        together = np.corrcoef(taken[:, train].T)[np.triu_indices(len(train), 1)]
        assert together.std() == pytest.approx(400**-0.5, rel=0.1)


def test_draws_differ_by_seed_finding_and_class() -> None:
    films = some_films(200)
    sets = [
        tuple(support.films.tolist())
        for task in (
            the_task(films),
            the_task(films, "effusion"),
            the_task(films, "nodule", "effusion"),
            the_task(films, how=replace(QUICK, seed=1)),
        )
        for support in task.supports[8]
    ]
    assert len(set(sets)) == len(sets) == 16
    both = make_films(*((f"{n}{label}.png", f"P{n}", label) for n in range(200) for label in ("nodule", "normal")))
    for support in the_task(both).supports[8]:  # two of some 120 patients' films: rarely of one patient
        assert len({both.patients[film] for film in support.films}) > 12


def test_more_films_change_little() -> None:
    """Of 20 films drawn out of 300 patients, 10 % more patients displace about 10 %: a new shuffle would displace
    nearly all."""
    films = some_films(660, per_patient=2)
    fewer = chosen(films, np.arange(600))
    how = replace(QUICK, shots=(20,), draws=20)
    pairs = zip(the_task(fewer, how=how).supports[20], the_task(films, how=how).supports[20], strict=True)
    kept = [len(set(old.films.tolist()) & set(new.films.tolist())) / 40 for old, new in pairs]
    assert 0.8 < np.mean(kept) < 1


def test_a_film_of_which_nothing_is_said_is_in_neither_class() -> None:
    films = make_films(*((f"{n}.png", f"P{n}", cell) for n, cell in enumerate(["nodule", "normal", ""] * 20)))
    task = the_task(films)
    silent = {n for n in range(60) if n % 3 == 2}
    assert unlabelled(films) == 20
    assert not silent & set(task.test.tolist())
    assert not any(silent & set(s.films.tolist()) for draws in task.supports.values() for s in draws)
    stated = replace(films, stated=(True,) * 60)  # a column of 0 and 1 for each finding
    assert unlabelled(stated) == 0
    assert silent & set(the_task(stated).test.tolist())


def test_patients_to_be_kept_together_take_the_side_of_the_first() -> None:
    films = make_films(*((f"{n}.png", f"P{n:03d}", "nodule" if n % 2 else "normal") for n in range(60)))
    chain = [(50, 40), (40, 30), (12, 30)]
    names = united_patients(films, chain)
    assert {names[n] for n in (12, 30, 40, 50)} == {"P012"}
    assert [names[n] for n in range(60) if n not in (12, 30, 40, 50)] == [
        films.patients[n] for n in range(60) if n not in (12, 30, 40, 50)
    ]
    sides = [in_test_part(films.patients, 0.4, seed)[[12, 50]] for seed in range(20)]
    seed = next(seed for seed, (one, other) in enumerate(sides) if one != other)
    drawn = draw_episodes(films, ["nodule"], None, replace(QUICK, seed=seed), chain).tasks[0]
    apart = the_task(films, how=replace(QUICK, seed=seed))
    assert {n in drawn.test for n in (12, 30, 40, 50)} == {12 in apart.test}
    assert (50 in apart.test) != (12 in apart.test)


@pytest.mark.parametrize(("finding", "against"), [("hernia", None), ("nodule", "hernia")])
def test_an_unknown_finding_is_named_with_those_there_are(finding: str, against: str | None) -> None:
    with pytest.raises(UsageError, match="no film is labelled 'hernia'") as raised:
        draw_episodes(some_films(), ["effusion", finding], against, QUICK)
    assert "nodule (" in raised.value.remedy
    assert "effusion (" in raised.value.remedy


def test_a_misspelt_finding_is_put_right_and_a_long_list_is_cut() -> None:
    cells = [",".join(f"finding {n}" for n in range(k, 40)) for k in range(3)]
    films = make_films(*((f"{n}.png", f"P{n}", cell) for n, cell in enumerate(cells)))
    with pytest.raises(UsageError, match="did you mean 'finding 3'") as raised:
        draw_episodes(films, ["findng 3"], None, QUICK)
    assert raised.value.remedy.endswith("(3), and 20 more")


def test_a_finding_is_not_tested_against_itself() -> None:
    with pytest.raises(UsageError, match="'nodule' cannot be tested against itself"):
        draw_episodes(some_films(), ["effusion", "nodule"], "nodule", QUICK)


def people(*cells: str, test: int) -> list[tuple[str, str, str]]:
    """One film for each cell, the first ``test`` of them of test patients."""
    sides = {side: [n for n in range(60) if in_test_part([f"P{n}"], 0.4, 0)[0] == side] for side in (True, False)}
    numbers = [*sides[True][:test], *sides[False]]
    return [(f"{n}.png", f"P{n}", cell) for n, cell in zip(numbers, cells, strict=False)]


@pytest.mark.parametrize(
    ("rows", "against", "reason"),
    [
        (people("a", "a", "b", test=1), None, "no test patient has a film of the rest"),
        (people("b", "a", "b", test=1), None, "no test patient has a film of 'a'"),
        (people("a", "b", "b", test=2), None, "no training patient has a film of 'a'"),
        (people("a", "b", "a", test=2), "b", "no training patient has a film of 'b'"),
        (
            people("a", "a", "", test=1),
            None,
            "all films that are labelled show 'a': there is nothing to hold it against",
        ),
        (people("a", "a,b", test=1), "b", "every film of 'b' shows 'a' too: there is nothing to hold it against"),
        (people("b", "a,b", test=1), "b", "every film of 'a' shows 'b' too"),
    ],
)
def test_a_task_of_one_class_is_left_out_with_the_reason(rows: list, against: str | None, reason: str) -> None:
    episodes = draw_episodes(make_films(*rows), ["a"], against, QUICK)
    assert episodes.tasks == ()
    assert episodes.skipped == (Skipped("a", against or REST, None, reason),)
    assert len(episodes.films()) == 0


def test_more_shots_than_films_are_left_out_with_the_reason() -> None:
    films = make_films(*people("a", "b", *"a" * 5, *"b" * 3, test=2))
    (task,), skipped = (episodes := draw_episodes(films, ["a"], None, QUICK)).tasks, episodes.skipped
    assert list(task.supports) == [1, 3]
    assert skipped == (Skipped("a", REST, 8, "only 3 training films of the rest"),)
    none = draw_episodes(films, ["b"], "a", replace(QUICK, shots=(8, 9)))
    assert none.tasks == ()
    assert [(one.shots, one.reason) for one in none.skipped] == [
        (8, "only 3 training films of 'b'"),
        (9, "only 3 training films of 'b'"),
    ]

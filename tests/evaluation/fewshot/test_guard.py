"""Leaks: every planted one is found and named by film, a clean draw has none."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scarce_cli.data.manifest import pixel_keys
from scarce_cli.errors import UsageError
from scarce_cli.evaluation.fewshot.drawing import draw_episodes
from scarce_cli.evaluation.fewshot.episodes import Episodes, EpisodeSettings, Support, Task
from scarce_cli.evaluation.fewshot.films import REST, Films
from scarce_cli.evaluation.fewshot.guard import (
    Leaks,
    find_leaks,
    identical_pairs,
    require_clean,
    seen_films,
    sides,
)
from tests.evaluation.fewshot.tables import make_films, shuffled, some_films, tables

STEADY = settings(max_examples=40, deadline=None, derandomize=True)
HOW = EpisodeSettings(shots=(1,), draws=1)
ROWS = tuple((f"{letter}.png", patient, "nodule") for letter, patient in zip("abcdef", "111223", strict=True))


def task(finding: str, test: list[int], support: list[int]) -> Task:
    labels = np.arange(len(support)) < len(support) // 2
    draws = (Support(np.array(support), labels),)
    return Task(finding, REST, np.array(test), np.arange(len(test)) % 2 == 0, {len(support) // 2: draws})


def episodes(*tasks: Task) -> Episodes:
    return Episodes(HOW, tasks, ())


@STEADY
@given(tables(), st.integers(0, 100), st.integers(1, 12))
def test_only_pixels_can_leak_from_a_draw_and_all_that_do_are_found(films: Films, seed: int, pictures: int) -> None:
    """Films that share ``pictures`` pictures: the pairs link exactly the patients that brute force finds, and with
    these kept together nothing leaks."""
    rng = np.random.default_rng(seed)
    hashes = [f"{n:032x}" for n in range(pictures)] + [""] * 3 + [f"{n:032x}" for n in range(99, 199)]
    films = replace(films, pixels=tuple(rng.choice(hashes, len(films))))
    findings = sorted({name for names in films.findings for name in names})
    drawn = draw_episodes(films, findings, None, replace(HOW, seed=seed, test_fraction=0.4))
    leaks = find_leaks(films, drawn)
    assert leaks.patients == ()
    learned, tested = sides(films, drawn)
    both = {p for p, one in zip(films.pixels, learned, strict=True) if one}
    both &= {p for p, one in zip(films.pixels, tested, strict=True) if one}
    assert len(leaks.pictures) == len(both - {""})
    joined = linked(films, identical_pairs(films))
    for one, other in combinations(range(len(films)), 2):
        if films.pixels[one] and films.pixels[one] == films.pixels[other]:
            assert joined[films.patients[one]] == joined[films.patients[other]]
    for one, other in identical_pairs(films):
        assert films.pixels[one] == films.pixels[other] != ""
        assert films.patients[one] != films.patients[other]
    pairs = identical_pairs(films)
    assert len(leaks.owners) == len(pairs)
    again = draw_episodes(films, findings, None, replace(HOW, seed=seed, test_fraction=0.4), pairs)
    assert not find_leaks(films, again, pairs)
    require_clean(find_leaks(films, again, pairs))


def linked(films: Films, pairs: tuple[tuple[int, int], ...]) -> dict[str, int]:
    """Patient -> number of its group, by spreading the smaller number until nothing changes."""
    group = {patient: n for n, patient in enumerate(sorted(set(films.patients)))}
    for _ in films.patients:
        for one, other in pairs:
            a, b = films.patients[one], films.patients[other]
            group[a] = group[b] = min(group[a], group[b])
    return group


def test_the_order_of_the_films_does_not_matter() -> None:
    films = replace(some_films(60), pixels=tuple(f"{n % 50:032x}" for n in range(60)))
    other, _ = shuffled(films, 1)
    named = [[tuple(some.names[n] for n in pair) for pair in identical_pairs(some)] for some in (films, other)]
    assert named[0] == named[1]
    assert len(named[0]) == 10


def test_a_patient_on_both_sides_of_a_task_is_found() -> None:
    films = make_films(*ROWS)
    leaks = find_leaks(films, episodes(task("nodule", [3, 2], [1, 5])))
    assert leaks == Leaks(patients=(("b.png", "c.png"),), pictures=(), owners=())
    with pytest.raises(UsageError) as raised:
        require_clean(leaks)
    assert raised.value.exit_code == 2
    assert "to test on (1 patient: 'b.png' and 'c.png')" in raised.value.message
    assert "leave out --episodes" in raised.value.remedy


def test_a_patient_of_two_tasks_is_found() -> None:
    """One task learns from what another one tests: also the very same film."""
    films = make_films(*ROWS)
    leaks = find_leaks(films, episodes(task("nodule", [0], [3, 5]), task("effusion", [4, 5], [0, 2])))
    assert leaks.patients == (("a.png", "a.png"), ("d.png", "e.png"), ("f.png", "f.png"))
    assert leaks.pictures == (("a.png", "a.png"), ("f.png", "f.png"))


def test_the_same_picture_is_found_wherever_it_is() -> None:
    """On both sides, and under two patients even where neither side has it. Unknown pixels are like nothing."""
    films = make_films(*ROWS, pixels=("x", "y", "y", "x", "", ""))
    leaks = find_leaks(films, episodes(task("nodule", [3], [1, 2])))
    assert leaks == Leaks(patients=(), pictures=(), owners=(("a.png", "d.png"),))
    leaks = find_leaks(films, episodes(task("nodule", [3], [0, 1])))
    assert leaks == Leaks(patients=(), pictures=(("a.png", "d.png"),), owners=(("a.png", "d.png"),))
    with pytest.raises(UsageError, match="under two patients") as raised:
        require_clean(leaks)
    assert "remove one row of each pair" in raised.value.remedy
    assert "--same-film join" in raised.value.remedy


def test_patients_joined_too_late_leak() -> None:
    """Episodes that were drawn before the patients of two films were found to be one."""
    films = make_films(*ROWS, pixels=("x", "y", "z", "x", "", ""))
    drawn = episodes(task("nodule", [3], [1, 2]))
    assert find_leaks(films, drawn, identical_pairs(films)) == Leaks((("b.png", "d.png"),), (), ())


def test_a_message_counts_all_and_names_five_films_and_no_patient() -> None:
    films = make_films(*((f"{n}.png", f"secret{n // 2}", "nodule") for n in range(40)), pixels=("same",) * 40)
    with pytest.raises(UsageError) as raised:
        require_clean(find_leaks(films, episodes(task("nodule", [*range(0, 40, 2)], [*range(1, 40, 2)]))))
    assert "(20 patients: '1.png' and '0.png', '11.png' and '10.png'," in raised.value.message
    assert "19 pictures" in raised.value.message
    assert raised.value.message.count(", ...)") == 2
    assert "secret" not in str(raised.value)


def test_films_seen_in_pretraining_are_known_by_their_pixels() -> None:
    rng = np.random.default_rng(0)
    hashes = [rng.bytes(16).hex() for _ in range(60)]
    found = seen_films([*hashes, "", "0" * 31, "no hash", hashes[0].upper()], pixel_keys(hashes[::2]))
    assert found.tolist() == [n % 2 == 0 for n in range(60)] + [False] * 4
    assert not seen_films(["", "f"], pixel_keys(["0" * 32])).any()
    assert not seen_films(hashes, pixel_keys([])).any()

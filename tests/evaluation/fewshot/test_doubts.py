"""What may leak without proof is said, in words that name films and no patient; a clean table raises no doubt."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from scarce_cli.evaluation.fewshot.doubts import doubts
from scarce_cli.evaluation.fewshot.drawing import draw_episodes
from scarce_cli.evaluation.fewshot.episodes import Episodes, EpisodeSettings
from scarce_cli.evaluation.fewshot.films import Films
from scarce_cli.evaluation.fewshot.guard import sides
from tests.evaluation.fewshot.tables import make_films, some_films

FILMS = some_films(60)
HOW = EpisodeSettings(shots=(5,), draws=4, test_fraction=0.4)
DRAWN = draw_episodes(FILMS, ["nodule"], None, HOW)
LEARNED, TESTED = (np.flatnonzero(side) for side in sides(FILMS, DRAWN))


def drawn(films: Films) -> Episodes:
    return draw_episodes(films, ["nodule"], None, HOW)


def test_a_clean_table_raises_none() -> None:
    assert doubts(FILMS, DRAWN) == ()
    assert doubts(FILMS, Episodes(HOW, (), ())) == ()


def test_near_films_count_only_across_the_split() -> None:
    one, other = int(LEARNED[0]), int(TESTED[0])
    unused = next(n for n in range(60) if n not in LEARNED and n not in TESTED)
    harmless = [(int(LEARNED[0]), int(LEARNED[1])), (int(TESTED[0]), int(TESTED[1])), (unused, other), (one, unused)]
    assert doubts(FILMS, DRAWN, harmless) == ()
    for pair in ((one, other), (other, one)):
        (text,) = doubts(FILMS, DRAWN, [*harmless, pair])
        assert text.startswith("in 1 pair of films, the two look nearly the same")
        assert all(repr(FILMS.names[film]) in text for film in pair)
    across = [(int(a), int(b)) for a, b in zip(LEARNED[:7], TESTED[:7], strict=True)]
    (text,) = doubts(FILMS, DRAWN, across)
    assert text.startswith("in 7 pairs of films")
    assert text.endswith(", ...)")


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        ("7", "007", True),
        ("7.0", "7", True),
        ("P7", "p 7", True),
        ("A-012", "a_12", True),
        ("\u0661\u0662", "12", False),  # Arabic digits: another hand, not another export
        ("\uff11", "1", True),
        ("7.5", "75", False),
        ("70", "7", False),
        ("1-2", "12", False),
        ("A1B", "AB1", False),
        ("-", "--", False),
    ],
)
def test_patients_that_differ_in_writing_only(one: str, other: str, alike: bool) -> None:
    patients = list(FILMS.patients)
    patients[LEARNED[0]], patients[TESTED[0]] = one, other
    found = doubts(replace(FILMS, patients=tuple(patients)), DRAWN)
    assert len(found) == alike
    if alike:
        pair = f"({FILMS.names[LEARNED[0]]!r} and {FILMS.names[TESTED[0]]!r})"
        assert found[0].startswith("in 1 pair of films, the two belong to patients whose names differ only in writing")
        assert found[0].endswith(pair)


def test_patients_that_differ_in_writing_on_one_side_are_no_matter() -> None:
    patients = list(FILMS.patients)
    patients[LEARNED[0]], patients[LEARNED[1]] = "7", "007"
    assert doubts(replace(FILMS, patients=tuple(patients)), DRAWN) == ()
    patients[TESTED[0]] = "7"  # the same name is a leak, for the guard to refuse
    patients[LEARNED[1]] = "8"
    assert doubts(replace(FILMS, patients=tuple(patients)), DRAWN) == ()


def test_films_without_a_patient_are_counted() -> None:
    films = make_films(
        *(
            (f"set/{'0' * (n % 2)}{n // 2}.png", f"{'0' * (n % 2)}{n // 2}.png", "nodule" if n % 3 else "normal")
            for n in range(60)
        )
    )
    (text,) = doubts(films, drawn(films))
    assert text.startswith(f"{len(drawn(films).films())} films belong to no named patient")


def test_a_patient_of_too_many_films_is_a_name_for_none() -> None:
    rows = [(f"{n}.png", "unknown" if n < 501 else f"P{n}", "nodule" if n % 2 else "normal") for n in range(700)]
    (text,) = doubts(films := make_films(*rows), drawn(films))
    assert text.startswith("one patient has 501 of 700 films")
    assert "unknown patients" in text
    fewer = make_films(*rows[1:])
    assert doubts(fewer, drawn(fewer)) == ()


def test_one_picture_with_two_labels_is_named() -> None:
    one, other = (int(n) for n in TESTED[:2])
    findings, pixels = list(FILMS.findings), list(FILMS.pixels)
    pixels[one] = pixels[other]
    findings[one], findings[other] = frozenset({"nodule"}), frozenset({"normal"})
    (text,) = doubts(replace(FILMS, pixels=tuple(pixels), findings=tuple(findings)), DRAWN)
    names = f"({FILMS.names[one]!r} and {FILMS.names[other]!r})"
    assert text == f"in 1 pair of films, the two are the same picture with other findings {names}"
    assert doubts(replace(FILMS, pixels=tuple(pixels), findings=(findings[one],) * 60), DRAWN) == ()

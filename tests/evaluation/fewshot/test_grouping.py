"""Columns as groups of films."""

from __future__ import annotations

import math

import numpy as np
import pytest

from scarce_cli.evaluation.fewshot.grouping import NOT_STATED, RARE, Groups, group

N = 400
PATIENTS = np.arange(N) // 2  # two films each
TRAIN = PATIENTS % 5 != 0


def grouped(cells: list[str], train: np.ndarray = TRAIN) -> Groups | None:
    assert len(cells) == N
    return group(cells, PATIENTS, train)


def names_by_film(found: Groups) -> list[str]:
    return [found.names[code] for code in found.codes]


def test_values_are_groups_and_rare_ones_are_one() -> None:
    cells = [["north", "south", ""][int(p) % 3] for p in PATIENTS]
    cells[0:2], cells[10:12] = ["east"] * 2, ["Mrs Miller"] * 2
    found = grouped(cells)
    assert found is not None
    assert found.numbers is None
    assert names_by_film(found) == [RARE if cell in ("east", "Mrs Miller") else cell for cell in cells]
    assert dict(zip(found.names, found.values, strict=True)) == {"north": True, "south": True, "": True, RARE: False}


def test_five_training_patients_make_a_group() -> None:
    for count, named in ((4, False), (5, True)):
        people = np.flatnonzero(TRAIN)[::2][:count]
        cells = ["odd" if PATIENTS[i] in PATIENTS[people] else "north" for i in range(N)]
        found = grouped(cells)
        assert found is not None
        assert ("odd" in found.names) is named


@pytest.mark.parametrize(
    "cells",
    [
        ["same"] * N,  # one value
        [f"{i}.png" for i in range(N)],  # a film's name
        [f"subject {p}" for p in PATIENTS],  # a patient's name
        [str(10_000 + int(p)) for p in PATIENTS],  # a patient's number
        [f"word {p % 21}" for p in PATIENTS],  # text: more than 20 values
        ["north" if p % 5 else "south" for p in PATIENTS],  # south: test patients only, who are not looked at
    ],
    ids=["constant", "film", "patient", "number", "text", "unseen"],
)
def test_what_is_no_property_of_films_is_no_group(cells: list[str]) -> None:
    found = grouped(cells)
    assert found is None or found.names == ("north", RARE)  # unseen values are rare ones


def test_numbers_fall_into_fifths_of_the_training_films() -> None:
    rng = np.random.default_rng(3)
    ages = rng.integers(18, 95, size=200)[PATIENTS]
    cells = [str(age) for age in ages]
    cells[:20] = [""] * 20
    found = grouped(cells)
    assert found is not None
    assert found.numbers is not None
    assert np.isnan(found.numbers[:20]).all()
    assert (found.numbers[20:] == ages[20:]).all()
    known = TRAIN & (np.arange(N) >= 20)
    edges = np.quantile(ages[known], (0.2, 0.4, 0.6, 0.8), method="inverted_cdf")
    assert found.codes[20:].tolist() == [int(sum(age >= edge for edge in edges)) for age in ages[20:]]
    assert {found.names[code] for code in found.codes[:20]} == {NOT_STATED}
    shares = np.bincount(found.codes[known]) / known.sum()
    assert (np.abs(shares - 0.2) < 0.03).all()


def test_test_films_do_not_move_the_groups() -> None:
    rng = np.random.default_rng(4)
    for values in (rng.integers(18, 95, size=200), rng.integers(4, size=200)):
        cells = [str(values[p]) for p in PATIENTS]
        other = [cell if train else "33" for cell, train in zip(cells, TRAIN, strict=True)]
        first, second = grouped(cells), grouped(other)
        assert first is not None
        assert second is not None
        assert np.array_equal(np.array(names_by_film(first))[TRAIN], np.array(names_by_film(second))[TRAIN])


def test_a_few_sizes_of_film_are_values_even_with_some_odd_ones() -> None:
    cells = [["224", "512", "1024"][int(p) % 3] for p in PATIENTS]
    cells[40:60] = [str(300 + i // 2) for i in range(20)]
    found = grouped(cells)
    assert found is not None
    assert set(found.names) == {"224", "512", "1024", RARE}


def test_ages_as_dicom_writes_them() -> None:
    years = np.arange(200) % 70 + 1
    cells = [f"{years[p]:03d}Y" for p in PATIENTS]
    cells[:4] = ["009M", "009M", "010D", "002W"]
    found = grouped(cells)
    assert found is not None
    assert found.numbers is not None
    assert math.isclose(found.numbers[0], 0.75)
    assert found.numbers[6] == years[3]
    assert found.numbers[3] == pytest.approx(14 / 365.25)

"""Choosing films by columns and findings by cases."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
import pytest

from scarce_cli.errors import UsageError
from scarce_cli.evaluation.fewshot.choosing import (
    Condition,
    apply_where,
    choose_findings,
    find_column,
    parse_where,
    resolve_finding,
)
from scarce_cli.evaluation.fewshot.films import Films


def films_of(findings: Sequence[str], patients: Sequence[str] | None = None, **columns: Sequence[str]) -> Films:
    """Films with these findings (joined by ``|``), each its own patient unless said otherwise."""
    n = len(findings)
    return Films(
        names=tuple(f"{i}.png" for i in range(n)),
        patients=tuple(patients or map(str, range(n))),
        findings=tuple(frozenset(filter(None, text.split("|"))) for text in findings),
        pixels=("",) * n,
        views=tuple(columns.get("view", ("",) * n)),
        columns={name: tuple(values) for name, values in columns.items()},
    )


SOURCES = ("north (a) [1]", "north (b)", "south=x", "", "South=x", "*")
SIXFOLD = films_of(["Mass"] * 6, source=SOURCES, view=("PA", "AP", "PA", "AP", "PA", "AP"))


@pytest.mark.parametrize(
    ("text", "column", "pattern", "equal"),
    [
        ("view=PA", "view", "PA", True),
        (" View Position != PA ", "View Position", "PA", False),
        ("note=", "note", "", True),
        ("note!=", "note", "", False),
        ("source=a=b!=c", "source", "a=b!=c", True),
        ("source!=a=b", "source", "a=b", False),
        ("text=two\nlines", "text", "two\nlines", True),
    ],
)
def test_conditions_are_read(text: str, column: str, pattern: str, equal: bool) -> None:
    assert parse_where([text]) == (Condition(column, pattern, equal),)


@pytest.mark.parametrize("text", ["", "view", "=PA", "!=PA", " = ", "view PA", "!"])
def test_what_is_no_condition_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is not COLUMN=VALUE"):
        parse_where(["view=PA", text])


@pytest.mark.parametrize(
    ("pattern", "matching"),
    [
        ("north*", {0, 1}),
        ("north (a) [1]", {0}),  # brackets of its own are taken as they stand
        ("north (?)", {1}),
        ("[ns]o*", {0, 1, 2}),
        ("south=x", {2}),  # case counts
        ("", {3}),
        ("*", {0, 1, 2, 3, 4, 5}),
        ("[*]", {5}),
    ],
)
def test_a_condition_and_its_opposite_share_out_all_films(pattern: str, matching: set[int]) -> None:
    assert set(apply_where(SIXFOLD, parse_where([f"SOURCE={pattern}"])).films) == matching
    if len(matching) < 6:
        assert set(apply_where(SIXFOLD, parse_where([f"source!={pattern}"])).films) == set(range(6)) - matching


def test_all_conditions_must_hold_and_each_is_counted() -> None:
    kept = apply_where(SIXFOLD, parse_where(["source=?*", "View=PA"]))
    assert kept.films.tolist() == [0, 2, 4]
    assert kept.report() == ["source=?*: 5 of 6 films", "View=PA: 3 of 5 films"]
    backward = apply_where(SIXFOLD, parse_where(["View=PA", "source=?*"]))
    assert backward.films.tolist() == kept.films.tolist()
    assert apply_where(SIXFOLD, ()).films.tolist() == list(range(6))


def test_a_condition_that_leaves_nothing_names_the_values_that_are_left() -> None:
    with pytest.raises(UsageError, match="'view=pa' leaves no film") as caught:
        apply_where(SIXFOLD, parse_where(["source=north*", "view=pa"]))
    assert "'PA' (1)" in caught.value.remedy
    assert "'AP' (1)" in caught.value.remedy
    secret = [f"Mrs {i} coughs" for i in range(21)]
    with pytest.raises(UsageError, match="leaves no film") as caught:
        apply_where(films_of(["Mass"] * 21, report=secret), parse_where(["report=Mrs 3 cough"]))
    assert "21 different values" in caught.value.remedy
    assert "coughs" not in caught.value.message + caught.value.remedy


def test_an_unknown_column_names_the_nearest_and_all() -> None:
    with pytest.raises(UsageError, match="did you mean 'source'") as caught:
        apply_where(SIXFOLD, parse_where(["sourc=x"]))
    assert "'view'" in caught.value.remedy
    with pytest.raises(UsageError) as caught:
        apply_where(films_of(["Mass"]), parse_where(["view=x"]))
    assert "only image" in caught.value.remedy


def test_a_column_that_could_be_two_must_be_written_as_it_is() -> None:
    films = films_of(["Mass"], **{"Sex": ["F"], "sex ": ["M"]})
    assert find_column(films, "Sex") == "Sex"
    with pytest.raises(UsageError, match="may be 'Sex', 'sex '"):
        find_column(films, "SEX")


def test_findings_are_resolved_to_the_tables_spelling() -> None:
    films = films_of(["Effusion", "Pleural_Thickening|Mass", "mass", "浸润"])
    assert resolve_finding(films, "effusion") == "Effusion"
    assert resolve_finding(films, "pleural thickening") == "Pleural_Thickening"
    assert resolve_finding(films, "mass") == "mass"
    assert resolve_finding(films, "浸润") == "浸润"
    with pytest.raises(UsageError, match="may be 'Mass', 'mass'"):
        resolve_finding(films, "MASS")
    with pytest.raises(UsageError, match="did you mean 'Effusion'") as caught:
        resolve_finding(films, "Effusions")
    assert "Mass (1)" in caught.value.remedy
    with pytest.raises(UsageError, match="no film is labelled '--'"):
        resolve_finding(films, "--")


def test_wanted_findings_are_taken_in_their_order_once() -> None:
    films = films_of(["Effusion", "Mass", "No Finding"])
    side = np.zeros(3, bool)
    assert choose_findings(films, ["mass", "Effusion", "MASS"], None, test_side=side, minimum=9) == ["Mass", "Effusion"]
    assert choose_findings(films, ["no finding"], None, test_side=side, minimum=9) == ["No Finding"]
    with pytest.raises(UsageError, match="against itself"):
        choose_findings(films, ["effusion"], "Effusion", test_side=side, minimum=1)


def test_unasked_findings_need_cases_on_either_side() -> None:
    """Against counts by hand over random films, films that show both left out."""
    rng = np.random.default_rng(5)
    names = np.array(["Mass", "Nodule", "Hernia", "Edema", "normal"])
    shown = rng.random((300, 5)) < [0.2, 0.1, 0.01, 0.3, 0.4]
    patients = [f"P{i}" for i in rng.integers(60, size=300)]
    films = films_of(["|".join(names[row]) for row in shown], patients)
    side = np.array([int(patient[1:]) % 4 == 0 for patient in patients])
    for minimum, against in product((1, 3, 8, 10), (None, "Edema")):
        expected = []
        for k, name in enumerate(names):
            cases = shown[:, k] & ~(shown[:, 3] & (against is not None))
            fewest = min(
                len({p for p, c, s in zip(patients, cases, side, strict=True) if c and s == t}) for t in (0, 1)
            )
            expected += [name] if fewest >= minimum and name != "normal" else []
        assert choose_findings(films, [], against, test_side=side, minimum=minimum) == sorted(expected)
    with pytest.raises(UsageError, match="no finding has 100 patients") as caught:
        choose_findings(films, [], None, test_side=side, minimum=100)
    assert "Edema 1" in caught.value.message
    assert "normal" not in caught.value.message

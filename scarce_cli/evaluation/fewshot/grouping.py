"""A column of a table as a few groups of films, or as nothing that could tell one group from another.

n films, G groups.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from scarce_cli.evaluation.fewshot.films import Bools, Floats, Ints

NOT_STATED, RARE = "not stated", "other values"
FEWEST = 5  # patients who share a value before it is a group of its own: fewer tell of persons, and by chance
MOST = 20  # groups; a column with more is text or a list, not a property of films

_NOTHING = frozenset({"", "nan", "none", "null", "na", "n/a", "unknown"})
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?")
_AGE = re.compile(r"(\d{1,3})([DWMY])")  # DICOM's age string: 058Y, 009M
_YEARS = {"D": 1 / 365.25, "W": 7 / 365.25, "M": 1 / 12, "Y": 1.0}
_PERSONAL = 0.9  # of the films: their value is one patient's own, so it is a name and no property
_NUMERIC = 0.95  # of the training films that state something
_COVERED = 0.9  # of those films: then numbers are values like any other (a few sizes of film)
_QUANTILES = (0.2, 0.4, 0.6, 0.8)


@dataclass(frozen=True)
class Groups:
    """A column by film."""

    codes: Ints  # (n,) number of the film's group
    names: tuple[str, ...]  # (G,) value, `RARE` or `NOT_STATED`; of numbers their range
    values: tuple[bool, ...]  # (G,) the group is the films with one value, which its name is
    numbers: Floats | None  # (n,) NaN where none is stated; None for a column that does not hold numbers


def group(cells: Sequence[str], patients: Ints, train: Bools, *, measured: bool = False) -> Groups | None:
    """Films by what a column says of them, or None when that is no property of films.

    Values of at least five training patients are groups, the others are one. Numbers that those do not cover fall
    into fifths by their quantiles in training films. None for one value alone, for names (nearly every value is one
    patient's own) and for text (more than 20 values of at least five patients).

    Args:
        cells: n, as written.
        patients: (n,) number of each film's patient.
        train: (n,) what the groups may be made from.
        measured: we know that it holds no names, even where every film has a value of its own.
    """
    place: dict[str, int] = {}
    raw = np.fromiter((place.setdefault(cell, len(place)) for cell in cells), np.int64, len(cells))
    if len(place) < 2 or (not measured and _is_personal(raw, patients)):
        return None
    values = list(place)
    common = np.flatnonzero(_holders(raw[train], patients[train], len(values)) >= FEWEST)
    stated = np.array([value.casefold() not in _NOTHING for value in values])
    films = np.bincount(raw[train], minlength=len(values))
    covered = films[common][stated[common]].sum() >= _COVERED * films[stated].sum()
    numbers = None if covered and len(common) <= MOST else _numbers(values, stated, films, raw)
    found = _by_value(values, common, raw) if numbers is None else _by_fifths(numbers, train)
    return found if found is not None and len(np.unique(found.codes)) > 1 else None


def _is_personal(raw: Ints, patients: Ints) -> bool:
    """Nearly all films hold a value that no film of another patient holds."""
    return float((_holders(raw, patients, int(raw.max()) + 1)[raw] == 1).mean()) >= _PERSONAL


def _holders(raw: Ints, patients: Ints, values: int) -> Ints:
    """(values,) how many patients hold each value."""
    people = int(patients.max(initial=0)) + 1
    return np.bincount(np.unique(raw * people + patients) // people, minlength=values)


def _numbers(values: Sequence[str], stated: Bools, films: Ints, raw: Ints) -> Floats | None:
    """(n,) the column as numbers, if nearly all that is stated is one. ``films``: those with each value."""
    each = np.array([_number(value) for value in values])
    known = ~np.isnan(each)
    return each[raw] if known.any() and films[known].sum() >= _NUMERIC * films[stated].sum() else None


def _number(text: str) -> float:
    """A number, an age in years, or NaN."""
    if age := _AGE.fullmatch(text):
        return int(age[1]) * _YEARS[age[2]]
    number = float(text) if _NUMBER.fullmatch(text.casefold()) else math.nan
    return number if math.isfinite(number) else math.nan


def _by_fifths(numbers: Floats, train: Bools) -> Groups | None:
    known = ~np.isnan(numbers)
    if not (known & train).any():
        return None
    edges = np.unique(np.quantile(numbers[known & train], _QUANTILES, method="inverted_cdf"))
    codes = np.where(known, np.searchsorted(edges, numbers, side="right"), len(edges) + 1)
    names = [f"below {edges[0]:.10g}", *(f"{a:.10g} to below {b:.10g}" for a, b in pairwise(edges))]
    names += [f"{edges[-1]:.10g} or more", NOT_STATED]
    return Groups(codes.astype(np.int64), tuple(names), (False,) * len(names), numbers)


def _by_value(values: Sequence[str], common: Ints, raw: Ints) -> Groups | None:
    if not 1 <= len(common) <= MOST:
        return None
    code = np.full(len(values), len(common), np.int64)
    code[common] = np.arange(len(common))
    names = tuple(values[int(i)] for i in common)
    return Groups(code[raw], (*names, RARE), (*(True for _ in names), False), None)

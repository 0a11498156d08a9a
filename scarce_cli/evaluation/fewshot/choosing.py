"""Which films and which findings are looked at: ``--where``, ``--finding``, and all that have enough cases.

F films.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np

from scarce_cli.data.labels import NORMAL
from scarce_cli.data.labels_tables import column_key, listing
from scarce_cli.errors import UsageError
from scarce_cli.evaluation.fewshot.films import REST, Bools, Films, Ints, nobody_has
from scarce_cli.presets import nearest

_CONDITION = re.compile(r"\s*([^=]*?)\s*(!?=)(.*)", re.DOTALL)
_LISTED = 20  # findings or values in a message; PadChest has more than a hundred findings


@dataclass(frozen=True)
class Condition:
    """What a column must hold, or must not."""

    column: str  # as the user wrote it
    pattern: str  # with shell wildcards; "" for an empty cell
    equal: bool

    def __str__(self) -> str:
        return f"{self.column}{'=' if self.equal else '!='}{self.pattern}"

    def holds(self, value: str) -> bool:
        """A value with brackets or stars of its own can be given as it stands."""
        return (value == self.pattern or fnmatchcase(value, self.pattern)) is self.equal


@dataclass(frozen=True)
class Kept:
    """The films that are left, and how many there were after each thing that was asked for."""

    films: Ints  # numbers of the films, ascending
    asked: tuple[tuple[str, int], ...]  # what was asked for, in order, and the films left after it
    of: int  # films before

    def report(self) -> list[str]:
        """One line for each thing that was asked for."""
        before = [self.of, *(left for _, left in self.asked)]
        return [
            f"{what}: {left:,} of {total:,} films"
            for (what, left), total in zip(self.asked, before, strict=False)  # nothing follows the last
        ]


def parse_where(texts: Sequence[str]) -> tuple[Condition, ...]:
    """``COLUMN=VALUE`` and ``COLUMN!=VALUE``; VALUE may hold ``*``, ``?`` and ``[...]``, and may be empty.

    Spaces around the column are dropped, and around the value too, as they are in the table.

    Raises:
        UsageError: no equals sign, or nothing before it.
    """
    conditions = []
    for text in texts:
        parts = _CONDITION.fullmatch(text)
        if parts is None or not parts[1]:
            raise UsageError(
                f"--where {text!r} is not COLUMN=VALUE", "for example --where view=PA, or 'source!=north*'"
            )
        conditions.append(Condition(parts[1], parts[3].strip(), parts[2] == "="))
    return tuple(conditions)


def apply_where(films: Films, conditions: Sequence[Condition]) -> Kept:
    """The films for which all conditions hold. Upper and lower case of values differ; of columns they do not.

    Raises:
        UsageError: no such column, several that are spelt alike, or a condition leaves no film.
    """
    keep: Bools = np.ones(len(films), bool)
    asked = []
    for condition in conditions:
        column = films.columns[find_column(films, condition.column)]
        good = {value for value in set(column) if condition.holds(value)}
        left = keep & np.array([value in good for value in column], bool)
        if not left.any():
            values = Counter(value for value, kept in zip(column, keep, strict=True) if kept)
            raise UsageError(*_nothing_left(condition, values))
        keep = left
        asked.append((str(condition), int(keep.sum())))
    return Kept(np.flatnonzero(keep), tuple(asked), len(films))


def find_column(films: Films, name: str) -> str:
    """The column that ``name`` means: so spelt, or the only one that differs by case, spaces and punctuation alone.

    Raises:
        UsageError: there is none, or several.
    """
    found = _spelt_alike(name, films.columns)
    if len(found) == 1:
        return found[0]
    if found:
        raise UsageError(f"--where: '{name}' may be {listing(found)}", "write the column as the table does")
    here = listing(list(films.columns)) if films.columns else "only image, patient and findings"
    raise UsageError(
        f"--where: the table has no column '{name}' to choose films by{nearest(name, films.columns)}",
        f"columns: {here}",
    )


def _nothing_left(condition: Condition, values: Counter[str]) -> tuple[str, str]:
    """Message and remedy. Many different values may be free text, which is not repeated."""
    message = f"--where {str(condition)!r} leaves no film"
    if len(values) > _LISTED:
        return message, f"'{condition.column}' has {len(values):,} different values; * stands for any text"
    listed = ", ".join(f"{value[:40]!r} ({count:,})" for value, count in values.most_common())
    return f"{message}{nearest(condition.pattern, values)}", f"the films that were left so far have {listed}"


def _spelt_alike(name: str, names: Iterable[str]) -> list[str]:
    """``name`` itself if it is there, else all of ``names`` that differ by case, spaces and punctuation alone."""
    there = list(names)
    if name in there:
        return [name]
    key = column_key(name)
    return [other for other in there if key and column_key(other) == key]


def resolve_finding(films: Films, name: str) -> str:
    """A finding as the table spells it: ``effusion`` is ``Effusion`` unless there is an ``effusion`` too.

    Raises:
        UsageError: no film has it, or several spellings fit.
    """
    counts = Counter(finding for findings in films.findings for finding in findings)
    found = _spelt_alike(name, counts)
    if len(found) == 1:
        return found[0]
    if found:
        raise UsageError(f"the finding '{name}' may be {listing(sorted(found))}", "write it as the table does")
    raise nobody_has(films, name)


def choose_findings(
    films: Films, wanted: Sequence[str], against: str | None, *, test_side: Bools, minimum: int
) -> list[str]:
    """The findings to test, as the table spells them: those wanted, or all that have enough cases.

    Args:
        wanted: may be empty: then all findings, other than normal ones and ``against``, that at least ``minimum``
            patients have on either side of the split, in the order of their names.
        against: as the table spells it; films that show it too are no cases. None: the rest.
        test_side: (F,) the film's patient is tested on.

    Raises:
        UsageError: a wanted finding is not there or is ``against``; or none has enough cases.
    """
    other = None if against == REST else against
    chosen = list(dict.fromkeys(resolve_finding(films, name) for name in wanted))
    if other is not None and other in chosen:
        raise UsageError(f"'{other}' cannot be tested against itself", "name another finding, or none")
    if chosen:
        return chosen
    fewest = {name: min(sides) for name, sides in _patients(films, other, test_side).items()}
    chosen = sorted(name for name, count in fewest.items() if count >= minimum)
    if not chosen:
        raise UsageError(*_too_few(fewest, minimum))
    return chosen


def _patients(films: Films, against: str | None, test_side: Bools) -> dict[str, tuple[int, int]]:
    """Finding -> patients with it among training and among test patients."""
    found: dict[str, tuple[set[str], set[str]]] = {}
    for patient, names, tested in zip(films.patients, films.findings, test_side, strict=True):
        for name in names if against not in names else ():
            found.setdefault(name, (set(), set()))[bool(tested)].add(patient)
    return {name: (len(a), len(b)) for name, (a, b) in found.items() if name.casefold() not in NORMAL}


def _too_few(fewest: dict[str, int], minimum: int) -> tuple[str, str]:
    best = sorted(fewest.items(), key=lambda item: (-item[1], item[0]))[:_LISTED]
    listed = f" (patients on the smaller side: {', '.join(f'{name} {n}' for name, n in best)})" if best else ""
    return (
        f"no finding has {minimum} patients with it on either side of the split{listed}",
        "name one with --finding, or label more films",
    )

"""Which film shows what: NIH's table, PadChest's, and any CSV with image, patient and finding columns.

Nothing that a table names is ever opened: its paths are only compared with the names of the films in a cache.
Unsafe ones are refused all the same, so that no later step can be led out of the data folder.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from scarce_cli.data.labels_columns import FINDINGS, IMAGE, PATIENT, VIEW, Columns
from scarce_cli.data.labels_match import Matched, match, plain_path
from scarce_cli.data.labels_tables import Record, Table, open_table
from scarce_cli.errors import UnsafeInput, UsageError

__all__ = ["NORMAL", "Labels", "Matched", "match", "read_labels"]

NORMAL = frozenset({"no finding", "no findings", "normal"})
"""Names, in lower case, that say a film shows nothing."""

_NOTHING = frozenset({"", "nan", "none", "null", "na", "n/a", "[]", "[nan]"})
_QUOTED = r"""(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")"""
_LIST = re.compile(rf"\[[\s,]*(?:{_QUOTED}[\s,]*)*\]")
_ITEM = re.compile(_QUOTED)
_DRIVE = re.compile(r"[A-Za-z]:")
_MAX_FINDINGS = 10_000  # characters in one cell; PadChest's longest is 421
_MAX_PROBLEMS = 1_000


@dataclass(frozen=True)
class Labels:
    """One entry per film that a table describes, in the table's order.

    images: as written, distinct. patients: never empty; where the table names none, every film is its own
    patient and ``problems`` says so. findings: stripped names as in the table, empty where it states none.
    A film without findings is not one that is known to be normal ("No Finding", "normal").
    views: projection as written ("PA", "AP", ...), empty where unknown. problems: one line of text each.
    columns: name -> what the table says of every film in a column that is neither image, patient nor findings
    (the view's is one of them), as written, of joined rows the first's. Columns without a name are left out.
    stated: the table says what the film shows, if only (in columns of 0 and 1) that it does not show something.
    """

    images: tuple[str, ...]
    patients: tuple[str, ...]
    findings: tuple[frozenset[str], ...]
    views: tuple[str, ...]
    problems: tuple[str, ...]
    path: Path
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    stated: tuple[bool, ...] = ()

    def names(self) -> dict[str, int]:
        """Finding -> number of films that show it, the most frequent first."""
        counts = Counter(name for findings in self.findings for name in findings)
        return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def read_labels(path: Path) -> Labels:
    """Read the table at ``path``; delimiter, encoding and columns are found.

    Findings are joined by ``|``, written as a Python list, or one column per finding: 1 present, 0, -1 (not
    certain) or empty absent. Several rows for one film are joined and reported (each may name one finding);
    the film is left out where they name different patients, or a finding and "No Finding". Ragged and
    malformed rows are left out and reported by line.

    Raises UsageError (no table, no such column, no rows), UnsafeInput (a path that leaves the data folder),
    DamagedData (broken gzip), ResourceError (not readable).
    """
    table = open_table(path, (*IMAGE, *PATIENT, *FINDINGS, *VIEW))
    columns = Columns.find(table)
    films: dict[str, _Film] = {}
    problems = _Problems()
    if columns.patient is None:
        problems.add("the table has no patient column: every film counts as its own patient")
    if table.encoding == "latin-1":
        problems.add("the table is not UTF-8: read as Latin-1")
    for record in table.records():
        film = _read_row(record, columns, table, problems)
        if film is not None:
            _enter(films, film, problems)
    good = [film for film in films.values() if not film.contradictory]
    columns.require_findings(table, bool(good))
    if not good:
        raise UsageError(
            f"{path} has no usable row" + "".join(f"; {problem}" for problem in problems.lines[:3]),
            "name a table with one row per film",
        )
    return Labels(
        images=tuple(film.image for film in good),
        patients=tuple(film.patient for film in good),
        findings=tuple(columns.keep_findings(film.findings) for film in good),
        views=tuple(film.view for film in good),
        problems=(*problems.report(), *columns.report([film.line for film in good if not film.findings])),
        path=path,
        columns=columns.keep_cells([film.cells for film in good]),
        stated=tuple(bool(columns.keep_findings(film.findings)) or columns.said_no(film.cells) for film in good),
    )


@dataclass
class _Film:
    line: int
    image: str
    patient: str
    findings: frozenset[str]
    view: str
    cells: tuple[str, ...]
    contradictory: bool = False


@dataclass
class _Problems:
    """What is wrong, by line; the rest is counted, so that a broken table cannot fill the memory."""

    lines: list[str] = field(default_factory=list)
    more: int = 0

    def add(self, text: str) -> None:
        if len(self.lines) < _MAX_PROBLEMS:
            self.lines.append(text)
        else:
            self.more += 1

    def report(self) -> list[str]:
        return self.lines + ([f"and {self.more:,} more problems"] if self.more else [])


def _read_row(record: Record, columns: Columns, table: Table, problems: _Problems) -> _Film | None:
    """One row as a film, or None with the reason in ``problems``; UnsafeInput for a path that is not safe."""
    try:
        width = len(table.header)
        if len(record.fields) < width or any(record.fields[width:]):
            raise _Unusable(f"{len(record.fields)} fields, {width} expected")
        return _as_film(record, columns, table)
    except _Unusable as reason:
        problems.add(f"{record.where}: {reason}; row skipped")
        return None


class _Unusable(Exception):
    """Why a row cannot be used."""


def _as_film(record: Record, columns: Columns, table: Table) -> _Film:
    cells = [columns.image, columns.patient, columns.findings]
    if any("\n" in (text := record.fields[i]) and table.delimiter in text for i in cells if i is not None):
        raise _Unusable("a quote is not closed")
    image = record.fields[columns.image]
    if image.casefold() in _NOTHING:
        raise _Unusable("no image is named")
    _require_safe(image, record, table)
    named = "" if columns.patient is None else record.fields[columns.patient]
    patient = named if named.casefold() not in _NOTHING else image
    view = "" if columns.view is None else record.fields[columns.view]
    findings = columns.positives(record) if columns.findings is None else _parse(record.fields[columns.findings])
    view = "" if view.casefold() in _NOTHING else view
    return _Film(record.line, image, patient, findings, view, columns.cells(record))


def _require_safe(image: str, record: Record, table: Table) -> None:
    parts = image.split("/")
    if image[0] == "/" or ".." in parts or "\\" in image or "\0" in image or _DRIVE.match(image):
        raise UnsafeInput(
            f"{table.path}, {record.where}: the image path {image[:200]!r} may lead out of the data folder",
            "write paths relative to the folder of films, with forward slashes and without '..'",
        )


@lru_cache(maxsize=1 << 14)
def _parse(text: str) -> frozenset[str]:
    """The findings in one cell. PadChest's lists hold empty names and names with spaces around them."""
    if text.casefold() in _NOTHING:
        return frozenset()
    if len(text) > _MAX_FINDINGS:
        raise _Unusable(f"{len(text)} characters of findings")
    if not text.startswith("["):
        names: Iterator[str] = iter(text.split("|"))
    elif _LIST.fullmatch(text):
        names = (re.sub(r"\\(.)", r"\1", item[1:-1]) for item in _ITEM.findall(text))
    else:
        raise _Unusable(f"findings {text[:40]!r} are not a list of names")
    return frozenset(stripped for name in names if (stripped := name.strip()))


def _enter(films: dict[str, _Film], film: _Film, problems: _Problems) -> None:
    """Add a row's film, or join it with what an earlier row says about the same film."""
    first = films.setdefault(plain_path(film.image), film)
    if first is film or first.contradictory:
        return
    where = f"line {film.line}: {film.image[:80]!r} stands on line {first.line} too, with"
    both = first.findings | film.findings
    if film.patient != first.patient:
        first.contradictory = True
        problems.add(f"{where} another patient; film left out")
    elif both != first.findings and _says_both(both):
        first.contradictory = True
        problems.add(f"{where} and without a finding; film left out")
    elif film.findings != first.findings:
        problems.add(f"{where} other findings; joined")
        first.findings = both


def _says_both(findings: frozenset[str]) -> bool:
    normal = sum(name.casefold() in NORMAL for name in findings)
    return 0 < normal < len(findings)

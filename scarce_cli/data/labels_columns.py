"""Which column of a table of labels holds what: image, patient, findings, view, and what else it says of a film."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from scarce_cli.data.labels_tables import Record, Table, column_key, listing
from scarce_cli.errors import UsageError

# Accepted column names, best first; compared without case, spaces and punctuation.
IMAGE: tuple[str, ...] = (
    *("image", "imageindex", "imageid", "imagename", "imagepath", "imagefile"),
    *("filename", "filepath", "path", "file", "dicomid"),
)
PATIENT = ("patientid", "patient", "patientnumber", "subjectid", "subject")
FINDINGS: tuple[str, ...] = (
    *("findings", "findinglabels", "labels", "label", "finding", "findinglabel"),
    *("diagnosis", "class", "classname"),
)
VIEW = ("projection", "view", "viewposition", "appa", "frontallateral")
_YES, _SAID_NO = frozenset({"1", "1.0", "true"}), frozenset({"0", "0.0", "false"})
_NO = _SAID_NO | {"", "-1", "-1.0", "nan"}


@dataclass
class Columns:
    """Where the columns stand.

    wide: name -> column, while every value seen there was 0, 1 or empty. others: name -> column of all that is
    neither image, patient nor findings, wide ones too; of columns that bear one name the first.
    """

    image: int
    patient: int | None
    findings: int | None
    view: int | None
    wide: dict[str, int]
    others: dict[str, int]
    dropped: list[str] = field(default_factory=list)
    seen: set[str] = field(default_factory=set)
    _known: dict[str, str] = field(default_factory=dict)  # one string for all cells that say the same

    @classmethod
    def find(cls, table: Table) -> Columns:
        image, patient = _column(table, IMAGE), _column(table, PATIENT)
        findings, view = _column(table, FINDINGS), _column(table, VIEW)
        if image is None:
            raise _missing("image", IMAGE, table)
        others, ignored = _first_of_each(table, (image, patient, findings))
        wide = {name: i for name, i in others.items() if i != view} if findings is None else {}
        return cls(image, patient, findings, view, wide, others, ignored)

    def cells(self, record: Record) -> tuple[str, ...]:
        """What a record holds in the other columns, in their order."""
        cells = [record.fields[column] for column in self.others.values()]
        return tuple(map(self._known.setdefault, cells, cells))

    def keep_cells(self, cells: Sequence[tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        """Name -> one cell for each film, without the columns that are findings."""
        columns = zip(self.others, zip(*cells, strict=True), strict=True)
        return {name: values for name, values in columns if name not in self.wide}

    def positives(self, record: Record) -> frozenset[str]:
        """The wide columns that hold 1; a column with any other value turns out to be no finding."""
        found = []
        for name, column in list(self.wide.items()):
            value = record.fields[column].casefold()
            if value in _YES:
                found.append(name)
            elif value not in _NO:
                del self.wide[name]
                if name in self.seen:
                    self.dropped.append(f"{record.where}: column {name!r} holds {value[:40]!r}: not a finding")
        self.seen.update(found)
        return frozenset(found)

    def keep_findings(self, findings: frozenset[str]) -> frozenset[str]:
        """``findings`` without the columns that turned out to be none."""
        return findings if self.findings is not None else findings & self.wide.keys()

    def said_no(self, cells: Sequence[str]) -> bool:
        """Whether a film's cells say of some wide finding that it is absent; an empty cell says nothing."""
        here = zip(self.others, cells, strict=True)
        return any(name in self.wide and cell.casefold() in _SAID_NO for name, cell in here)

    def require_findings(self, table: Table, rows: bool) -> None:
        """UsageError when there are ``rows``, but neither a column of findings nor one for each."""
        if rows and self.findings is None and not self.seen & self.wide.keys():
            raise _missing("findings", FINDINGS, table)

    def report(self, silent: Sequence[int]) -> list[str]:
        """What is to be told of the columns. ``silent``: lines of the films without any finding."""
        silent = silent if self.findings is not None else ()
        first = f"(first: line {min(silent, default=0)})"
        note = f"{len(silent):,} films have no finding, not even a normal one {first}"
        return self.dropped + ([note] if silent else [])


def _first_of_each(table: Table, taken: tuple[int | None, ...]) -> tuple[dict[str, int], list[str]]:
    """Name -> column outside ``taken``, and what to tell of later columns of the same name."""
    first: dict[str, int] = {}
    for i, name in enumerate(table.header):
        if name and i not in taken:
            first.setdefault(name, i)
    kept = {*first.values(), *taken}
    later = (i for i, name in enumerate(table.header) if name and i not in kept)
    return first, [f"column {i + 1} is another {table.header[i][:40]!r}: ignored" for i in later]


def _column(table: Table, accepted: tuple[str, ...]) -> int | None:
    keys = [column_key(name) for name in table.header]
    for name in accepted:
        if keys.count(name) > 1:
            raise UsageError(
                f"{table.path} has {keys.count(name)} columns named {table.header[keys.index(name)]!r}",
                "rename or remove all but one",
            )
        if name in keys:
            return keys.index(name)
    return None


def _missing(what: str, accepted: tuple[str, ...], table: Table) -> UsageError:
    also = ", or one column of 0 and 1 per finding" if what == "findings" else ""
    return UsageError(
        f"{table.path} has no {what} column; it has {listing(table.header)}",
        f"name the column one of: {', '.join(accepted)} (case, spaces and punctuation do not matter){also}",
    )

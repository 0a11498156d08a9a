"""What a prepared data set says about itself, film by film: manifest.csv and bad_files.csv."""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from scarce_cli.errors import DamagedData, UnsafeInput
from scarce_cli.files import write_text

MANIFEST, BAD_FILES = "manifest.csv", "bad_files.csv"
DONE, SKIPPED, DUPLICATE = "done", "skipped", "duplicate"
_OUTSIDE = ("\0/", "\0\0", "\0../", "/../", "/..\0", "\0..\0")


@dataclass(frozen=True)
class Row:
    """One source file.

    ``low`` and ``high``: decoded values that became black and white. ``output``: path of the prepared film in
    the data set's folder, empty when it is only in the cache. ``total`` and ``squares``: exact sums over its
    pixels (0 to 255) and their squares, so that mean and spread of the set depend on no order.
    """

    path: str
    status: str
    reason: str = ""
    format: str = ""
    mode: str = ""
    bits: int = 0
    width: int = 0
    height: int = 0
    low: float = 0.0
    high: float = 0.0
    monochrome1: bool = False
    pixel_hash: str = ""
    output: str = ""
    duplicate_of: str = ""
    near_duplicate_of: str = ""
    suspicion: str = ""
    look: str = ""
    bytes: int = 0
    mtime_ns: int = 0
    output_bytes: int = 0
    total: int = 0
    squares: int = 0


_HASH = re.compile("[0-9a-f]{32}")
_KINDS = {"str": str, "int": int, "float": float, "bool": bool}
_TYPES = {field.name: _KINDS[str(field.type)] for field in fields(Row)}


def check_paths(paths: Sequence[str], where: Path) -> None:
    """UnsafeInput when one of the paths leads out of its folder, is empty or no file name at all.

    All are looked at in one text: a hundred thousand names take a millisecond.
    """
    text = "\0" + "\0".join(paths) + "\0"
    if text.count("\0") == len(paths) + 1 and not any(part in text for part in _OUTSIDE):
        return
    for path in paths:
        if path.count("\0") or any(part in f"\0{path}\0" for part in _OUTSIDE):
            raise UnsafeInput(f"{where}: {path!r} leads out of its folder", "do not use this data set")


def row_to_json(row: Row) -> str:
    """One line of a journal."""
    return json.dumps(astuple(row))


def row_from_json(line: str) -> Row:
    """The row of a journal line; ValueError when the line is not one."""
    values = json.loads(line)
    if not isinstance(values, list) or len(values) != len(_TYPES):
        raise ValueError("not a journal line")
    if any(not isinstance(value, kind) for value, kind in zip(values, _TYPES.values(), strict=True)):
        raise ValueError("not a journal line")
    return Row(*values)


def write_manifest(folder: Path, rows: Sequence[Row]) -> None:
    """Replace bad_files.csv (only what could not be used) and manifest.csv."""
    bad = ([row.path, row.reason] for row in rows if row.status == SKIPPED)
    _write_csv(folder / BAD_FILES, ["path", "reason"], bad)
    _write_csv(folder / MANIFEST, list(_TYPES), ([_cell(value) for value in astuple(row)] for row in rows))


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "1" if value else "0"
    return f"{value:.9g}" if isinstance(value, float) else str(value)


def _write_csv(path: Path, header: list[str], lines: Iterable[list[str]]) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(lines)
    write_text(path, text.getvalue(), label="manifest")


def read_manifest(folder: Path) -> list[Row]:
    """The rows of manifest.csv, none when there is no such file.

    Raises DamagedData when it cannot be read as one, UnsafeInput when a path in it leads out of its folder.
    """
    path = folder / MANIFEST
    try:
        with open(path, encoding="utf-8", errors="surrogateescape", newline="") as handle:
            rows = [_row(cells) for cells in csv.DictReader(handle)]
    except FileNotFoundError:
        return []
    except (csv.Error, ValueError, TypeError, KeyError) as error:
        raise DamagedData(f"{path} cannot be read: {error}", "delete it and run scarce preprocess again") from error
    check_paths([row.path for row in rows], path)
    check_paths([row.output for row in rows if row.output], path)
    return rows


def _row(cells: dict[str, str]) -> Row:
    values: dict[str, Any] = {
        name: cells[name] == "1" if kind is bool else kind(cells[name]) for name, kind in _TYPES.items()
    }
    return Row(**values)


def film_columns(folder: Path, names: Sequence[str], columns: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Columns of manifest.csv as text, one entry for each named film: "" where it does not stand there, or where
    there is no such file.

    Only what is asked for is kept: a hundred thousand films take half a second. Raises DamagedData.
    """
    path = folder / MANIFEST
    try:
        with open(path, encoding="utf-8", errors="surrogateescape", newline="") as handle:
            lines = csv.reader(handle)
            header = next(lines)
            name, places = header.index("path"), [header.index(column) for column in columns]
            known = {cells[name]: [cells[place] for place in places] for cells in lines}
    except FileNotFoundError:
        known = {}
    except (csv.Error, ValueError, IndexError, StopIteration) as error:
        raise DamagedData(f"{path} cannot be read: {error}", "run scarce preprocess again") from error
    unknown = [""] * len(columns)
    found = [known.get(one, unknown) for one in names]
    return {column: tuple(cells[n] for cells in found) for n, column in enumerate(columns)}


def pixel_hashes(folder: Path, names: Sequence[str]) -> tuple[str, ...]:
    """The hash of each named film's decoded pixels, "" where manifest.csv has none. Raises as `film_columns`."""
    return film_columns(folder, names, ("pixel_hash",))["pixel_hash"]


def pixel_keys(hashes: Iterable[str]) -> npt.NDArray[np.int64]:
    """The first 64 bits of each hash, ascending and distinct; what is no hash is left out.

    Enough to know a film again: among a hundred thousand films, two that differ share a key once in 10^9 times.
    """
    keys = [int(one[:16], 16) for one in hashes if _HASH.fullmatch(one)]
    return np.unique(np.array(keys, np.uint64).view(np.int64))


def films_digest(rows: Iterable[Row]) -> str:
    """One hexadecimal digest over names and decoded pixels of the films that are in the set, in order."""
    digest = xxhash.xxh3_128()
    for row in rows:
        if row.status == DONE:
            digest.update(os.fsencode(row.path) + b"\0" + row.pixel_hash.encode() + b"\n")
    return digest.hexdigest()


def measure(rows: Iterable[Row], size: int) -> tuple[int, float, float]:
    """How many films are in the set, and mean and standard deviation of all their pixels in [0, 1]."""
    done = [row for row in rows if row.status == DONE]
    pixels = len(done) * size * size
    if not pixels:
        return 0, 0.0, 0.0
    total, squares = sum(row.total for row in done), sum(row.squares for row in done)
    variance = (squares * pixels - total * total) / pixels**2
    return len(done), total / pixels / 255, float(variance**0.5 / 255)


def cache_order(rows: Sequence[Row]) -> list[int]:
    """Positions in ``rows`` of the films in the set, in the order in which the cache holds them.

    It is the order of the manifest, except that the last films take the places of those that could not be
    used. So a cache that is built straight from the sources, before it is known which are bad, only has to
    move as many films as there are bad ones.
    """
    good = [position for position, row in enumerate(rows) if row.status == DONE]
    tail = [position for position in good if position >= len(good)]
    return [position if rows[position].status == DONE else tail.pop() for position in range(len(good))]

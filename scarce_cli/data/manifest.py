"""What a prepared data set says about itself: one row per source file, and the settings in dataset.json."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterable
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

import xxhash

from scarce_cli import __version__
from scarce_cli.data.film import Settings
from scarce_cli.errors import DamagedData, ScarceError, UsageError
from scarce_cli.files import write_json, write_text

DATASET, MANIFEST, BAD_FILES, PARTS = "dataset.json", "manifest.csv", "bad_files.csv", ".parts"
DONE, SKIPPED, DUPLICATE = "done", "skipped", "duplicate"


@dataclass(frozen=True)
class Row:
    """One source file. ``low`` and ``high``: raw values that became black and white. ``total`` and ``squares``:
    exact sums over the prepared pixels (0 to 255), so that mean and spread do not depend on any order."""

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
    look: str = ""
    duplicate_of: str = ""
    near_duplicate_of: str = ""
    suspicion: str = ""
    bytes: int = 0
    mtime_ns: int = 0
    output_bytes: int = 0
    total: int = 0
    squares: int = 0


_TYPES = {
    field.name: {"str": str, "int": int, "float": float, "bool": bool}[str(field.type)]
    for field in fields(Row)
}


@dataclass(frozen=True)
class Dataset:
    """A prepared data set. ``mean`` and ``std`` over all its pixels, grey values scaled to [0, 1].

    ``films`` is one digest over names and pixels of the films that were done, in order.
    """

    folder: Path
    source: Path
    settings: Settings
    images: bool
    complete: bool
    counts: dict[str, int]
    mean: float
    std: float
    films: str
    dedupe: bool = False
    follow_links: bool = False


def row_to_json(row: Row) -> str:
    """One line of a part's journal."""
    return json.dumps(astuple(row))


def row_from_json(line: str) -> Row:
    """The row of a journal line; ValueError when the line is not one."""
    values = json.loads(line)
    if not isinstance(values, list) or len(values) != len(_TYPES):
        raise ValueError("not a journal line")
    if any(not isinstance(value, kind) for value, kind in zip(values, _TYPES.values(), strict=True)):
        raise ValueError("not a journal line")
    return Row(*values)


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "1" if value else "0"
    return f"{value:.9g}" if isinstance(value, float) else str(value)


def write_manifest(folder: Path, rows: Iterable[Row]) -> None:
    """Replace manifest.csv and bad_files.csv (only what was not done)."""
    rows = list(rows)
    names = list(_TYPES)
    _write_csv(folder / MANIFEST, names, ([_cell(value) for value in astuple(row)] for row in rows))
    bad = ([row.path, row.reason] for row in rows if row.status == SKIPPED)
    _write_csv(folder / BAD_FILES, ["path", "reason"], bad)


def _write_csv(path: Path, header: list[str], lines: Iterable[list[str]]) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(lines)
    write_text(path, text.getvalue(), label="manifest")


def read_manifest(folder: Path) -> list[Row]:
    """The rows of manifest.csv. DamagedData when it cannot be read as one."""
    path = folder / MANIFEST
    try:
        with open(path, encoding="utf-8", errors="surrogateescape", newline="") as handle:
            return [_row(cells) for cells in csv.DictReader(handle)]
    except FileNotFoundError:
        return []
    except (csv.Error, ValueError, TypeError, KeyError) as error:
        raise DamagedData(
            f"{path} cannot be read: {error}", "delete it and run scarce preprocess again"
        ) from error


def _row(cells: dict[str, str]) -> Row:
    values: dict[str, Any] = {
        name: cells[name] == "1" if kind is bool else kind(cells[name]) for name, kind in _TYPES.items()
    }
    return Row(**values)


def films_digest(rows: Iterable[Row]) -> str:
    """One hexadecimal digest over the names and pixels of the films that are in the data set, in order."""
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
    return len(done), total / pixels / 255, variance**0.5 / 255


def write_dataset(dataset: Dataset) -> None:
    """Replace dataset.json."""
    value = {
        "format": 1,
        "scarce": __version__,
        "complete": dataset.complete,
        "source": os.fsdecode(dataset.source),
        "settings": {
            **dataset.settings.as_dict(),
            "images": dataset.images,
            "dedupe": dataset.dedupe,
            "follow_links": dataset.follow_links,
        },
        "counts": dataset.counts,
        "mean": dataset.mean,
        "std": dataset.std,
        "films": dataset.films,
    }
    write_json(dataset.folder / DATASET, value, label="dataset")


def read_dataset(folder: Path) -> Dataset:
    """The data set in ``folder``. UsageError when there is none, DamagedData when dataset.json is broken."""
    path = folder / DATASET
    try:
        with open(path, "rb") as handle:
            value = json.loads(handle.read(1 << 20))
    except FileNotFoundError:
        raise UsageError(
            f"{folder}: no prepared data set (it has no {DATASET})",
            "run: scarce preprocess --src FOLDER --size 256",
        ) from None
    except (ValueError, OSError) as error:
        raise DamagedData(
            f"{path} cannot be read: {error}", "run scarce preprocess again into a new folder"
        ) from None
    return _dataset(folder, value)


def _dataset(folder: Path, value: Any) -> Dataset:
    try:
        settings = value["settings"]
        return Dataset(
            folder=folder,
            source=Path(value["source"]),
            settings=Settings(int(settings["size"]), str(settings["window"]), str(settings["fit"])),
            images=bool(settings["images"]),
            complete=bool(value["complete"]),
            counts={str(name): int(count) for name, count in value["counts"].items()},
            mean=float(value["mean"]),
            std=float(value["std"]),
            films=str(value["films"]),
            dedupe=bool(settings["dedupe"]),
            follow_links=bool(settings["follow_links"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError, ScarceError) as error:
        raise DamagedData(
            f"{folder / DATASET} is not what scarce wrote: {error}",
            "run scarce preprocess again into a new folder",
        ) from None


def find_dataset(where: Path, data: Path | None) -> Path:
    """The data set to use: ``data`` if given, else the only one directly under ``where``.

    UsageError when there is none (with the command that makes one) or several (with their names).
    """
    if data is not None:
        read_dataset(data)
        return data
    found = sorted(path.parent for path in where.glob(f"*/{DATASET}"))
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(path.name for path in found)
        raise UsageError(f"several prepared data sets here: {names}", f"choose one: --data {found[0].name}")
    raise UsageError(
        f"no prepared data set in {where.resolve()}", "run first: scarce preprocess --src FOLDER --size 256"
    )

"""A prepared data set's folder: its settings, state and measures in dataset.json, and how one is found."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scarce_cli import __version__
from scarce_cli.data.film import PIXELS_VERSION, Settings
from scarce_cli.errors import DamagedData, ScarceError, UsageError
from scarce_cli.files import make_json, write_json

DATASET = "dataset.json"
_MOST_BYTES = 1 << 20


@dataclass(frozen=True)
class Dataset:
    """A prepared data set. ``mean`` and ``std`` over all its pixels, grey values scaled to [0, 1].

    ``images``: whether the films are there as PNG files, or in the cache only. ``films``: one digest over
    names and pixels of the films that are in the set.
    """

    folder: Path
    source: Path
    settings: Settings
    images: bool = True
    complete: bool = False
    counts: dict[str, int] = field(default_factory=dict)
    mean: float = 0.0
    std: float = 0.0
    films: str = ""
    dedupe: bool = False
    follow_links: bool = False
    pixels_version: int = PIXELS_VERSION

    def identity(self) -> dict[str, Any]:
        """By name, what may not change while the folder stays the same."""
        return {
            "source": os.fspath(self.source),
            "images": self.images,
            **self.settings.as_dict(),
            "pixels_version": self.pixels_version,
        }


def claim(wanted: Dataset) -> Dataset:
    """Make ``wanted`` the folder's data set if it has none; else the one that is there, if it is the same.

    UsageError naming what differs. Safe when several jobs of an array start at once.
    """
    make_json(wanted.folder / DATASET, _as_json(wanted))
    present = read_dataset(wanted.folder)
    old, new = present.identity(), wanted.identity()
    differing = [f"{name} {old[name]} there, {new[name]} now" for name in new if old[name] != new[name]]
    if differing:
        raise UsageError(
            f"{wanted.folder} was made with other settings: {'; '.join(differing)}",
            "give the same settings, or another folder with --out",
        )
    return present


def write_dataset(dataset: Dataset) -> None:
    """Replace dataset.json."""
    write_json(dataset.folder / DATASET, _as_json(dataset), label="dataset")


def _as_json(dataset: Dataset) -> dict[str, Any]:
    return {
        "format": 1,
        "scarce": __version__,
        "complete": dataset.complete,
        "source": os.fspath(dataset.source),
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


def read_dataset(folder: Path) -> Dataset:
    """The data set in ``folder``. UsageError when there is none, DamagedData when dataset.json is broken."""
    path = folder / DATASET
    again = "run scarce preprocess again into a new folder"
    try:
        with open(path, "rb") as handle:
            return _from_json(folder, json.loads(handle.read(_MOST_BYTES)))
    except (FileNotFoundError, NotADirectoryError):
        raise UsageError(
            f"{folder} is no prepared data set (it has no {DATASET})", "make one: scarce preprocess --src FOLDER"
        ) from None
    except OSError as error:
        raise DamagedData(f"{path} cannot be read: {error.strerror}", again) from None
    except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError, RecursionError, ScarceError) as error:
        raise DamagedData(f"{path} is not what scarce wrote: {type(error).__name__} {error}", again) from None


def _from_json(folder: Path, value: Any) -> Dataset:
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
        pixels_version=int(settings["pixels_version"]),
    )


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
        f"no prepared data set in {where.resolve()}", "make one: scarce preprocess --src FOLDER --size 256"
    )

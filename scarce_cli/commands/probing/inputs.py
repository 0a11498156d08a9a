"""What ``scarce probe`` reads: the table, the films it describes, and the episodes drawn from them or given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from scarce_cli.commands.console import stderr, warn

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from scarce_cli.data.cache import Cache
    from scarce_cli.data.labels import Labels
    from scarce_cli.evaluation.fewshot.films import Films

_SHOWN = 5  # problems of a table that are told one by one
_FACTS = ("width", "height", "format", "mode", "bits", "total", "squares")


@dataclass(frozen=True)
class Labelled:
    """Films with labels, and where they are."""

    films: Films
    rows: NDArray[np.int64]  # (F,) rows of the cache
    facts: Mapping[str, tuple[str, ...]]  # what the files themselves were, by film
    near: tuple[tuple[int, int], ...]  # films that look the same
    caveats: tuple[str, ...]


def read_films(table: Labels, cache: Cache, max_bad: float) -> Labelled:
    """Join table and films; counts and names what found no partner.

    Raises:
        UsageError: not one label has a film.
        TooManyBadFiles: more labels than ``max_bad`` of them have none.
    """
    from scarce_cli.data.labels_match import match
    from scarce_cli.data.manifest import film_columns
    from scarce_cli.errors import UsageError
    from scarce_cli.evaluation.fewshot.films import Films

    for problem in table.problems[:_SHOWN]:
        warn(problem)
    if len(table.problems) > _SHOWN:
        warn(f"{len(table.problems) - _SHOWN} more problems in {table.path}")
    found = match(table, cache.names)
    if len(found.rows) == 0:
        raise UsageError(
            f"no image of {table.path} is a film of {cache.folder}",
            f"the films are named like {cache.names[0]}, the images like {table.images[0]}",
        )
    caveats = _unmatched(table, cache, found.without_film, found.without_label, max_bad)
    names = tuple(cache.names[row] for row in found.rows)
    about = film_columns(cache.folder, names, (*_FACTS, "pixel_hash", "near_duplicate_of"))
    films = Films(
        names=names,
        patients=tuple(table.patients[i] for i in found.labels),
        findings=tuple(table.findings[i] for i in found.labels),
        pixels=about["pixel_hash"],
        views=tuple(table.views[i] for i in found.labels),
        columns={name: tuple(values[i] for i in found.labels) for name, values in table.columns.items()},
        stated=tuple(table.stated[i] for i in found.labels),
    )
    return Labelled(films, found.rows, _facts(about, cache.size), _near(names, about["near_duplicate_of"]), caveats)


def _facts(about: Mapping[str, tuple[str, ...]], side: int) -> dict[str, tuple[str, ...]]:
    """What files and pixels tell without a look at the film: format, size, how bright and how rich in contrast."""
    from scarce_cli.evaluation.fewshot.shortcuts import CONTRAST, LIGHT

    sizes = tuple(f"{w} x {h}" for w, h in zip(about["width"], about["height"], strict=True))
    grey = [_grey(*sums, side) for sums in zip(about["total"], about["squares"], strict=True)]
    files = {f"{name} of the file": about[name] for name in ("format", "mode", "bits")}
    return {
        "size of the film": sizes,
        **files,
        LIGHT: tuple(mean for mean, _ in grey),
        CONTRAST: tuple(spread for _, spread in grey),
    }


def _grey(total: str, squares: str, side: int) -> tuple[str, str]:
    """Mean and spread of a prepared film's grey values, as text; "" where the manifest has no sums."""
    if not (total.isdecimal() and squares.isdecimal()):
        return "", ""
    mean = int(total) / side**2
    return f"{mean:.1f}", f"{max(int(squares) / side**2 - mean**2, 0) ** 0.5:.1f}"


def _unmatched(
    table: Labels, cache: Cache, without_film: Sequence[str], without_label: Sequence[str], max_bad: float
) -> tuple[str, ...]:
    from scarce_cli.errors import TooManyBadFiles

    caveats = []
    missing = len(without_film)
    if missing:
        shown = ", ".join(without_film[:_SHOWN]) + (", …" if missing > _SHOWN else "")
        warn(f"{missing} labels have no film ({shown})")
        caveats.append(f"{missing} of {len(table.images)} labels have no film and are left out ({shown}).")
    if missing > max_bad * len(table.images):
        raise TooManyBadFiles(
            f"{missing} of {len(table.images)} labels in {table.path} have no film in {cache.folder}",
            "prepare the missing films; or --max-bad 1 if the table covers more films than these",
        )
    if without_label:
        stderr().print(f"{len(without_label)} films have no label and are left out", highlight=False)
        caveats.append(f"{len(without_label)} films have no label and are left out.")
    if table.problems:
        more = len(table.problems) - _SHOWN
        told = [*table.problems[:_SHOWN], *([f"and {more} more"] if more > 0 else [])]
        caveats.append(f"In the table: {'; '.join(told)}.")
    return tuple(caveats)


def _near(names: Sequence[str], near: Sequence[str]) -> tuple[tuple[int, int], ...]:
    place = {name: number for number, name in enumerate(names)}
    return tuple((number, place[other]) for number, other in enumerate(near) if other in place)


def keep(labelled: Labelled, kept: NDArray[np.int64]) -> Labelled:
    """Only the films with these numbers, in ascending order."""
    films, new = labelled.films, {int(old): number for number, old in enumerate(kept)}
    part = replace(
        films,
        names=tuple(films.names[i] for i in kept),
        patients=tuple(films.patients[i] for i in kept),
        findings=tuple(films.findings[i] for i in kept),
        pixels=tuple(films.pixels[i] for i in kept),
        views=tuple(films.views[i] for i in kept),
        columns={name: tuple(values[i] for i in kept) for name, values in films.columns.items()},
        stated=tuple(films.stated[i] for i in kept),
    )
    facts = {name: tuple(values[i] for i in kept) for name, values in labelled.facts.items()}
    near = tuple((new[a], new[b]) for a, b in labelled.near if a in new and b in new)
    return replace(labelled, films=part, rows=labelled.rows[kept], facts=facts, near=near)

"""Which label belongs to which film, by path and name alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from scarce_cli.errors import UsageError

if TYPE_CHECKING:
    from scarce_cli.data.labels import Labels

# Only these endings are dropped: "1.2.840.113619" is a whole name.
_ENDINGS = frozenset(
    {
        *("png", "jpg", "jpeg", "jpe", "jfif", "tif", "tiff", "dcm", "dicom", "dic", "ima"),
        *("bmp", "gif", "webp", "pgm", "jp2", "j2k", "npy"),
    }
)


@dataclass(frozen=True)
class Matched:
    """Films with their labels, M of them.

    rows: (M,) int64 rows of the cache, ascending, distinct; labels: (M,) int64, index into Labels.
    without_film: images of labels without a film; without_label: names of films without a label.
    """

    rows: np.ndarray
    labels: np.ndarray
    without_film: tuple[str, ...]
    without_label: tuple[str, ...]

    def report(self) -> list[str]:
        """Counts, and the first five of each, for the screen."""
        pairs = (("labels without a film", self.without_film), ("films without a label", self.without_label))
        return [
            f"{len(names):,} {what}: {', '.join(map(repr, names[:5]))}{', ...' if len(names) > 5 else ''}"
            for what, names in pairs
            if names
        ]


def plain_path(path: str) -> str:
    """``path`` without ``.`` and empty parts, so that ``./a//b.png`` and ``a/b.png`` are one."""
    if "//" not in path and "./" not in path:
        return path
    return "/".join(part for part in path.split("/") if part not in ("", "."))


def match(labels: Labels, names: Sequence[str]) -> Matched:
    """Find the film of every label. ``names``: relative POSIX paths of the films, by row of the cache.

    In this order: the same path; the same end of the path (either may have more folders in front), then the
    same without the file's ending; last the bare name without ending, if one film and one label bear it.
    Where two labels claim one film, the earlier rule wins. UsageError if a label names several films equally
    well, or several labels one film.
    """
    finder = _Finder(names, labels.images)
    claims: dict[int, tuple[int, int]] = {}
    without: list[int] = []
    for index, image in enumerate(labels.images):
        found = finder.find(image)
        if found is None:
            without.append(index)
            continue
        row, rule = found
        rival = claims.get(row)
        if rival is not None and rival[0] == rule:
            raise UsageError(
                f"{labels.path}: {labels.images[rival[1]]!r} and {image!r} both name the film {names[row]!r}",
                "write the films' whole relative paths in the table, or remove one row",
            )
        if rival is None or rule < rival[0]:
            claims[row] = (rule, index)
            without += [] if rival is None else [rival[1]]
        else:
            without.append(index)
    rows = sorted(claims)
    return Matched(
        rows=np.array(rows, dtype=np.int64),
        labels=np.array([claims[row][1] for row in rows], dtype=np.int64),
        without_film=tuple(labels.images[index] for index in sorted(without)),
        without_label=tuple(name for row, name in enumerate(names) if row not in claims),
    )


class _Finder:
    """Dictionaries from every end of every film's path to its rows: one look-up per rule and label."""

    def __init__(self, names: Sequence[str], images: Sequence[str]) -> None:
        self.names = names
        films = [plain_path(name) for name in names]
        self.exact = {film: row for row, film in enumerate(films)}
        self.ends: dict[str, int | list[int]] = {}
        self.bare_ends: dict[str, int | list[int]] = {}
        self.bare = {_bare(film): row for row, film in enumerate(films)}
        for row, film in enumerate(films):
            for end in _ends(film):
                _append(self.ends, end, row)
            for end in _ends(_bare(film)):
                _append(self.bare_ends, end, row)
        self.bearers: dict[str, int | list[int]] = {}
        for index, image in enumerate(images):
            _append(self.bearers, _bare(plain_path(image)).rpartition("/")[2], index)

    def find(self, image: str) -> tuple[int, int] | None:
        """(row, rule) of the film that ``image`` names, the lowest rule that finds one, or None."""
        path = plain_path(image)
        if path in self.exact:
            return self.exact[path], 0
        for rule, ends, wholes, key in (
            (1, self.ends, self.exact, path),
            (2, self.bare_ends, self.bare, _bare(path)),
        ):
            rows = ends.get(key)
            if isinstance(rows, list):
                raise self._ambiguous(image, rows)
            if rows is None:
                rows = next((wholes[end] for end in _ends(key) if "/" in end and end in wholes), None)
            if rows is not None:
                return rows, rule
        name = _bare(path).rpartition("/")[2]
        row = self.bare_ends.get(name)
        return (row, 3) if isinstance(row, int) and isinstance(self.bearers[name], int) else None

    def _ambiguous(self, image: str, rows: list[int]) -> UsageError:
        films = ", ".join(repr(self.names[row]) for row in rows[:10])
        more = f" and {len(rows) - 10} more" if len(rows) > 10 else ""
        return UsageError(
            f"the label {image!r} fits {len(rows)} films: {films}{more}",
            "write the films' whole relative paths in the table's image column",
        )


def _append(table: dict[str, int | list[int]], key: str, value: int) -> None:
    """Most keys are borne once: a plain number there, a list only where there are several."""
    old = table.setdefault(key, value)
    if isinstance(old, list):
        old.append(value)
    elif old != value:
        table[key] = [old, value]


def _bare(path: str) -> str:
    stem, dot, ending = path.rpartition(".")
    return stem if dot and ending.lower() in _ENDINGS and not stem.endswith("/") and stem else path


def _ends(path: str) -> Iterator[str]:
    """``a/b/c``, ``b/c``, ``c``."""
    yield path
    while "/" in path:
        path = path.partition("/")[2]
        yield path

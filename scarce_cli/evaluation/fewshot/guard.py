"""What must not be on both sides of a split: a patient, or a film. And which films an encoder has seen before.

Shapes: F films, K keys of films that were trained on.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from scarce_cli.errors import UsageError
from scarce_cli.evaluation.fewshot.drawing import united_patients
from scarce_cli.evaluation.fewshot.episodes import Episodes
from scarce_cli.evaluation.fewshot.films import Bools, Films, Ints

Pairs = tuple[tuple[str, str], ...]

_HASH = re.compile("[0-9a-f]{32}")  # as in manifest.csv


@dataclass(frozen=True)
class Leaks:
    """Pairs of films by name, one pair for each patient or each picture that leaks, in the order of their names."""

    patients: Pairs  # (learned from, tested on): of one patient
    pictures: Pairs  # (learned from, tested on): the same pixels
    owners: Pairs  # the same pixels under two patients, wherever they are

    def __bool__(self) -> bool:
        return bool(self.patients or self.pictures or self.owners)


def find_leaks(films: Films, episodes: Episodes, keep_together: Sequence[tuple[int, int]] = ()) -> Leaks:
    """What is on both sides. All tasks are looked at together: their results are averaged, so what one of them
    learns from must not be what another tests.

    Args:
        keep_together: pairs of film numbers whose patients count as one, as in `draw_episodes`.
    """
    patients = united_patients(films, keep_together)
    learned, tested = sides(films, episodes)
    return Leaks(
        patients=_on_both(films, patients, learned, tested),
        pictures=_on_both(films, films.pixels, learned, tested),
        owners=tuple((films.names[one], films.names[other]) for one, other in _two_owners(films, patients)),
    )


def sides(films: Films, episodes: Episodes) -> tuple[Bools, Bools]:
    """(F,) films that some task learns from, and films that some task is tested on."""
    learned, tested = np.zeros(len(films), bool), np.zeros(len(films), bool)
    for task in episodes.tasks:
        tested[task.test] = True
        for support in (support for draws in task.supports.values() for support in draws):
            learned[support.films] = True
    return learned, tested


def identical_pairs(films: Films) -> tuple[tuple[int, int], ...]:
    """Films of the same pixels under two patients: pairs of numbers that link all patients of one picture."""
    return _two_owners(films, films.patients)


def require_clean(leaks: Leaks) -> None:
    """UsageError with what leaks, how often, and the first five pairs. Films are named, never patients."""
    if not leaks:
        return
    told = [
        (leaks.owners, "the same picture under two patients", "picture"),
        (leaks.pictures, "the same picture to learn from and to test on", "picture"),
        (leaks.patients, "films of one patient to learn from and to test on", "patient"),
    ]
    found = [
        f"{what} ({len(pairs):,} {unit}{'s'[: len(pairs) > 1]}: {_listed(pairs)})"
        for pairs, what, unit in told
        if pairs
    ]
    raise UsageError(f"films leak between training and test: {'; '.join(found)}", _remedy(leaks))


def seen_films(pixels: Sequence[str], trained_on: Ints) -> Bools:
    """(F,) which films were in a pretraining set.

    Args:
        pixels: hash of each film's decoded pixels; what is none was not seen, as far as is known.
        trained_on: (K,) ascending keys of the films trained on, as `data.manifest.pixel_keys` makes them.
    """
    known = np.array([_HASH.fullmatch(one) is not None for one in pixels], bool)
    keys = np.array([int(one[:16], 16) if good else 0 for one, good in zip(pixels, known, strict=True)], np.uint64)
    return known & np.isin(keys.view(np.int64), trained_on)


def _on_both(films: Films, groups: Sequence[str], learned: Bools, tested: Bools) -> Pairs:
    """For each group ("" is none) on both sides, its first film learned from and its first one tested on."""
    first: tuple[dict[str, str], dict[str, str]] = ({}, {})
    for place, side in zip(first, (learned, tested), strict=True):
        for film in np.flatnonzero(side).tolist():
            group, name = groups[film], films.names[film]
            place[group] = min(name, place.get(group, name))
    both = first[0].keys() & first[1].keys() - {""}
    return tuple(sorted((first[0][group], first[1][group]) for group in both))


def _two_owners(films: Films, patients: Sequence[str]) -> tuple[tuple[int, int], ...]:
    """For each picture of several patients: the first film, with the first one of every other patient."""
    bearers: dict[str, list[int]] = defaultdict(list)
    for film, pixels in enumerate(films.pixels):
        if pixels:
            bearers[pixels].append(film)
    pairs = []
    for group in bearers.values():
        if len(group) > 1:
            group.sort(key=films.names.__getitem__)
            owner: dict[str, int] = {}
            for film in group:
                owner.setdefault(patients[film], film)
            pairs += [(group[0], film) for film in list(owner.values())[1:]]
    return tuple(sorted(pairs, key=lambda pair: (films.names[pair[0]], films.names[pair[1]])))


def _listed(pairs: Iterable[tuple[str, str]]) -> str:
    listed = [f"{one!r} and {other!r}" for one, other in pairs]
    return ", ".join(listed[:5]) + (", ..." if len(listed) > 5 else "")


def _remedy(leaks: Leaks) -> str:
    if leaks.owners:
        return "remove one row of each pair from the table, or --same-film join to count their patients as one"
    return "these episodes were drawn for other patients: leave out --episodes to draw them from this table"

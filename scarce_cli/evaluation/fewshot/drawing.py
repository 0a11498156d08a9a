"""Which films a finding is learned from and tested on: a function of names and the seed, not of the films' order.

Patients are split; support sets take one film a patient as long as there are patients. Sides and ranks come from
hashes, so that films added later change little, and the films of 5 shots are among those of 10 of the same draw:
what differs between numbers of shots is then less a matter of luck.

Shapes: F films, P patients, M films of one class in the training part.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scarce_cli.errors import UsageError
from scarce_cli.evaluation.fewshot.episodes import Episodes, EpisodeSettings, Skipped, Support, Task
from scarce_cli.evaluation.fewshot.films import REST, Bools, Films, Ints, nobody_has

Hashes = NDArray[np.uint64]


def draw_episodes(
    films: Films,
    findings: Sequence[str],
    against: str | None,
    settings: EpisodeSettings,
    keep_together: Sequence[tuple[int, int]] = (),
) -> Episodes:
    """One task for each of ``findings`` that has films of both classes among test and training patients.

    Args:
        against: a finding; films that show both or neither are left out. None: all films that are known not to show
            the finding. A film that the table says nothing about may show it, so it is in neither class
            (`unlabelled` counts them).
        keep_together: pairs of film numbers whose patients count as one.

    What cannot be drawn is in ``skipped`` with its reason. All test films of both classes are tested on.

    Raises:
        UsageError: no film is labelled with one of ``findings`` or ``against``, or they are the same.
    """
    against = None if against == REST else against
    _require_labelled(films, [*findings, *([] if against is None else [against])])
    if against in findings:
        raise UsageError(f"'{against}' cannot be tested against itself", "name another finding, or none")
    pool = _Pool.of(films, settings, keep_together)
    tasks: list[Task] = []
    skipped: list[Skipped] = []
    for finding in dict.fromkeys(findings):
        task, reasons = _draw_task(pool, finding, against, settings)
        tasks += [] if task is None else [task]
        skipped += reasons
    return Episodes(settings, tuple(tasks), tuple(skipped))


def unlabelled(films: Films) -> int:
    """How many films the table says nothing about: they are neither with nor without any finding."""
    return int((~films.known()).sum())


def in_test_part(patients: Sequence[str], fraction: float, seed: int) -> Bools:
    """Which films belong to test patients. Depends on each patient's name alone, so a patient is on the
    same side for every finding and however many films are added later."""
    side = {patient: _hash(f"{seed}/{patient}") / 2**64 < fraction for patient in set(patients)}
    return np.array([side[patient] for patient in patients], dtype=bool)


def united_patients(films: Films, keep_together: Iterable[tuple[int, int]]) -> tuple[str, ...]:
    """Each film's patient, where the two patients of a pair, and all that are linked by pairs, bear the name of
    the one of them that comes first."""
    parent: dict[str, str] = {}

    def first(name: str) -> str:
        while name in parent:
            name = parent[name]
        return name

    for one, other in keep_together:
        names = sorted((first(films.patients[one]), first(films.patients[other])))
        if names[0] != names[1]:
            parent[names[1]] = names[0]
    return tuple(first(name) for name in films.patients) if parent else films.patients


def _hash(name: str) -> int:
    """64 bits of a name. A checksum will not do: in CRC-32 another seed moves all names of one length alike, so
    the same patients would always be tested together."""
    return int.from_bytes(hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest())


def _mix(x: Hashes) -> Hashes:
    """One step of SplitMix64 from each state: the output function of Steele, Lea & Flood 2014, figure 17."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@dataclass(frozen=True)
class _Pool:
    """All films with what is hashed once."""

    films: Films
    test: Bools  # (F,)
    patients: Ints  # (F,) number of the film's patient
    patient_hash: Hashes  # (P,)
    film_hash: Hashes  # (F,)

    @classmethod
    def of(cls, films: Films, settings: EpisodeSettings, keep_together: Iterable[tuple[int, int]]) -> _Pool:
        names = united_patients(films, keep_together)
        number = {name: place for place, name in enumerate(sorted(set(names)))}
        return cls(
            films=films,
            test=in_test_part(names, settings.test_fraction, settings.seed),
            patients=np.array([number[name] for name in names], np.int64),
            patient_hash=np.array([_hash(name) for name in number], np.uint64),
            film_hash=np.array([_hash(name) for name in films.names], np.uint64),
        )


def _draw_task(
    pool: _Pool, finding: str, against: str | None, settings: EpisodeSettings
) -> tuple[Task | None, list[Skipped]]:
    has, other = pool.films.classes(finding, against)
    name = against or REST
    reason = _missing(has, other, pool.test, finding, against)
    if reason:
        return None, [Skipped(finding, name, None, reason)]
    train = [np.flatnonzero(part & ~pool.test) for part in (has, other)]
    fewest = min(len(part) for part in train)
    rarer = f"'{finding}'" if len(train[0]) == fewest else _named(against)
    shots = [count for count in dict.fromkeys(settings.shots) if count <= fewest]
    skipped = [
        Skipped(finding, name, count, f"only {fewest:,} training films of {rarer}")
        for count in dict.fromkeys(settings.shots)
        if count > fewest
    ]
    if not shots:
        return None, skipped
    draws = [_draw(pool, train, (settings.seed, finding, name, draw), max(shots)) for draw in range(settings.draws)]
    supports = {count: tuple(_support(ranked, count) for ranked in draws) for count in shots}
    test = np.flatnonzero((has | other) & pool.test)
    return Task(finding, name, test, has[test], supports), skipped


def _draw(pool: _Pool, train: Sequence[Ints], key: tuple[int, str, str, int], most: int) -> list[Ints]:
    """For each class its first ``most`` films in the order of this draw. Each class has a key of its own: else a
    patient with films in both would be drawn into both more often than by chance."""
    keys = [np.uint64(_hash(json.dumps([*key, label]))) for label in (1, 0)]
    return [_ranked(pool, members, one, most) for members, one in zip(train, keys, strict=True)]


def _ranked(pool: _Pool, members: Ints, key: np.uint64, most: int) -> Ints:
    """The first ``most`` of the (M,) films: one of each patient by the patients' ranks, then a second one of each.

    Within a patient, and among patients, the smallest hash comes first.
    """
    owners = pool.patients[members]
    people = np.flatnonzero(np.bincount(owners))
    if len(people) > most:
        within = np.zeros(len(pool.patient_hash), bool)
        within[people[np.argpartition(_mix(pool.patient_hash[people] ^ key), most - 1)[:most]]] = True
        members = members[within[owners]]
        owners = pool.patients[members]
    rank = _mix(pool.patient_hash[owners] ^ key)
    order = np.lexsort((_mix(pool.film_hash[members] ^ key), owners, rank))
    members, owners = members[order], owners[order]
    starts = np.flatnonzero(np.r_[True, owners[1:] != owners[:-1]])
    nth = np.arange(len(members)) - np.repeat(starts, np.diff(np.r_[starts, len(members)]))
    return members[np.argsort(nth, kind="stable")][:most]


def _support(ranked: Sequence[Ints], shots: int) -> Support:
    return Support(np.concatenate([part[:shots] for part in ranked]), np.repeat([True, False], shots))


def _missing(has: Bools, other: Bools, test: Bools, finding: str, against: str | None) -> str:
    """Why the finding cannot be tested, or an empty string."""
    if not has.any():
        return f"every film of '{finding}' shows '{against}' too"
    if not other.any():
        shown = "all films that are labelled show" if against is None else f"every film of '{against}' shows"
        return f"{shown} '{finding}'{'' if against is None else ' too'}: there is nothing to hold it against"
    for name, part in (("test", test), ("training", ~test)):
        for films, what in ((has, f"'{finding}'"), (other, _named(against))):
            if not (films & part).any():
                return f"no {name} patient has a film of {what}"
    return ""


def _named(against: str | None) -> str:
    return REST if against is None else f"'{against}'"


def _require_labelled(films: Films, findings: Sequence[str]) -> None:
    """UsageError for the first finding that no film has."""
    for name in findings:
        if not films.showing(name).any():
            raise nobody_has(films, name)

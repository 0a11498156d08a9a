"""What may leak between training and test without proof: said beside the results, not refused."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence

from scarce_cli.evaluation.fewshot.episodes import Episodes
from scarce_cli.evaluation.fewshot.films import Bools, Films
from scarce_cli.evaluation.fewshot.guard import sides

_CROWD = 500  # films; the patient with the most of 112,120 public films has 184


def doubts(films: Films, episodes: Episodes, near_pairs: Sequence[tuple[int, int]] = ()) -> tuple[str, ...]:
    """Sentences on films that should perhaps not be on different sides, or not have the labels they have.

    Args:
        near_pairs: numbers of films that look nearly the same.
    """
    learned, tested = sides(films, episodes)
    found = (
        _near(films, learned, tested, near_pairs),
        _alike_names(films, learned, tested),
        _unnamed_patients(films, learned | tested),
        _crowd(films),
        _contradictions(films, learned | tested),
    )
    return tuple(text for text in found if text)


def _near(films: Films, learned: Bools, tested: Bools, near_pairs: Sequence[tuple[int, int]]) -> str:
    across = [pair for pair in near_pairs if _across(pair, learned, tested)]
    return _told(films, across, "look nearly the same, and one is learned from while the other is tested on")


def _across(pair: tuple[int, int], learned: Bools, tested: Bools) -> bool:
    one, other = pair
    return bool(learned[one] and tested[other]) or bool(learned[other] and tested[one])


def _alike_names(films: Films, learned: Bools, tested: Bools) -> str:
    """Patients whose names differ only as two exports write one number: 007, 7, 7.0; in case, spaces and signs."""
    used = [film for film in range(len(films)) if (learned[film] or tested[film]) and not _is_own(films, film)]
    bearers: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for film in used:
        bearers[_bare(films.patients[film])][films.patients[film]].append(film)
    across = []
    for patients in bearers.values():
        train = {name: film for name, of in patients.items() for film in of if learned[film]}
        test = {name: film for name, of in patients.items() for film in of if tested[film]}
        pairs = ((one, other) for a, one in train.items() for b, other in test.items() if a != b)
        across += [pair] if (pair := next(pairs, None)) else []
    return _told(
        films,
        across,
        "belong to patients whose names differ only in writing (007, 7, 7.0): if they are one patient, that one is "
        "both learned from and tested on",
    )


def _bare(patient: str) -> str:
    """What is left of a name when it is written as plainly as it can be."""
    plain = unicodedata.normalize("NFKC", patient).casefold()
    plain = re.sub(r"^\s*(\d+)\.0+\s*$", r"\1", plain)
    parts = [part.lstrip("0") or "0" for part in re.findall(r"[0-9]+|[^\W\d_]+", plain)]
    return "/".join(parts) or patient


def _unnamed_patients(films: Films, used: Bools) -> str:
    """Where a table names no patient, each film counts as a patient of its own."""
    own = sum(bool(used[film]) and _is_own(films, film) for film in range(len(films)))
    if not own:
        return ""
    return (
        f"{own:,} films belong to no named patient, so each counts as its own: films of one patient may be on "
        "both sides"
    )


def _is_own(films: Films, film: int) -> bool:
    """The film's patient bears its name: the table names none. Either may have more folders in front."""
    return films.names[film].rpartition("/")[2] == films.patients[film].rpartition("/")[2]


def _crowd(films: Films) -> str:
    (_, most), *_ = Counter(films.patients).most_common(1) or [("", 0)]
    if most <= _CROWD:
        return ""
    return (
        f"one patient has {most:,} of {len(films):,} films: if that name stands for all unknown patients, other films "
        "of theirs may be on the other side"
    )


def _contradictions(films: Films, used: Bools) -> str:
    """Films of the same pixels with other findings."""
    first: dict[str, int] = {}
    pairs = []
    for film, pixels in enumerate(films.pixels):
        if pixels and used[film]:
            other = first.setdefault(pixels, film)
            pairs += [(other, film)] if films.findings[other] != films.findings[film] else []
    return _told(films, pairs, "are the same picture with other findings")


def _told(films: Films, pairs: Sequence[tuple[int, int]], what: str) -> str:
    if not pairs:
        return ""
    names = sorted((films.names[one], films.names[other]) for one, other in pairs)
    listed = ", ".join(f"{one!r} and {other!r}" for one, other in names[:5]) + (", ..." if len(names) > 5 else "")
    return f"in {len(names):,} {'pair' if len(names) == 1 else 'pairs'} of films, the two {what} ({listed})"

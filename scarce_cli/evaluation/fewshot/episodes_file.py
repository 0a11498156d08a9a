"""Episodes as a file, so that two hospitals or two papers test the same films. No patient is named in it.

JSON in ASCII: format, settings, films as [name, hash of the pixels] in the order of the names, tasks with places in
that list, what was skipped and why, and a SHA-256 of it all, by which damage on the way is noticed.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from scarce_cli.data.manifest import check_paths
from scarce_cli.errors import UnsafeInput, UsageError
from scarce_cli.evaluation.fewshot.episodes import Episodes, Task
from scarce_cli.evaluation.fewshot.episodes_check import FORMAT, Reader, digest, read_bytes
from scarce_cli.evaluation.fewshot.films import REST, Bools, Films, Ints
from scarce_cli.files import write_text

_WINDOWS = re.compile(r"\\|[A-Za-z]:")  # may lead elsewhere on another system


def write_episodes(path: Path, films: Films, episodes: Episodes) -> str:
    """Replace ``path`` atomically; returns the SHA-256 of the file in hexadecimal.

    The same films and episodes make the same bytes, in whatever order the films stand. Raises ResourceError.
    """
    used = sorted(episodes.films().tolist(), key=films.names.__getitem__)
    place = np.zeros(len(films), np.int64)
    place[used] = np.arange(len(used))
    value = {
        "format": FORMAT,
        "settings": asdict(episodes.settings),
        "films": [[films.names[film], films.pixels[film]] for film in used],
        "tasks": [_task_as_value(task, place) for task in episodes.tasks],
        "skipped": [[one.finding, one.against, one.shots, one.reason] for one in episodes.skipped],
    }
    text = _laid_out({**value, "sha256": digest(value)})
    write_text(path, text, label="episodes")
    return hashlib.sha256(text.encode()).hexdigest()


def _task_as_value(task: Task, place: Ints) -> dict[str, Any]:
    return {
        "finding": task.finding,
        "against": task.against,
        "positive": np.sort(place[task.test[task.labels]]).tolist(),
        "negative": np.sort(place[task.test[~task.labels]]).tolist(),
        "supports": {str(shots): [place[s.films].tolist() for s in draws] for shots, draws in task.supports.items()},
    }


def _laid_out(value: dict[str, Any]) -> str:
    """JSON with a line for each film, task and skipped finding, so that two files can be compared line by line."""
    parts = [f'"{key}":{_lines(one) if isinstance(one, list) else _dense(one)}' for key, one in value.items()]
    return "{" + ",\n".join(parts) + "}\n"


def _lines(values: list[Any]) -> str:
    return "[\n" + ",\n".join(map(_dense, values)) + "\n]" if values else "[]"


def _dense(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


def read_episodes(path: Path, films: Films) -> Episodes:
    """The episodes of a file, with the numbers that its films have among ``films``. Films are matched by name.

    Raises:
        UsageError: no such file, another format, larger than 128 MiB; it names films that are not among ``films``,
            or whose pixels are others here; the table says otherwise of a film than the task that it is in.
        UnsafeInput: a name leads out of the data folder.
        DamagedData: not JSON, altered since it was written, or nothing that a draw could have given.
    """
    reader = Reader(path)
    value = reader.parse(read_bytes(path))
    settings = reader.settings(value["settings"])
    numbers = _find_films(path, reader.films(value["films"]), films)
    tasks = tuple(reader.task(one, numbers, settings) for one in reader.of(list, value["tasks"]))
    skipped = tuple(reader.skipped(one) for one in reader.of(list, value["skipped"]))
    reader.whole(Episodes(settings, tasks, skipped), len(numbers))
    for task in tasks:
        _require_agreement(path, task, films)
    return Episodes(settings, tasks, skipped)


def _find_films(path: Path, listed: Sequence[tuple[str, str]], films: Films) -> Ints:
    """The number among ``films`` of each film listed, as (name, hash of the pixels)."""
    number = {name: film for film, name in enumerate(films.names)}
    names = [name for name, _ in listed]
    _require_safe(path, [name for name in names if name not in number])
    missing = [name for name in names if name not in number]
    if missing:
        raise UsageError(
            f"{path}: {_first_five(missing, len(names))} not among the labelled films of this data set",
            "prepare and label these films too, and give the same --where; without them nothing can be compared",
        )
    found = [number[name] for name in names]
    other = [name for (name, pixels), f in zip(listed, found, strict=True) if _differ(pixels, films.pixels[f])]
    if other:
        raise UsageError(
            f"{path}: {_first_five(other, len(names))} other films in this data set: their pixels differ",
            "prepare the films that the episodes were drawn from, unchanged",
        )
    return np.array(found, np.int64)


def _require_safe(path: Path, names: Sequence[str]) -> None:
    """Nothing that the file names is ever opened; unsafe paths are refused all the same, as in tables of labels."""
    remedy = "do not use this file: films are named by paths inside a data set"
    try:
        check_paths(names, path)
    except UnsafeInput as error:
        raise UnsafeInput(error.message, remedy) from None
    for name in names:
        if _WINDOWS.search(name):
            raise UnsafeInput(f"{path}: {name[:200]!r} may lead out of its folder", remedy)


def _differ(one: str, other: str) -> bool:
    return bool(one and other and one != other)


def _require_agreement(path: Path, task: Task, films: Films) -> None:
    """The table gives every film of a task the class that the task gives it."""
    has = films.showing(task.finding)
    other = films.known() if task.against == REST else films.showing(task.against)
    with_it, without = _members(task)
    wrong = np.concatenate([with_it[~has[with_it]], without[has[without] | ~other[without]]])
    if len(wrong):
        raise UsageError(
            f"{path}: in this table {_first_five([films.names[film] for film in wrong], len(with_it) + len(without))} "
            f"not labelled as the task '{task.finding[:80]}' against '{task.against[:80]}' has them",
            "use the table that they were drawn from, with the same --task and --where, or leave out --episodes",
        )


def _members(task: Task) -> tuple[Ints, Ints]:
    """Distinct films with the finding and without, learned from or tested on."""
    parts: list[tuple[Ints, Bools]] = [(task.test, task.labels)]
    parts += [(support.films, support.labels) for draws in task.supports.values() for support in draws]
    films, labels = (np.concatenate(part) for part in zip(*parts, strict=True))
    return np.unique(films[labels]), np.unique(films[~labels])


def _first_five(names: Sequence[str], of: int) -> str:
    """``3 of 40 films ('a.png', 'b.png', 'c.png') are``."""
    listed = ", ".join(map(repr, sorted(names)[:5])) + (", ..." if len(names) > 5 else "")
    return f"{len(names):,} of {of:,} films ({listed}) {'is' if len(names) == 1 else 'are'}"

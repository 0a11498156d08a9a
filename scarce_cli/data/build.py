"""Building the cache: from the prepared films of a data set, or straight from source films."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import xxhash

from scarce_cli.data.cache import CACHE, Index, check_current, check_file, read_index
from scarce_cli.data.dataset import Dataset, claim, read_dataset
from scarce_cli.data.journal import Journal, unchanged
from scarce_cli.data.manifest import (
    DONE,
    SKIPPED,
    Row,
    cache_order,
    films_digest,
    measure,
    read_manifest,
    write_manifest,
)
from scarce_cli.data.part import Part
from scarce_cli.data.pool import Pool
from scarce_cli.data.preprocess import (
    Outcome,
    Progress,
    Request,
    audit,
    find_films,
    finish,
    no_progress,
    read_image,
    told_how_to_go_on,
)
from scarce_cli.data.sources import Source, list_sources
from scarce_cli.data.worker import Item, Job, film_worker, lost_film
from scarce_cli.errors import DamagedData, ScarceError, UsageError
from scarce_cli.files import folder_lock, remove_temporaries, require_writable

_SECONDS_BETWEEN_NOTES = 5.0
_BUSY = "another scarce command is preparing films in it"


def build_from_images(folder: Path, *, workers: int = 0, progress: Progress = no_progress) -> int:
    """The cache of a data set from its prepared PNG files; how many films it holds.

    Raises UsageError (unfinished or empty data set), DamagedData (a prepared film that cannot be read),
    Locked, ResourceError, Interrupted. Going on after an interruption does only what is missing.
    """
    dataset = read_dataset(folder)
    if not dataset.complete:
        again = f"scarce preprocess --src {dataset.source} --size {dataset.settings.size} --out {folder}"
        raise UsageError(f"{folder} is not finished", f"finish it: {again}")
    require_writable(folder)
    with folder_lock(folder, _BUSY):
        remove_temporaries(folder)
        rows = read_manifest(folder)
        films = [rows[position] for position in cache_order(rows)]
        _require_films(folder, films)
        part = Part(folder, _key(dataset, [dataset.films]), len(films), dataset.settings.size)
        job = _Copy(folder, part.path, part.offset, dataset.settings.size)
        with told_how_to_go_on(done := {}, len(films)), _notes(part) as (journal, noted):
            done.update(noted)
            todo = [(place, row) for place, row in enumerate(films) if row.path not in done]
            pool: Pool[tuple[int, Row], Row] = Pool(_copier, (job,), _unreadable, workers=workers)
            _collect(pool.run(todo), part, journal, done, len(films), progress)
            part.publish(dataset, range(len(films)), [row.path for row in films])
        Journal.remove_all(folder)
    return len(films)


@dataclass(frozen=True)
class _Copy:
    """From PNG files in ``folder`` to rows of ``rows``."""

    folder: Path
    rows: Path
    offset: int
    size: int


def _copier(job: _Copy) -> Callable[[tuple[int, Row]], Row]:
    descriptor = os.open(job.rows, os.O_RDWR)

    def work(item: tuple[int, Row]) -> Row:
        place, row = item
        square = read_image(job.folder, row)
        if square.shape != (job.size, job.size):
            raise DamagedData(
                f"{job.folder / row.output} has {square.shape[1]} x {square.shape[0]} pixels, not {job.size}",
                "delete it and run the same scarce preprocess again",
            )
        os.pwrite(descriptor, square.tobytes(), job.offset + place * job.size**2)
        return row

    return work


def _unreadable(item: tuple[int, Row], reason: str) -> Row:
    raise DamagedData(f"{item[1].output}: {reason}", "delete it and run the same scarce preprocess again")


def build_from_films(request: Request, *, rebuild: bool = False, progress: Progress = no_progress) -> Outcome:
    """A data set whose films are in the cache only, straight from the source films.

    Raises as ``preprocess``; UsageError naming what was added, removed or changed when there is a cache
    already that is out of date, unless ``rebuild``.
    """
    sources = find_films(request)
    require_writable(request.folder)
    with folder_lock(request.folder, _BUSY):
        remove_temporaries(request.folder)
        wanted = request.dataset(images=False)
        present = claim(wanted)
        rows = read_manifest(request.folder)
        if not rebuild and _is_built(request.folder, rows):
            refuse_stale(request.folder, rows, sources)
            return Outcome(rows, 0, present if present.complete else finish(wanted, rows))
        return _build_rows(request, wanted, sources, progress)


def _is_built(folder: Path, rows: Sequence[Row]) -> bool:
    """Whether there is a whole cache of the manifest's films."""
    try:
        index = read_index(folder)
        check_file(folder, index)
    except ScarceError:
        return False
    return index.films == films_digest(rows)


def _build_rows(request: Request, wanted: Dataset, sources: Sequence[Source], progress: Progress) -> Outcome:
    size = request.settings.size
    part = Part(request.folder, _key(wanted, [source.path for source in sources]), len(sources), size)
    job = Job(request.source.resolve(), request.folder.resolve(), request.settings, part.path.resolve(), part.offset)
    with told_how_to_go_on(done := {}, len(sources)), _notes(part) as (journal, noted):
        done.update({s.path: noted[s.path] for s in sources if s.path in noted and _holds(s, noted[s.path])})
        todo = [(place, source) for place, source in enumerate(sources) if source.path not in done]
        pool: Pool[Item, Row] = Pool(film_worker, (job,), lost_film, workers=request.workers, patience=request.patience)
        _collect(pool.run(todo), part, journal, done, len(sources), progress)
        place_of = {source.path: place for place, source in enumerate(sources)}
        rows = audit(
            [done[source.path] for source in sources], size, request.dedupe, lambda row: part.row(place_of[row.path])
        )
        places = cache_order(rows)
        _, mean, std = measure(rows, size)
        write_manifest(request.folder, rows)
        if places:
            measured = replace(wanted, mean=mean, std=std, films=films_digest(rows))
            part.publish(measured, places, [rows[place].path for place in places])
        return Outcome(rows, len(todo), finish(wanted, rows))


def _holds(source: Source, row: Row) -> bool:
    return row.status == DONE and unchanged(source, row)


@contextmanager
def _notes(part: Part) -> Iterator[tuple[Journal, dict[str, Row]]]:
    """The journal of a part, and what it says is done (nothing, for a part that has just been made)."""
    journal = Journal(part.folder, part.path.name.removeprefix("."))
    if not part.resumed:
        journal.path.unlink(missing_ok=True)
    noted = {row.path: row for row in journal.rows()}
    with journal:
        yield journal, noted


def _collect(
    chunks: Generator[list[Row], None, None],
    part: Part,
    journal: Journal,
    done: dict[str, Row],
    total: int,
    progress: Progress,
) -> None:
    """Let the workers fill the part. Rows are noted as done only after their pixels are on the disk."""
    pending: list[Row] = []
    noted, bad = time.monotonic(), 0
    progress(len(done), total, bad)
    with closing(chunks):
        try:
            for chunk in chunks:
                pending += chunk
                done.update({row.path: row for row in chunk})
                bad += sum(row.status == SKIPPED for row in chunk)
                progress(len(done), total, bad)
                if time.monotonic() - noted > _SECONDS_BETWEEN_NOTES:
                    pending, noted = _note(part, journal, pending), time.monotonic()
        finally:
            _note(part, journal, pending)


def _note(part: Part, journal: Journal, rows: Sequence[Row]) -> list[Row]:
    if rows:
        part.sync()
        journal.add(rows)
    return []


def _key(dataset: Dataset, what: Sequence[str]) -> str:
    """What is being built, in 16 digits."""
    text = "\0".join([*(f"{name}={value}" for name, value in dataset.identity().items()), *what])
    return xxhash.xxh3_64_hexdigest(text.encode("utf-8", "surrogateescape"))


def _require_films(folder: Path, films: Sequence[Row]) -> None:
    if not films:
        raise UsageError(f"{folder} holds no film", f"see {folder / 'bad_files.csv'} for the reasons")


def refuse_stale(folder: Path, rows: Sequence[Row], sources: Sequence[Source]) -> None:
    """UsageError with how many sources were added, removed or changed since the rows were written."""
    before, now = {row.path: row for row in rows}, {source.path: source for source in sources}
    changed = [path for path in now if path in before and not unchanged(now[path], before[path])]
    counts = {
        "added": len(now.keys() - before.keys()),
        "removed": len(before.keys() - now.keys()),
        "changed": len([path for path in changed if not now[path].problem]),
    }
    if any(counts.values()):
        what = ", ".join(f"{count} {kind}" for kind, count in counts.items() if count)
        raise UsageError(f"{folder} is stale: {what} since it was made", _go_on(folder))


def _go_on(folder: Path) -> str:
    dataset = read_dataset(folder)
    if not dataset.images:
        return f"build it again: scarce cache {folder} --rebuild"
    again = f"scarce preprocess --src {dataset.source} --size {dataset.settings.size} --out {folder}"
    return f"prepare what is new ({again}), then: scarce cache {folder} --rebuild"


def check_cache(folder: Path) -> Index | None:
    """The index of a cache that is there, whole and up to date; None when there is none.

    Raises UsageError (stale, other settings) and DamagedData as ``open_cache``. The source folder is looked
    at too, if it is still there.
    """
    dataset = read_dataset(folder)
    if not dataset.complete or not (folder / CACHE).exists():
        return None
    index = read_index(folder)
    check_current(index, dataset)
    check_file(folder, index)
    if dataset.source.is_dir():
        sources = list_sources(dataset.source, follow_links=dataset.follow_links)
        refuse_stale(folder, read_manifest(folder), sources)
    return index


__all__ = ["build_from_films", "build_from_images", "check_cache"]

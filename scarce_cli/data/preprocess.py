"""Prepare a folder of films: each becomes a small 8-bit square, or a row that says why not."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from scarce_cli.data.audit import mark_duplicates
from scarce_cli.data.bad_film import BadFilm
from scarce_cli.data.dataset import Dataset, claim, write_dataset
from scarce_cli.data.decode import decode_png
from scarce_cli.data.film import Settings
from scarce_cli.data.journal import PARTS, Journal, finished_images, journalled
from scarce_cli.data.manifest import (
    BAD_FILES,
    DONE,
    DUPLICATE,
    SKIPPED,
    Row,
    films_digest,
    measure,
    read_manifest,
    write_manifest,
)
from scarce_cli.data.pool import PATIENCE, Pool
from scarce_cli.data.sources import (
    Source,
    check_outputs,
    in_shard,
    list_sources,
    output_name,
    printable,
)
from scarce_cli.data.worker import WORK, Item, Job, film_worker, lost_film, read_bytes
from scarce_cli.errors import DamagedData, Interrupted, ResourceError, TooManyBadFiles, UsageError
from scarce_cli.files import folder_lock, free_bytes, make_folder, remove_temporaries, require_writable

Progress = Callable[[int, int, int], None]  # films done, films in all, of them bad


def no_progress(done: int, total: int, bad: int) -> None:
    """Nobody is looking."""


@dataclass(frozen=True)
class Request:
    """What is asked for. ``shard``: (part from 1, parts). ``workers``: 0 for one per core. ``patience``:
    seconds after which a film that is still being decoded is given up."""

    source: Path
    folder: Path
    settings: Settings
    shard: tuple[int, int] | None = None
    workers: int = 0
    dedupe: bool = False
    follow_links: bool = False
    patience: float = PATIENCE

    def dataset(self, *, images: bool) -> Dataset:
        """The data set that is to be made, still empty."""
        return Dataset(
            self.folder,
            self.source.resolve(),
            self.settings,
            images,
            dedupe=self.dedupe,
            follow_links=self.follow_links,
        )


@dataclass(frozen=True)
class Outcome:
    """The rows of all films (of one part, with a shard), how many are new, and the finished data set."""

    rows: list[Row]
    new: int
    dataset: Dataset | None


def preprocess(request: Request, progress: Progress = no_progress) -> Outcome:
    """Do what is missing, then write manifest and dataset.json; the sources are only ever read.

    Raises UsageError (wrong folders or settings), Locked, ResourceError (disk, permissions), Interrupted.
    ``check_bad`` afterwards says whether too many films were bad.
    """
    sources = find_films(request)
    check_outputs(sources)
    require_writable(request.folder)
    with _locks(request):
        claim(request.dataset(images=True))
        if request.shard:
            sources = [source for source in sources if in_shard(source.path, request.shard)]
        rows = finished_images(request.folder, sources, dedupe=request.dedupe)
        with told_how_to_go_on(rows, len(sources)):
            new = _prepare_missing(request, sources, rows, progress)
            listed = [rows[source.path] for source in sources]
            return Outcome(listed, new, None) if request.shard else _conclude(request, listed, new)


def find_films(request: Request) -> list[Source]:
    """The source files, once source and output folder are known to lie apart."""
    source, folder = request.source.resolve(), request.folder.resolve()
    if source == folder or source in folder.parents or folder in source.parents:
        raise UsageError(
            f"source folder {request.source} and output folder {request.folder} lie inside one another",
            f"name another folder: --out {source.parent / (source.name + '-prepared')}",
        )
    return list_sources(request.source, follow_links=request.follow_links)


@contextmanager
def _locks(request: Request) -> Iterator[None]:
    """Parts may work side by side, each only once; the merging call works alone."""
    busy = "another scarce command is preparing films in it"
    with folder_lock(request.folder, busy, shared=request.shard is not None):
        if request.shard is None:
            remove_temporaries(request.folder)
            yield
            return
        make_folder(request.folder / PARTS)
        with folder_lock(request.folder / PARTS, busy, name=f"{_part_name(request)}.lock"):
            yield


def _part_name(request: Request) -> str:
    return f"{request.shard[0]}-of-{request.shard[1]}" if request.shard else "all"


def _prepare_missing(request: Request, sources: Sequence[Source], rows: dict[str, Row], progress: Progress) -> int:
    """Add to ``rows`` what is not in it; how many that were."""
    todo = [(place, source) for place, source in enumerate(sources) if source.path not in rows]
    _make_folders(request.folder, [source.path for _, source in todo])
    job = Job(request.source.resolve(), request.folder.resolve(), request.settings)
    bad = 0
    progress(len(rows), len(sources), bad)
    try:
        with Journal(request.folder, _part_name(request)) as journal, closing(_pool(request, job, todo)) as chunks:
            for chunk in chunks:
                journal.add(chunk)
                rows.update({row.path: row for row in chunk})
                bad += sum(row.status == SKIPPED for row in chunk)
                progress(len(rows), len(sources), bad)
    except ResourceError as error:
        raise _with_need(error, request, rows, len(sources)) from error
    return len(todo)


def _pool(request: Request, job: Job, todo: Sequence[Item]) -> Generator[list[Row], None, None]:
    pool: Pool[Item, Row] = Pool(film_worker, (job,), lost_film, workers=request.workers, patience=request.patience)
    return pool.run(todo)


def _with_need(error: ResourceError, request: Request, rows: dict[str, Row], total: int) -> ResourceError:
    """The same error; on a full disk with an estimate of what the films that are left would need."""
    sizes = [row.output_bytes for row in rows.values() if row.output_bytes] or [request.settings.size**2]
    needed = (total - len(rows)) * sum(sizes) // len(sizes)
    free = free_bytes(request.folder)
    if free >= needed:
        return error
    return ResourceError(
        f"{error.message}; the {total - len(rows)} films that are left need about {needed / 2**20:.1f} MiB, "
        f"{free / 2**20:.1f} MiB are free",
        f"free some space and run the same command again: {len(rows)} films are done and kept",
    )


@contextmanager
def told_how_to_go_on(rows: dict[str, Row], total: int) -> Iterator[None]:
    """Ctrl-C and SIGTERM end with one line: how many are done, and that the same command goes on."""
    try:
        yield
    except KeyboardInterrupt as interrupt:
        done = sum(row.status != SKIPPED for row in rows.values())
        raise Interrupted.by(
            interrupt, f"stopped: {done} of {total} films done", "run the same command again to go on"
        ) from None


def _make_folders(folder: Path, paths: Sequence[str]) -> None:
    make_folder(folder / WORK)
    for parent in sorted({os.path.dirname(output_name(path)) for path in paths}):
        make_folder(folder / parent)


def _conclude(request: Request, rows: list[Row], new: int) -> Outcome:
    """Audit, write the manifest last but one and dataset.json last, and tidy up."""
    folder = request.folder
    before = read_manifest(folder)
    to_drop = request.dedupe and any(row.status == DONE and _is_double(row) for row in rows)
    if new or to_drop or before != rows:
        rows = audit(rows, request.settings.size, request.dedupe, lambda row: read_image(folder, row))
    gone = {row.output for row in (*before, *journalled(folder))} - {row.output for row in rows}
    write_manifest(folder, rows)
    dataset = finish(request.dataset(images=True), rows)
    for output in gone | {output_name(row.path) for row in rows if row.status == DUPLICATE}:
        if output == output_name(output.removeprefix("images/")):
            (folder / output).unlink(missing_ok=True)
    shutil.rmtree(folder / WORK, ignore_errors=True)
    return Outcome(rows, new, dataset)


def read_image(folder: Path, row: Row) -> npt.NDArray[np.uint8]:
    """A prepared film from its PNG. DamagedData when it is not what was written."""
    path = folder / row.output
    try:
        return np.asarray(decode_png(read_bytes(path)).pixels, dtype=np.uint8)
    except BadFilm as error:
        raise DamagedData(
            f"{path} cannot be read: {error}", "delete it and run the same scarce preprocess again"
        ) from None


def audit(rows: Sequence[Row], size: int, dedupe: bool, square_of: Callable[[Row], npt.NDArray[np.uint8]]) -> list[Row]:
    """The rows with duplicates named; with ``dedupe`` those are no longer in the set."""
    kept = [row for row in rows if row.status != DUPLICATE]
    marked = {row.path: row for row in mark_duplicates(kept, size, square_of)}
    return [_dropped(marked.get(row.path, row)) if dedupe else marked[row.path] for row in rows]


def _is_double(row: Row) -> bool:
    return bool(row.duplicate_of or row.near_duplicate_of)


def _dropped(row: Row) -> Row:
    if not _is_double(row):
        return row
    return replace(row, status=DUPLICATE, output="", output_bytes=0)


def finish(dataset: Dataset, rows: Sequence[Row]) -> Dataset:
    """Write dataset.json with counts and measures: from now on the data set is complete."""
    films, mean, std = measure(rows, dataset.settings.size)
    counts = {
        "sources": len(rows),
        "films": films,
        "skipped": sum(row.status == SKIPPED for row in rows),
        "duplicates": sum(bool(row.duplicate_of) for row in rows),
        "near_duplicates": sum(bool(row.near_duplicate_of) for row in rows),
        "suspicious": sum(bool(row.suspicion) and row.status == DONE for row in rows),
    }
    done = replace(dataset, complete=True, counts=counts, mean=mean, std=std, films=films_digest(rows))
    write_dataset(done)
    Journal.remove_all(dataset.folder)
    return done


def check_bad(rows: Sequence[Row], folder: Path, max_bad: float) -> None:
    """TooManyBadFiles when more than a share of ``max_bad`` was skipped; what is good has been done."""
    bad = [row for row in rows if row.status == SKIPPED]
    if len(bad) <= max_bad * len(rows):
        return
    raise TooManyBadFiles(
        f"{len(bad)} of {len(rows)} files could not be used ({len(bad) / len(rows):.2%}, allowed "
        f"{max_bad:.2%}); the first is {printable(bad[0].path)}: {bad[0].reason}",
        f"see {folder / BAD_FILES}; the other {len(rows) - len(bad)} are done. If that is as it should be, "
        "allow it with --max-bad",
    )


__all__ = ["DONE", "Outcome", "Progress", "Request", "check_bad", "preprocess"]

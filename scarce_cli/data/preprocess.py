"""Prepare a folder of films: every source file becomes a small 8-bit square or a row that says why not."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from scarce_cli.data.audit import mark_duplicates
from scarce_cli.data.film import Settings
from scarce_cli.data.journal import Journal, finished_rows
from scarce_cli.data.manifest import (
    BAD_FILES,
    DATASET,
    SKIPPED,
    Dataset,
    Row,
    films_digest,
    measure,
    read_dataset,
    write_dataset,
    write_manifest,
)
from scarce_cli.data.pool import Pool, usable_cores
from scarce_cli.data.sources import Source, check_outputs, in_shard, list_sources, output_name, printable
from scarce_cli.data.worker import WORK, Job, film_worker, skipped
from scarce_cli.errors import Interrupted, TooManyBadFiles, UsageError
from scarce_cli.files import folder_lock, make_folder, require_writable

Progress = Callable[[int, int, int], None]  # films done, films to do, of them bad


@dataclass(frozen=True)
class Request:
    """What is asked for. ``shard`` is (part from 1, parts); ``max_bad`` a share of the films from 0 to 1."""

    source: Path
    folder: Path
    settings: Settings
    shard: tuple[int, int] | None = None
    max_bad: float = 0.001
    workers: int = 0
    dedupe: bool = False
    follow_links: bool = False
    patience: float = 60.0


@dataclass(frozen=True)
class Outcome:
    """What was done: the rows of all films (of this part only, with a shard) and how many were new."""

    rows: list[Row]
    new: int
    dataset: Dataset | None


def preprocess(request: Request, progress: Progress = lambda done, total, bad: None) -> Outcome:
    """Do what is missing, then write manifest and dataset.json; the sources are only ever read.

    Raises UsageError (wrong folders or settings), Locked, ResourceError (disk, permissions), Interrupted;
    ``check_bad`` afterwards says whether too many films were bad.
    """
    check_folders(request.source, request.folder)
    sources = list_sources(request.source, follow_links=request.follow_links)
    check_outputs(sources)
    require_writable(request.folder)
    with folder_lock(request.folder, "another scarce command is preparing films in it"):
        check_settings(request)
        if request.shard:
            sources = [source for source in sources if in_shard(source.path, request.shard)]
        rows, new = _prepare_missing(request, sources, progress)
        if request.shard:
            return Outcome(rows, new, None)
        rows = mark_duplicates(rows)
        return Outcome(rows, new, _conclude(request, rows))


def check_folders(source: Path, folder: Path) -> None:
    """UsageError unless source and output lie apart: originals are never overwritten nor outputs prepared."""
    origin, target = source.resolve(), folder.resolve()
    if origin == target or origin in target.parents or target in origin.parents:
        raise UsageError(
            f"the output folder {folder} and the source folder {source} are not apart",
            f"name another folder: --out {origin.parent / (origin.name + '-prepared')}",
        )


def check_settings(request: Request) -> None:
    """Claim the folder by writing dataset.json, or refuse by name what differs from the one that is there."""
    wanted = Dataset(
        folder=request.folder,
        source=request.source.resolve(),
        settings=request.settings,
        images=True,
        complete=False,
        counts={},
        mean=0.0,
        std=0.0,
        films="",
        dedupe=request.dedupe,
        follow_links=request.follow_links,
    )
    if not (request.folder / DATASET).exists():
        write_dataset(wanted)
        return
    present = read_dataset(request.folder)
    differing = [
        f"{name}: {old} there, {new} now" for name, (old, new) in _differences(present, wanted).items()
    ]
    if differing:
        raise UsageError(
            f"{request.folder} was made with other settings ({'; '.join(differing)})",
            "give the same settings, or another folder with --out",
        )


def _differences(present: Dataset, wanted: Dataset) -> dict[str, tuple[object, object]]:
    old = {**present.settings.as_dict(), "dedupe": present.dedupe, "follow_links": present.follow_links}
    new = {**wanted.settings.as_dict(), "dedupe": wanted.dedupe, "follow_links": wanted.follow_links}
    old["source"], new["source"] = present.source, wanted.source
    return {name: (old[name], new[name]) for name in new if old[name] != new[name]}


def _prepare_missing(
    request: Request, sources: Sequence[Source], progress: Progress
) -> tuple[list[Row], int]:
    rows = finished_rows(request.folder, sources)
    todo = [(index, source) for index, source in enumerate(sources) if source.path not in rows]
    _make_folders(request.folder, [source for _, source in todo])
    journal = Journal(request.folder, request.shard)
    bad = 0
    pool = Pool(
        film_worker,
        (Job(request.source.resolve(), request.folder.resolve(), request.settings),),
        _lost,
        workers=max(1, min(request.workers or usable_cores(), len(todo))),
        patience=request.patience,
    )
    try:
        with journal:
            for chunk in pool.run(todo):
                journal.add(chunk)
                rows.update({row.path: row for row in chunk})
                bad += sum(row.status == SKIPPED for row in chunk)
                progress(len(rows), len(sources), bad)
    except KeyboardInterrupt as interrupt:
        raise Interrupted.by(
            interrupt,
            f"stopped: {len(rows)} of {len(sources)} films done",
            "run the same command again to go on",
        ) from None
    return [rows[source.path] for source in sources], len(todo)


def _lost(item: tuple[int, Source], seconds: float, patience: float = 60.0) -> Row:
    took = f"took longer than {patience:.0f} s" if seconds >= patience else "crashed"
    return skipped(item[1], f"the decoder {took}")


def _make_folders(folder: Path, sources: Sequence[Source]) -> None:
    make_folder(folder / WORK)
    for parent in sorted({os.path.dirname(output_name(source.path)) for source in sources}):
        make_folder(folder / parent)


def _conclude(request: Request, rows: list[Row]) -> Dataset:
    films, mean, std = measure(rows, request.settings.size)
    counts = {"sources": len(rows), "films": films}
    counts["skipped"] = sum(row.status == SKIPPED for row in rows)
    counts["duplicates"] = sum(bool(row.duplicate_of) for row in rows)
    write_manifest(request.folder, rows)
    dataset = replace(read_dataset(request.folder), complete=True, counts=counts, mean=mean, std=std)
    dataset = replace(dataset, films=films_digest(rows))
    write_dataset(dataset)
    Journal.remove(request.folder)
    for leftover in (request.folder / WORK).glob("*"):
        leftover.unlink()
    with suppress(OSError):
        (request.folder / WORK).rmdir()
    return dataset


def check_bad(rows: Sequence[Row], folder: Path, max_bad: float) -> None:
    """TooManyBadFiles when more than a share of ``max_bad`` was skipped; what is good has been done."""
    bad = [row for row in rows if row.status == SKIPPED]
    if len(bad) <= max_bad * len(rows):
        return
    raise TooManyBadFiles(
        f"{len(bad)} of {len(rows)} files could not be used ({len(bad) / len(rows):.2%}, allowed "
        f"{max_bad:.2%}): first {printable(bad[0].path)}: {bad[0].reason}",
        f"see {folder / BAD_FILES}; the other {len(rows) - len(bad)} are done. "
        f"Raise --max-bad if that is as it should be",
    )

"""What a running preparation has finished so far, kept so that a kill loses no more than the films in hand."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from scarce_cli.data.manifest import DONE, DUPLICATE, Row, read_manifest, row_from_json, row_to_json
from scarce_cli.data.sources import Source, output_name
from scarce_cli.files import as_resource_error, make_folder

PARTS = ".parts"


class Journal:
    """Append-only rows; a line torn by a kill is dropped at the next start."""

    def __init__(self, folder: Path, name: str) -> None:
        self.path = folder / PARTS / f"{name}.jsonl"
        make_folder(self.path.parent)

    def __enter__(self) -> Self:
        try:
            _drop_torn_line(self.path)
            self._file = open(self.path, "ab", buffering=0)
        except OSError as error:
            raise as_resource_error(error, self.path) from error
        return self

    def add(self, rows: Iterable[Row]) -> None:
        """Write the rows at once; they outlive the process."""
        text = "".join(row_to_json(row) + "\n" for row in rows)
        try:
            self._file.write(text.encode())
        except OSError as error:
            raise as_resource_error(error, self.path) from error

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def rows(self) -> Iterator[Row]:
        """What has been written so far, later rows of a film after earlier ones."""
        try:
            lines = self.path.read_text("ascii", "replace").split("\n")
        except OSError:
            return
        for line in lines:
            try:
                yield row_from_json(line)
            except ValueError:
                continue  # torn by a kill

    @staticmethod
    def remove_all(folder: Path) -> None:
        """Forget all journals, once the manifest holds their rows."""
        shutil.rmtree(folder / PARTS, ignore_errors=True)


def _drop_torn_line(path: Path) -> None:
    if not path.exists():
        return
    data = path.read_bytes()
    whole = data.rfind(b"\n") + 1
    if whole != len(data):
        os.truncate(path, whole)


def journalled(folder: Path) -> Iterator[Row]:
    """The rows of all journals in the folder."""
    for path in sorted((folder / PARTS).glob("*.jsonl")):
        yield from Journal(folder, path.stem).rows()


def finished_images(folder: Path, sources: Sequence[Source], *, dedupe: bool) -> dict[str, Row]:
    """By path, the rows of films that need not be prepared again: source unchanged, image there and whole.

    What was skipped is tried again: the reason may have been removed. What was dropped as a duplicate stays
    dropped as long as its original is in the set and ``dedupe`` is wanted.
    """
    by_path = {source.path: source for source in sources}
    rows = {row.path: row for row in (*read_manifest(folder), *journalled(folder))}
    held = {
        path: row
        for path, row in rows.items()
        if path in by_path and unchanged(by_path[path], row) and _image_is_whole(folder, row)
    }
    if dedupe:
        for path, row in rows.items():
            original = row.duplicate_of or row.near_duplicate_of
            if row.status == DUPLICATE and original in held and path in by_path:
                held[path] = row
    return held


def unchanged(source: Source, row: Row) -> bool:
    """Whether the source still has the size and time that it had when the row was written."""
    return (row.bytes, row.mtime_ns) == (source.bytes, source.mtime_ns) and not source.problem


def _image_is_whole(folder: Path, row: Row) -> bool:
    if row.status != DONE or row.output != output_name(row.path):
        return False
    try:
        return os.stat(folder / row.output).st_size == row.output_bytes
    except OSError:
        return False

"""What a running preparation has finished so far, kept so that a kill loses no more than the films in hand."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from scarce_cli.data.manifest import DONE, DUPLICATE, PARTS, Row, read_manifest, row_from_json, row_to_json
from scarce_cli.data.sources import Source
from scarce_cli.files import as_resource_error, make_folder


class Journal:
    """Append-only rows of one part; a line torn by a kill is dropped at the next start."""

    def __init__(self, folder: Path, shard: tuple[int, int] | None) -> None:
        make_folder(folder / PARTS)
        self.path = folder / PARTS / ("all.jsonl" if shard is None else f"{shard[0]}-of-{shard[1]}.jsonl")

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

    @staticmethod
    def remove(folder: Path) -> None:
        """Forget all parts, once the manifest holds their rows."""
        shutil.rmtree(folder / PARTS, ignore_errors=True)


def _drop_torn_line(path: Path) -> None:
    if not path.exists():
        return
    data = path.read_bytes()
    whole = data.rfind(b"\n") + 1
    if whole != len(data):
        os.truncate(path, whole)


def _journalled(folder: Path) -> Iterator[Row]:
    for path in sorted((folder / PARTS).glob("*.jsonl")):
        for line in path.read_text("utf-8", "replace").splitlines():
            try:
                yield row_from_json(line)
            except ValueError:
                continue  # torn by a kill


def finished_rows(folder: Path, sources: Sequence[Source]) -> dict[str, Row]:
    """By path, the rows of films that need not be done again: source unchanged, output there and whole.

    What was skipped is tried again: the reason may have been removed.
    """
    by_path = {source.path: source for source in sources}
    found = {row.path: row for row in (*read_manifest(folder), *_journalled(folder))}
    return {
        path: row for path, row in found.items() if path in by_path and _holds(folder, by_path[path], row)
    }


def _holds(folder: Path, source: Source, row: Row) -> bool:
    if (row.bytes, row.mtime_ns) != (source.bytes, source.mtime_ns) or row.status not in (DONE, DUPLICATE):
        return False
    if row.status == DUPLICATE:
        return True
    try:
        return os.stat(folder / row.output).st_size == row.output_bytes
    except OSError:
        return False

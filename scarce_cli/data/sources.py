"""Which files of a folder are films to be prepared, and where each one's output goes."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from scarce_cli.errors import ResourceError, UsageError

# Files that lie beside films and claim to be nothing else. Everything but these is opened, and counts as bad
# if it turns out not to be a film.
BESIDE = frozenset(
    [".csv", ".tsv", ".txt", ".md", ".rst", ".json", ".jsonl", ".yaml", ".yml", ".xml", ".html", ".htm", ".pdf", ".doc", ".docx", ".xls", ".xlsx", ".zip", ".gz", ".tar", ".tgz", ".bz2", ".xz", ".7z", ".py", ".ipynb", ".sh", ".log", ".npy", ".npz", ".h5", ".hdf5", ".parquet", ".sqlite", ".db", ".pt", ".pth", ".md5", ".sha256", ".ini"]
)
BESIDE_NAMES = frozenset({"license", "licence", "readme", "dicomdir", "thumbs.db", "makefile", "checksums"})


@dataclass(frozen=True)
class Source:
    """One file under the source folder. ``path`` is relative and POSIX; ``problem`` says why not to open it."""

    path: str
    bytes: int
    mtime_ns: int
    problem: str = ""


def list_sources(root: Path, *, follow_links: bool = False) -> list[Source]:
    """Every file under ``root`` that may be a film, sorted by path; hidden ones and papers are left out.

    A link to something inside ``root`` is left out (it is visited under its own name); a link that leaves
    ``root`` is returned with a problem unless ``follow_links``. UsageError when nothing is left.
    """
    if not root.is_dir():
        raise UsageError(f"{root}: no such folder", "name the folder that holds the films with --src")
    home = os.path.realpath(root)
    found = sorted(_walk(home, "", home, follow_links, {home}), key=lambda source: os.fsencode(source.path))
    if not found:
        raise UsageError(
            f"{root}: no film found in it", "films are PNG, JPEG, TIFF or DICOM files, nested as you like"
        )
    return found


def _walk(folder: str, prefix: str, home: str, follow: bool, seen: set[str]) -> Iterator[Source]:
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        if not prefix:
            raise ResourceError(f"cannot read {folder}: {error.strerror}", "check the permissions") from error
        yield Source(prefix.rstrip("/"), 0, 0, f"the folder cannot be read: {error.strerror}")
        return
    for entry in entries:
        if entry.name.startswith("."):
            continue
        path = prefix + entry.name
        if entry.is_symlink():
            target = os.path.realpath(entry.path)
            if target == home or target.startswith(home + os.sep):
                continue
            if not follow:
                yield Source(path, 0, 0, "a link that leaves the source folder (--follow-links allows it)")
                continue
            if target in seen:
                continue
            seen.add(target)
        yield from _entry(entry, path, home, follow, seen)


def _entry(entry: os.DirEntry[str], path: str, home: str, follow: bool, seen: set[str]) -> Iterator[Source]:
    if entry.is_dir():
        yield from _walk(entry.path, path + "/", home, follow, seen)
        return
    try:
        status = entry.stat()
    except OSError as error:
        yield Source(path, 0, 0, f"cannot be read: {error.strerror}")
        return
    name = entry.name.lower()
    if os.path.splitext(name)[1] in BESIDE or name in BESIDE_NAMES:
        return
    if not entry.is_file():
        yield Source(path, 0, 0, "not a regular file")
        return
    yield Source(path, status.st_size, status.st_mtime_ns)


def output_name(path: str) -> str:
    """Where the prepared film lies in the data set's folder: the same nesting, always ``.png``."""
    return f"images/{path}" if path.lower().endswith(".png") else f"images/{path}.png"


def check_outputs(sources: list[Source]) -> None:
    """UsageError naming both when two sources would be written to one file."""
    first: dict[str, str] = {}
    for source in sources:
        output = output_name(source.path)
        if output in first:
            raise UsageError(
                f"{first[output]!r} and {source.path!r} would both be written to {output!r}",
                "rename one of them",
            )
        first[output] = source.path


def in_shard(path: str, shard: tuple[int, int]) -> bool:
    """Whether the film belongs to part ``shard[0]`` (from 1) of ``shard[1]``: by its name alone, so that
    every job of an array sees the same division, whatever is added later."""
    return zlib.crc32(os.fsencode(path)) % shard[1] == shard[0] - 1


def printable(path: str) -> str:
    """A file name for terminal and messages: control characters and broken UTF-8 escaped."""
    if path.isprintable():
        return path
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "surrogateescape").decode("latin-1")
        for c in path
    )

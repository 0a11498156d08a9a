"""Which files of a folder are films to be prepared, and where each one's output goes."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from scarce_cli.errors import ResourceError, UsageError

# Files that lie beside films and claim to be nothing else are left alone. Everything but these is opened, and
# counts as bad if it turns out not to be a film.
_BESIDE = """
    .csv .tsv .txt .md .rst .json .jsonl .yaml .yml .toml .ini .xml .html .htm .pdf .doc .docx .xls .xlsx .log
    .zip .gz .tar .tgz .bz2 .xz .7z .py .ipynb .sh .npy .npz .h5 .hdf5 .parquet .sqlite .db .pt .pth .md5 .sha256
"""
BESIDE = frozenset(_BESIDE.split())
BESIDE_NAMES = frozenset({"license", "licence", "readme", "dicomdir", "thumbs.db", "makefile", "checksums"})


@dataclass(frozen=True)
class Source:
    """One file under the source folder. ``path`` is relative, POSIX; ``problem`` says why not to open it."""

    path: str
    bytes: int
    mtime_ns: int
    problem: str = ""


def list_sources(root: Path, *, follow_links: bool = False) -> list[Source]:
    """Every file under ``root`` that may be a film, sorted by path; hidden files and papers are left out.

    A link to something inside ``root`` is left out (it is visited under its own name); a link that leaves
    ``root`` is returned with a problem unless ``follow_links``. UsageError when nothing is left.
    """
    if not root.is_dir():
        raise UsageError(f"{root}: no such folder", "name the folder that holds the films")
    home = os.path.realpath(root)
    found = sorted(_Walk(home, follow_links).folder(home, ""), key=lambda source: os.fsencode(source.path))
    if not found:
        raise UsageError(f"{root}: no film in it", "films are PNG, JPEG, TIFF or DICOM files, in folders as you like")
    return found


class _Walk:
    """One walk through a source folder; each real file and folder is visited once, so loops end."""

    def __init__(self, home: str, follow: bool) -> None:
        self.home, self.follow = home, follow
        self.seen = {home}

    def folder(self, folder: str, prefix: str) -> Iterator[Source]:
        """The sources in ``folder``, whose path inside the source folder is ``prefix``."""
        try:
            with os.scandir(folder) as entries:
                listed = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            if not prefix:
                raise ResourceError(f"cannot read {folder}: {error.strerror}", "check permissions") from None
            yield Source(prefix.rstrip("/"), 0, 0, f"the folder cannot be read: {error.strerror}")
            return
        for entry in listed:
            if not entry.name.startswith("."):
                yield from self._entry(entry, prefix + entry.name)

    def _entry(self, entry: os.DirEntry[str], path: str) -> Iterator[Source]:
        if entry.is_symlink():
            real = os.path.realpath(entry.path)
            if real == self.home or real.startswith(self.home.rstrip(os.sep) + os.sep) or real in self.seen:
                return
            if not self.follow:
                yield Source(path, 0, 0, "a link that leaves the source folder (--follow-links allows it)")
                return
            self.seen.add(real)
        if not entry.is_dir():
            yield from _file(entry, path)
        elif not entry.is_symlink() or not self.home.startswith(os.path.realpath(entry.path) + os.sep):
            yield from self.folder(entry.path, path + "/")


def _file(entry: os.DirEntry[str], path: str) -> Iterator[Source]:
    name = entry.name.lower()
    if os.path.splitext(name)[1] in BESIDE or name in BESIDE_NAMES:
        return
    try:
        status = entry.stat()
    except OSError as error:
        yield Source(path, 0, 0, f"cannot be read: {error.strerror}")
        return
    problem = "" if entry.is_file() else "not a regular file"
    yield Source(path, status.st_size, status.st_mtime_ns, problem)


def output_name(path: str) -> str:
    """Where the prepared film lies in the data set's folder: the same nesting, always ``.png``."""
    return f"images/{path}" if path.lower().endswith(".png") else f"images/{path}.png"


def default_folder(source: Path, size: int) -> Path:
    """Where a data set goes when nothing else is said: beside the caller, named after the source folder."""
    return Path(f"{os.path.basename(os.path.abspath(source)) or 'films'}-{size}")


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
        c if c.isprintable() else c.encode("unicode_escape", "surrogateescape").decode("latin-1") for c in path
    )

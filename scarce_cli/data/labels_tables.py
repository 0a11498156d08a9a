"""Text tables as people have them: CSV or TSV, plain or gzip, any common delimiter and encoding.

Everything is found from the content, never from the file's name. The table is read in two passes, the first
for size and encoding, so that neither a large table nor a gzip bomb is ever held in memory.
"""

from __future__ import annotations

import codecs
import contextlib
import csv
import gzip
import io
import re
import zlib
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from scarce_cli.errors import DamagedData, ResourceError, UsageError

MAX_BYTES = 1 << 29  # of text, after decompression: five times the largest public table of chest films
MAX_FIELD = 1 << 17
MAX_ROWS = 5_000_000
_CHUNK = 1 << 20
_DELIMITERS = (",", ";", "\t")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f]")


@dataclass(frozen=True)
class Record:
    """One record of a table: where it stands (physical lines, from 1) and its fields, stripped."""

    line: int
    last_line: int
    fields: list[str]

    @property
    def where(self) -> str:
        """``line 17`` or ``lines 17 to 20``."""
        return f"line {self.line}" if self.line == self.last_line else f"lines {self.line} to {self.last_line}"


@dataclass(frozen=True)
class Table:
    """A table whose header was read: its column names as written, and how to read the rest."""

    path: Path
    header: tuple[str, ...]
    delimiter: str
    encoding: str

    def records(self) -> Iterator[Record]:
        """Every record below the header except blank lines, ragged ones too. UsageError if unreadable."""
        with contextlib.closing(_records(self.path, self.encoding, self.delimiter)) as records:
            for number, record in enumerate(records):
                if number > MAX_ROWS:
                    raise UsageError(f"{self.path} has more than {MAX_ROWS:,} rows", "split it into smaller files")
                if number > 0:
                    yield record


def column_key(name: str) -> str:
    """A column's name without case, spaces and punctuation: ``Image Index`` and ``image_index`` are one."""
    return "".join(character for character in name.casefold() if character.isalnum())


def open_table(path: Path, known: Iterable[str]) -> Table:
    """Find encoding and delimiter of the table at ``path`` and read its header.

    ``known``: column keys that the reader looks for; the delimiter that shows most of them is taken.
    Raises UsageError (missing, a folder, empty, binary, too large), DamagedData (broken gzip) and
    ResourceError (not readable).
    """
    with _readable(path):
        if path.exists() and not path.is_file():
            raise UsageError(f"the table {path} is not a file", "name a CSV file with --labels")
        encoding = _find_encoding(path)
        header_line = _first_line(path, encoding)
    if not header_line.strip():
        what = "starts with a blank line" if header_line else "is empty"
        raise UsageError(f"{path} {what}", "name a table with a header line and one row per film")
    if _CONTROL.search(header_line):
        raise UsageError(f"{path} is not a text table", "export it as CSV (comma, semicolon or tab) and try again")
    wanted = frozenset(known)
    delimiter = max(_DELIMITERS, key=lambda sign: _header_score(header_line, sign, wanted))
    with contextlib.closing(_records(path, encoding, delimiter)) as records:
        header = next(records)
    return Table(path, tuple(header.fields), delimiter, encoding)


def _header_score(line: str, delimiter: str, wanted: frozenset[str]) -> tuple[int, int]:
    columns = _split(line, delimiter)
    return sum(column_key(name) in wanted for name in columns), len(columns)


def _split(line: str, delimiter: str) -> list[str]:
    try:
        with _field_limit():
            fields = next(csv.reader([line], delimiter=delimiter, skipinitialspace=True), [])
    except csv.Error:
        return [line]
    return [field.strip() for field in fields]


def _records(path: Path, encoding: str, delimiter: str) -> Generator[Record, None, None]:
    """All records of the file, the header among them, as (first line, last line, fields)."""
    with _readable(path), _open_bytes(path) as raw, _text(raw, encoding) as lines, _field_limit():
        reader = csv.reader(lines, delimiter=delimiter, skipinitialspace=True)
        before = 0
        while True:
            try:
                fields = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                raise UsageError(
                    f"{path}: cannot read line {before + 1}: {error}",
                    "look there for a quote that is not closed",
                ) from error
            line, before = before + 1, reader.line_num
            if fields or line == 1:
                yield Record(line, before, [field.strip() for field in fields])


def _open_bytes(path: Path) -> IO[bytes]:
    with open(path, "rb") as handle:
        compressed = handle.read(2) == b"\x1f\x8b"
    return gzip.open(path, "rb") if compressed else open(path, "rb")  # type: ignore[return-value]


def _text(raw: IO[bytes], encoding: str) -> io.TextIOWrapper:
    return io.TextIOWrapper(raw, encoding=encoding, newline="")


def _first_line(path: Path, encoding: str) -> str:
    with _open_bytes(path) as raw, _text(raw, encoding) as lines:
        return lines.readline(MAX_FIELD)


def _find_encoding(path: Path) -> str:
    """UTF-8 if every byte fits (a BOM is dropped), UTF-16 by its BOM, otherwise Latin-1."""
    decoder, size, fits = codecs.getincrementaldecoder("utf-8")(), 0, True
    with _open_bytes(path) as raw:
        start = b""
        while chunk := raw.read(_CHUNK):
            start, size = start or chunk[:2], size + len(chunk)
            if size > MAX_BYTES:
                raise UsageError(
                    f"{path} holds more than {MAX_BYTES >> 20} MiB of text",
                    "name a table with one row per film, or split it",
                )
            fits = fits and _decodes(decoder, chunk)
        fits = fits and _decodes(decoder, b"", final=True)
    if start in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        return "utf-16"
    return "utf-8-sig" if fits else "latin-1"


def _decodes(decoder: codecs.IncrementalDecoder, chunk: bytes, final: bool = False) -> bool:
    try:
        decoder.decode(chunk, final)
    except UnicodeDecodeError:
        return False
    return True


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    """What can go wrong with the file itself, as the user's errors."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UsageError(f"the table {path} does not exist", "name a CSV file with --labels") from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DamagedData(f"{path} is a damaged gzip file: {error}", "fetch or make it again") from error
    except UnicodeError as error:
        raise UsageError(f"{path} is not readable text: {error}", "save it as UTF-8") from error
    except ValueError as error:  # a NUL in the path
        raise UsageError(f"the table {str(path)!r} does not exist", "name a CSV file with --labels") from error
    except OSError as error:
        raise ResourceError(f"cannot read {path}: {error.strerror}", "check the permissions") from error


@contextlib.contextmanager
def _field_limit() -> Iterator[None]:
    """The csv module's limit is global: set for our reading, then put back."""
    before = csv.field_size_limit(MAX_FIELD)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def listing(names: Sequence[str], limit: int = 40) -> str:
    """Names for a message: quoted, cut at ``limit`` characters each, at most 40 of them."""
    shown = [repr(name if len(name) <= limit else f"{name[:limit]}…") for name in names[:40]]
    return ", ".join(shown) + (f" and {len(names) - 40} more" if len(names) > 40 else "")

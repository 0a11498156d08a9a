"""What each worker process does with one film: read, decode, prepare, write, describe."""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash
from PIL import Image

from scarce_cli.data.audit import look_of, suspicion_of
from scarce_cli.data.bad_film import BadFilm
from scarce_cli.data.decode import Film, decode
from scarce_cli.data.film import Settings, prepare
from scarce_cli.data.manifest import DONE, SKIPPED, Row
from scarce_cli.data.resize import placement
from scarce_cli.data.sources import Source, output_name
from scarce_cli.files import as_resource_error, fault_point

WORK = ".work"  # half-written files live here, one per worker, so that nothing half-written has a film's name
MAX_BYTES = 1 << 30

Square = npt.NDArray[np.uint8]
Item = tuple[int, Source]  # place in the list of sources, and the source


@dataclass(frozen=True)
class Job:
    """Where films come from and where the squares go: PNG files in ``folder``, or, when ``rows`` names one,
    the file of rows that becomes the cache (with ``offset`` bytes before the first row)."""

    source: Path
    folder: Path
    settings: Settings
    rows: Path | None = None
    offset: int = 0


def film_worker(job: Job) -> Callable[[Item], Row]:
    """The function that prepares one film. What is wrong with a film is not raised, it is a row."""
    write = _row_writer(job) if job.rows else _png_writer(job)

    def work(item: Item) -> Row:
        place, source = item
        try:
            if source.problem:
                raise BadFilm(source.problem)
            film = decode(read_bytes(job.source / source.path))
            square, low, high = prepare(film, job.settings)
            output, written = write(place, source.path, square)
        except BadFilm as error:
            return skipped(source, str(error))
        except MemoryError:
            return skipped(source, "not enough memory to prepare it")
        height, width = film.pixels.shape
        where = placement(height, width, job.settings.size, job.settings.fit)
        return _row(source, film, (low, high), look_of(square[where]), **_sums(square), **_wrote(output, written))

    return work


def lost_film(item: Item, reason: str) -> Row:
    """The row of a film that took its worker with it."""
    return skipped(item[1], reason)


def read_bytes(path: Path) -> bytes:
    """The whole file; BadFilm when it cannot be read or is too large to be a film."""
    try:
        with open(path, "rb") as handle:
            if os.fstat(handle.fileno()).st_size > MAX_BYTES:
                raise BadFilm("larger than 1 GiB")
            return handle.read()
    except OSError as error:
        raise BadFilm(f"cannot be read: {error.strerror}") from None


def skipped(source: Source, reason: str) -> Row:
    """The row of a film that is not used; the reason on one line without control characters."""
    plain = "".join(c if c.isprintable() else " " for c in reason)
    return Row(source.path, SKIPPED, " ".join(plain.split()), bytes=source.bytes, mtime_ns=source.mtime_ns)


def pixel_hash(pixels: npt.NDArray[Any]) -> str:
    """Hexadecimal digest of decoded grey values with their shape and type: the same film in another file
    format has the same."""
    digest = xxhash.xxh3_128(f"{pixels.shape}{pixels.dtype.str}".encode())
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.hexdigest()


def _sums(square: Square) -> dict[str, int]:
    wide = square.astype(np.float64).ravel()
    return {"total": int(wide.sum()), "squares": int(wide @ wide)}


def _wrote(output: str, written: int) -> dict[str, Any]:
    return {"output": output, "output_bytes": written}


def _row(source: Source, film: Film, window: tuple[float, float], look: str, **rest: Any) -> Row:
    return Row(
        source.path,
        DONE,
        format=film.format,
        mode=film.mode,
        bits=film.bits,
        width=film.pixels.shape[1],
        height=film.pixels.shape[0],
        low=window[0],
        high=window[1],
        monochrome1=film.monochrome1,
        pixel_hash=pixel_hash(film.pixels),
        look=look,
        suspicion=suspicion_of(look),
        bytes=source.bytes,
        mtime_ns=source.mtime_ns,
        **rest,
    )


def _png_writer(job: Job) -> Callable[[int, str, Square], tuple[str, int]]:
    temporary = job.folder / WORK / f"{os.getpid()}.png"

    def write(place: int, path: str, square: Square) -> tuple[str, int]:
        del place
        output, buffer = output_name(path), io.BytesIO()
        Image.fromarray(square).save(buffer, "PNG", compress_level=1)
        try:
            fault_point("image.pre_write")
            temporary.write_bytes(buffer.getbuffer())
            fault_point("image.pre_rename")
            os.replace(temporary, job.folder / output)
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:
                raise BadFilm("its name is too long for the prepared film's") from None
            raise as_resource_error(error, job.folder / output) from error
        return output, buffer.getbuffer().nbytes

    return write


def _row_writer(job: Job) -> Callable[[int, str, Square], tuple[str, int]]:
    assert job.rows is not None
    descriptor = os.open(job.rows, os.O_RDWR)

    def write(place: int, path: str, square: Square) -> tuple[str, int]:
        del path
        os.pwrite(descriptor, square.tobytes(), job.offset + place * square.size)
        return "", 0

    return write

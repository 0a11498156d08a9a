"""Event files for TensorBoard when asked for, without the package: the run needs nothing that only the viewer needs.

A file is a sequence of records: length (8 bytes), its checksum (4), an ``Event`` in protocol buffers, its checksum.
Numbers are little-endian; a checksum is a CRC-32C, rotated and shifted. Source: tensorflow/core/lib/io/record_writer.h,
tensorflow/core/util/event.proto, tensorflow/core/framework/summary.proto.
"""

from __future__ import annotations

import contextlib
import math
import struct
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO

from scarce_cli.files import make_folder

_PREFIX = "events.out.tfevents."
_FLOAT32_MAX = 3.4028234663852886e38
_CASTAGNOLI = 0x82F63B78  # the polynomial of CRC-32C, reversed

# Fields of the messages, each with its wire type: number << 3 | type (0: varint, 1: 8 bytes, 2: bytes, 5: 4 bytes).
_WALL_TIME, _STEP, _VERSION, _SUMMARY, _SESSION = b"\x09", b"\x10", b"\x1a", b"\x2a", b"\x3a"  # of Event
_VALUE, _TAG, _SIMPLE_VALUE = b"\x0a", b"\x0a", b"\x15"  # of Summary, of its values
_STATUS_START = b"\x08\x01"  # of SessionLog


class TensorBoard:
    """Writes scalars that ``tensorboard --logdir`` reads. A failure becomes one warning, and the run goes on without.

    Every set of metrics is handed to the system at once, so that a killed run keeps what it logged.
    """

    def __init__(self, folder: Path | None, *, from_step: int, warn: Callable[[str], None]) -> None:
        """Open a new file in ``folder``; what a rolled-back run logged after ``from_step`` is hidden. None: off."""
        self._warn = warn
        self._handle: IO[bytes] | None = None
        if folder is not None:
            self._guard(lambda: self._open(folder, from_step))

    def _open(self, folder: Path, from_step: int) -> None:
        make_folder(folder)
        self._handle = open(folder / _next_name(folder), "xb")  # noqa: SIM115  held for the run's length
        self._write(_VERSION + _delimited(b"brain.Event:2"))
        self._write(_STEP + _varint(from_step + 1) + _SESSION + _delimited(_STATUS_START))

    def log(self, values: Mapping[str, float], step: int) -> None:
        """One set of metrics at ``step``."""
        summary = b"".join(_VALUE + _delimited(_scalar(tag, value)) for tag, value in values.items())
        self._guard(lambda: self._write(_STEP + _varint(step) + _SUMMARY + _delimited(summary)))

    def finish(self) -> None:
        """End of the run."""
        handle, self._handle = self._handle, None
        if handle is not None:
            with contextlib.suppress(OSError):  # every record is written already
                handle.close()

    def _write(self, fields: bytes) -> None:
        if self._handle is not None:
            self._handle.write(_record(_WALL_TIME + struct.pack("<d", time.time()) + fields))
            self._handle.flush()

    def _guard(self, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:
            self.finish()
            self._warn(f"TensorBoard failed ({type(error).__name__}: {error}); metrics.jsonl goes on without it")


def _next_name(folder: Path) -> str:
    """Files are read in the order of their names: by the clock, unless it was put back."""
    numbers = [path.name.removeprefix(_PREFIX).split(".")[0] for path in folder.glob(f"{_PREFIX}*")]
    last = max((int(number) for number in numbers if number.isdecimal()), default=0)
    return f"{_PREFIX}{max(int(time.time()), last + 1):010d}.scarce"


def _scalar(tag: str, value: float) -> bytes:
    number = float(value)
    if math.isfinite(number) and abs(number) > _FLOAT32_MAX:
        number = math.copysign(math.inf, number)
    return _TAG + _delimited(tag.encode("utf-8", "replace")) + _SIMPLE_VALUE + struct.pack("<f", number)


def _delimited(content: bytes) -> bytes:
    return _varint(len(content)) + content


def _varint(number: int) -> bytes:
    """Seven bits a byte, the lowest first; the eighth says that more follow."""
    groups = []
    while number > 0x7F:
        groups.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*groups, number])


def _record(content: bytes) -> bytes:
    length = struct.pack("<Q", len(content))
    return length + _checksum(length) + content + _checksum(content)


def _table() -> list[int]:
    rows = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (_CASTAGNOLI if value & 1 else 0)  # noqa: PLW2901
        rows.append(value)
    return rows


_TABLE = _table()


def _checksum(content: bytes) -> bytes:
    crc = 0xFFFFFFFF
    for byte in content:
        crc = crc >> 8 ^ _TABLE[(crc ^ byte) & 0xFF]
    crc ^= 0xFFFFFFFF
    rotated = (crc >> 15 | crc << 17) & 0xFFFFFFFF
    return struct.pack("<I", (rotated + 0xA282EAD8) & 0xFFFFFFFF)

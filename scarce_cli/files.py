"""Durable files: written whole or not at all, checked before use, locked while somebody writes.

A plain write that is killed leaves half a file, and on a full disk a memory-mapped write ends the process
with SIGBUS. So: write to a temporary name in the same folder, fsync, rename, fsync the folder; reserve space
before mapping; keep a SHA-256 beside what must not be damaged silently.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
import signal
import socket
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from scarce_cli.errors import Locked, ResourceError

_TEMPORARY = ".scarce-tmp"
_fault_counts: Counter[str] = Counter()


def fault_point(name: str) -> None:
    """A named place where the tests can make the process die, the disk be full or slow.

    ``SCARCE_FAULT=ckpt.pre_rename:3:kill`` kills the process the third time it passes there; ``enospc`` raises
    the error of a full disk instead, ``pause`` waits for a second. Without the variable this costs one look-up.
    """
    spec = os.environ.get("SCARCE_FAULT")
    if not spec:
        return
    where, count, action = spec.split(":")
    if where != name:
        return
    _fault_counts[name] += 1
    if _fault_counts[name] != int(count):
        return
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if action == "pause":
        time.sleep(1.0)
        return
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), name)


def fsync_folder(folder: Path) -> None:
    """Make a rename inside ``folder`` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def temporary_name(path: Path) -> Path:
    """The hidden name beside ``path`` under which it is built."""
    return path.with_name(f".{path.name}.{os.getpid()}{_TEMPORARY}")


@contextlib.contextmanager
def atomic_file(path: Path, *, durable: bool = True, label: str = "file") -> Iterator[IO[bytes]]:
    """Open ``path`` for binary writing under a temporary name; rename it when the block ends without error.

    Readers see the old file or the whole new one. ``durable`` adds the fsyncs (leave it out only for
    files that are cheap to make again). Raises ResourceError when the disk is full or read-only.
    """
    temporary = temporary_name(path)
    try:
        with open(temporary, "wb") as handle:
            yield handle
            fault_point(f"{label}.pre_fsync")
            handle.flush()
            if durable:
                os.fsync(handle.fileno())
        fault_point(f"{label}.pre_rename")
        os.replace(temporary, path)
        fault_point(f"{label}.post_rename")
        if durable:
            fsync_folder(path.parent)
    except BaseException as error:
        remove_quietly(temporary)
        if isinstance(error, OSError):
            raise as_resource_error(error, path) from error
        raise


def write_text(path: Path, text: str, *, durable: bool = True, label: str = "file") -> None:
    """Replace ``path`` atomically with ``text`` in UTF-8 (names that are not UTF-8 survive as they are)."""
    with atomic_file(path, durable=durable, label=label) as handle:
        handle.write(text.encode("utf-8", "surrogateescape"))


def write_json(path: Path, value: Any, *, label: str = "file") -> None:
    """Replace ``path`` atomically with ``value`` as indented JSON. NaN is refused: JSON has none."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n", label=label)


def make_json(path: Path, value: Any) -> bool:
    """Write ``value`` as JSON unless ``path`` exists; of several processes that try at once, one succeeds."""
    temporary = temporary_name(path)
    try:
        temporary.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n", "utf-8")
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
        except OSError:  # a file system without links
            if path.exists():
                return False
            os.replace(temporary, path)
    except OSError as error:
        raise as_resource_error(error, path) from error
    finally:
        remove_quietly(temporary)
    return True


def remove_quietly(path: Path) -> None:
    """Delete a file if that is possible: cleaning up must not hide the error that made it necessary."""
    with contextlib.suppress(OSError):
        path.unlink()


def is_temporary(path: Path) -> bool:
    """Whether ``path`` is named like a file that is still being built, or was when its process was killed."""
    return path.name.startswith(".") and path.name.endswith(_TEMPORARY)


def remove_temporaries(folder: Path) -> int:
    """Delete what killed processes left behind in ``folder`` (own files of a live process are kept)."""
    removed = 0
    for path in folder.glob(f".*{_TEMPORARY}"):
        owner = path.name.removesuffix(_TEMPORARY).rpartition(".")[2]
        if owner.isdigit() and int(owner) != os.getpid() and _alive(int(owner)):
            continue
        path.unlink(missing_ok=True)
        removed += 1
    return removed


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


class Hashed:
    """A file that is written from beginning to end, its bytes hashed on their way: as they were meant."""

    def __init__(self, handle: IO[bytes]) -> None:
        self.sha256 = hashlib.sha256()
        self._handle = handle

    def write(self, data: bytes | memoryview) -> int:
        """As a file's."""
        self.sha256.update(data)
        return self._handle.write(data)

    def flush(self) -> None:
        """As a file's."""
        self._handle.flush()


def digest_path(path: Path) -> Path:
    """The SHA-256 file beside ``path``, in the format of ``sha256sum``."""
    return path.with_name(path.name + ".sha256")


def write_digests(path: Path, digests: list[str]) -> None:
    """List ``digests`` beside ``path``: it is whole when it has one of them."""
    write_text(digest_path(path), "".join(f"{d}  {path.name}\n" for d in digests), label="digest")


def announce_digests(path: Path, digests: list[str]) -> None:
    """List the digests to come beside those of what is there, so that the file is right before and after."""
    write_digests(path, [*digests, *(line for line in listed_digests(path) if line not in digests)])


def listed_digests(path: Path) -> list[str]:
    """The digests beside ``path``; none when there is no list that can be read."""
    try:
        return [line.split()[0] for line in digest_path(path).read_text().splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError):
        return []


def free_bytes(folder: Path) -> int:
    """Bytes an ordinary user may still write on the disk that holds ``folder``."""
    return shutil.disk_usage(folder).free


def make_folder(path: Path) -> None:
    """Create ``path`` and its parents; ResourceError if that is not allowed or the disk is full."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise as_resource_error(error, path) from error


def require_writable(folder: Path) -> None:
    """Fail before any work when ``folder`` cannot be written."""
    make_folder(folder)
    probe = temporary_name(folder / "probe")
    try:
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise as_resource_error(error, folder) from error


def as_resource_error(error: OSError, path: Path) -> ResourceError:
    """The user's message for a disk that is full, read-only, or not ours to write."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        with contextlib.suppress(OSError):
            free = free_bytes(path if path.is_dir() else path.parent)
            return ResourceError(
                f"the disk is full: cannot write {path} ({free / 2**20:.1f} MiB free)",
                "free some space, or name another folder; finished files were kept",
            )
    return ResourceError(
        f"cannot write {path}: {error.strerror or error}", "check the permissions or name another folder"
    )


@contextlib.contextmanager
def folder_lock(folder: Path, what: str, *, shared: bool = False, name: str = ".lock") -> Iterator[None]:
    """Keep a second process out of ``folder``; the lock dies with its owner, so it can never be stale.

    Several ``shared`` holders may be there at once, but no exclusive one beside them. Raises Locked naming
    the exclusive owner's process and host.
    """
    path = folder / name
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise as_resource_error(error, path) from error
    try:
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(descriptor, 200, 0).decode("utf-8", "replace").strip() or "another process"
            raise Locked(f"{folder} is in use: {what} ({owner})", "wait for it to end, or stop it") from None
        except OSError as error:  # a file system without locks
            raise as_resource_error(error, path) from error
        if not shared:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
        yield
        if not shared:
            os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)

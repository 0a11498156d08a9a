"""Checkpoints: written whole, verified before use, loaded without executing code.

One file holds everything to go on: the encoder apart (all that evaluation needs), the method, optimizer,
scaler and progress. A SHA-256 stands beside it, because a flipped bit loads silently wrong. Tensors are read
with ``torch.load(weights_only=True)`` after the container was checked; there is no unsafe second try.
"""

from __future__ import annotations

import errno
import hashlib
import math
import os
import pickle
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, TypeVar

import torch

from scarce_cli.errors import DamagedData, ResourceError, UnsafeInput, UsageError
from scarce_cli.files import (
    Hashed,
    announce_digests,
    as_resource_error,
    atomic_file,
    digest_path,
    fault_point,
    fsync_folder,
    listed_digests,
    remove_quietly,
    sha256,
    temporary_name,
    write_digests,
)

T = TypeVar("T")
FORMAT = "scarce-checkpoint-1"
_KEYS = {"format", "encoder", "info", "origin", "state"}
_CODE = ("constants.pkl", "archive_format", ".so", ".py")  # of TorchScript and torch.export archives
_LARGEST_SIZE = 4096  # px, as of films
_NAME_ONE = "name a file such as runs/spark-cpu/last.pt"
_OWN_ONLY = "scarce opens its own checkpoints only"
_USE_OLDER = "use previous.pt beside it, or an older copy"


@dataclass(frozen=True)
class EncoderInfo:
    """What must be known to use an encoder: how to build it and what it wants to see."""

    backbone: str  # "resnet18" | "resnet50"
    size: int  # px, side of the films it was trained on
    mean: float  # grey value in [0, 1] taken off its input
    std: float  # grey value divided by


@dataclass(frozen=True)
class SavedEncoder:
    """An encoder as read from a checkpoint, with where it came from."""

    state: dict[str, torch.Tensor]
    info: EncoderInfo
    path: Path
    digest: str  # SHA-256 of the file
    method: str
    epoch: int
    seed: int  # of the run; `build_encoder(info.backbone, seed=seed)` is its random start (model.init or not)
    data: Mapping[str, Any]  # {"folder", "digest", "films"} of the data set it was trained on
    trained_on: torch.Tensor | None = None  # (films,) int64: `data.manifest.pixel_keys`; None in older checkpoints


def save(
    path: Path,
    *,
    encoder: Mapping[str, torch.Tensor],
    info: EncoderInfo,
    origin: Mapping[str, Any],
    state: Mapping[str, Any] | None = None,
    previous: Path | None = None,
) -> None:
    """Write a checkpoint under ``path``: whole or not at all, also when the process is killed.

    Args:
        encoder: state dict of the encoder that evaluation should use.
        origin: method, preset, step, epoch, seed, settings, data (plain values), trained_on (a tensor).
        state: everything to go on with (method, optimizer, ...); None for an encoder alone.
        previous: where to keep what stands under ``path`` now; it is touched only when the new one is whole.

    Raises:
        ResourceError: the disk is full or not writable; what stood there before is intact.
    """
    payload = {
        "format": FORMAT,
        "encoder": dict(encoder),
        "info": asdict(info),
        "origin": dict(origin),
        "state": state,
    }
    try:
        with atomic_file(path, label="ckpt") as handle:
            hashed = Hashed(handle)
            torch.save(payload, hashed)  # type: ignore[arg-type]
            handle.flush()
            os.fsync(handle.fileno())  # whole and on disk, before anything else is touched
            digest = hashed.sha256.hexdigest()
            fault_point("ckpt.pre_publish")
            if previous is not None and path.is_file():
                _keep(path, previous)
            announce_digests(path, [digest])
        write_digests(path, [digest])
    except RuntimeError as error:  # what torch's writer makes of a full disk
        raise as_resource_error(OSError(errno.ENOSPC, str(error)), path) from error


def _keep(path: Path, previous: Path) -> None:
    """Let ``previous`` be what ``path`` is now, with the digest it was written with: damage stays visible."""
    digests = listed_digests(path) or [sha256(path)]
    announce_digests(previous, digests)
    linked = temporary_name(previous)
    remove_quietly(linked)
    try:
        os.link(path, linked)
    except OSError:  # a file system without links: for a moment there is only the previous one
        os.replace(path, previous)
    else:
        os.replace(linked, previous)
    finally:
        remove_quietly(linked)  # renaming a link onto its own file does nothing
    fsync_folder(previous.parent)
    write_digests(previous, digests)


def load(path: Path) -> tuple[dict[str, Any], str]:
    """Read a checkpoint; returns its contents and its SHA-256. Raises as `read_archive`."""
    payload, digest = read_archive(path)
    if not is_own(payload):
        raise UsageError(f"{path} is not a checkpoint of this version of scarce", "pretrain with this version")
    return payload, digest


def is_own(payload: Any) -> bool:
    """Whether what `read_archive` returned is a checkpoint of this version of scarce."""
    return isinstance(payload, dict) and payload.get("format") == FORMAT and set(payload) == _KEYS


def read_archive(path: Path) -> tuple[Any, str]:
    """Read any archive of tensors that ``torch.save`` wrote; returns its contents, unchecked, and its SHA-256.

    What is read is one file from beginning to end, also when a run saves meanwhile. Without a digest beside it
    (a copy) the archive's own check sums are verified, which find damage but no forgery.

    Raises:
        UsageError: there is no such file, or it is not a checkpoint of scarce.
        UnsafeInput: it holds code (a pickle with other things than tensors, TorchScript), or is a bomb.
        DamagedData: it differs from its SHA-256, or is cut.
        ResourceError: it may not be read.
    """
    if not path.is_file():
        where = "is a folder" if path.is_dir() else "does not exist"
        raise UsageError(f"the checkpoint {path} {where}", _NAME_ONE)
    try:
        with open(path, "rb") as handle:
            listed = listed_digests(path)
            digest = hashlib.file_digest(handle, "sha256").hexdigest()
            if listed and digest not in listed:
                if _was_replaced(path, handle):
                    return read_archive(path)
                said = f"its SHA-256 is {digest[:12]}…, {digest_path(path).name} says {listed[0][:12]}…"
                raise DamagedData(f"{path} is damaged: {said}", _USE_OLDER)
            _check_container(path, handle, verify=not listed)
            return load_tensors(path, handle), digest
    except OSError as error:
        raise ResourceError(f"cannot read {path}: {error.strerror or error}", "check the permissions") from error


def _was_replaced(path: Path, handle: IO[bytes]) -> bool:
    """Whether a run has put a newer checkpoint in the place of the open one."""
    return not path.exists() or not os.path.samestat(path.stat(), os.fstat(handle.fileno()))


def _check_container(path: Path, handle: IO[bytes], *, verify: bool) -> None:
    """Look at the file without unpickling anything; ``verify`` reads every entry against its check sum."""
    handle.seek(0)
    start = handle.read(512)
    if start[:1] == b"\x80" or start[257:262] == b"ustar":
        raise UnsafeInput(f"{path} is a bare pickle or a tar file, which may hold code", _OWN_ONLY)
    if start[:4] != b"PK\x03\x04":
        raise UsageError(f"{path} is not a checkpoint", _NAME_ONE)
    try:
        with zipfile.ZipFile(handle) as archive:
            _check_entries(path, archive.infolist())
            bad = archive.testzip() if verify else None
    except (zipfile.BadZipFile, OSError, ValueError, RuntimeError, EOFError) as error:
        raise DamagedData(f"{path} is damaged or cut: {error}", _USE_OLDER) from None
    if bad is not None:
        raise DamagedData(f"{path} is damaged: its part {bad} does not fit its check sum", _USE_OLDER)


def _check_entries(path: Path, entries: list[zipfile.ZipInfo]) -> None:
    if any("/code/" in entry.filename or entry.filename.endswith(_CODE) for entry in entries):
        raise UnsafeInput(f"{path} is an exported program, which holds code", _OWN_ONLY)
    if not any(entry.filename.endswith("data.pkl") for entry in entries):
        raise UsageError(f"{path} is not a checkpoint", _NAME_ONE)
    # torch stores entries as they are, so what is declared must fit in the file: no bomb can unfold.
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries) or (
        sum(entry.file_size for entry in entries) > path.stat().st_size
    ):
        raise UnsafeInput(f"{path} declares more than it holds", "it was not written by scarce; do not use it")


def load_tensors(path: Path, handle: IO[bytes]) -> Any:
    """What ``torch.save`` wrote into the open file, by the loader that knows tensors and plain values alone.

    Raises:
        UnsafeInput: there is more in it, which may be code.
        DamagedData: it cannot be read.
    """
    handle.seek(0)
    try:
        with warnings.catch_warnings():  # what torch says of odd files is in our message
            warnings.simplefilter("ignore")
            return torch.load(handle, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise UnsafeInput(
            f"{path} holds more than tensors and plain values, so it may hold code; it was not opened", _OWN_ONLY
        ) from None
    except Exception as error:  # torch raises many types on damaged archives
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise DamagedData(f"{path} cannot be read: {first}", _USE_OLDER) from None


def load_encoder(path: Path) -> SavedEncoder:
    """Read the encoder and its origin from any checkpoint of scarce. Raises as `load`, and DamagedData
    naming the first tensor that holds NaN or infinity."""
    return encoder_of(*load(path), path)


def encoder_of(payload: Mapping[str, Any], digest: str, path: Path) -> SavedEncoder:
    """The encoder and origin of what `load` read from ``path``. Raises as `load_encoder`."""
    state, origin = payload["encoder"], payload["origin"]
    try:
        for name, tensor in state.items():
            check_tensor(path, name, tensor)
        return SavedEncoder(
            state=state,
            info=_info(payload["info"]),
            path=path,
            digest=digest,
            method=_typed(origin["method"], str),
            epoch=_typed(origin["epoch"], int),
            seed=_typed(origin["seed"], int),
            data=_typed(origin["data"], dict),
            trained_on=film_keys(path, origin.get("trained_on")),
        )
    except (AttributeError, KeyError, TypeError, ValueError):
        raise UsageError(f"{path} is not a checkpoint of this version of scarce", _OWN_ONLY) from None


def film_keys(path: Path, value: Any) -> torch.Tensor | None:
    """What a checkpoint says it was trained on. ValueError for anything but keys of films; raises as `check_tensor`."""
    if value is not None:
        check_tensor(path, "trained_on", value)
        if value.dtype != torch.int64 or value.dim() != 1:
            raise ValueError
    return value


def _info(values: Mapping[str, Any]) -> EncoderInfo:
    """ValueError for numbers that no run can have: they would be allocated or divided by."""
    info = EncoderInfo(**{**values, "backbone": _typed(values["backbone"], str)})
    if not (0 < _typed(info.size, int) <= _LARGEST_SIZE and math.isfinite(info.mean) and 0 < info.std < math.inf):
        raise ValueError
    return info


def _typed(value: Any, kind: type[T]) -> T:
    """``value`` as it is. TypeError for any other type: making text of a forged list of lists may never end."""
    if type(value) is not kind:
        raise TypeError
    return value


def check_tensor(path: Path, name: str, tensor: torch.Tensor) -> None:
    """Plain, no larger than the bytes behind it (a stride of zero unfolds without end), finite, no variance negative.

    Raises:
        UnsafeInput: it is not plain (sparse, quantised, on the meta device, which holds nothing), or larger.
        DamagedData: it holds NaN or infinity, or is a running variance below zero.
    """
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type != "cpu":
        raise UnsafeInput(f"{path}: '{name}' is no plain tensor", _OWN_ONLY)
    if tensor.nbytes > tensor.untyped_storage().nbytes():
        raise UnsafeInput(f"{path}: '{name}' declares more than it holds", _OWN_ONLY)
    if not torch.isfinite(tensor).all():
        raise DamagedData(f"{path}: the weights '{name}' are not finite", "use an older checkpoint")
    if name.endswith("running_var") and bool((tensor < 0).any()):
        raise DamagedData(f"{path}: variances '{name}' below zero", "use an older checkpoint")

"""Checkpoints: written whole, verified before use, loaded without executing code.

One file holds everything to go on: the encoder apart (all that evaluation needs), the method, optimizer,
scaler and progress. A SHA-256 stands beside it, because a flipped bit loads silently wrong. Tensors are read
with ``torch.load(weights_only=True)`` after the container was checked; there is no unsafe second try.
"""

from __future__ import annotations

import os
import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from scarce_cli.errors import DamagedData, UnsafeInput, UsageError
from scarce_cli.files import as_resource_error, atomic_file, fault_point, fsync_folder, sha256, write_text

FORMAT = "scarce-checkpoint-1"


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
    seed: int  # of the run; `build_encoder(info.backbone, seed=seed)` is what training started from
    data: Mapping[str, Any]  # {"folder", "digest", "films"} of the data set it was trained on


def digest_path(path: Path) -> Path:
    """The SHA-256 file beside a checkpoint, in the format of ``sha256sum``."""
    return path.with_name(path.name + ".sha256")


def save(
    path: Path,
    *,
    encoder: Mapping[str, torch.Tensor],
    info: EncoderInfo,
    origin: Mapping[str, Any],
    state: Mapping[str, Any] | None = None,
) -> None:
    """Write a checkpoint under ``path``: whole or not at all, also when the process is killed.

    Args:
        encoder: state dict of the encoder that evaluation should use.
        origin: plain values: method, preset, step, epoch, settings, data.
        state: everything to go on with (method, optimizer, ...); None for an encoder alone.

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
    staged = path.with_name(f"{path.name}.new")
    try:
        with atomic_file(staged, label="ckpt") as handle:
            torch.save(payload, handle)
        _publish(staged, path)
    except RuntimeError as error:  # what torch's writer makes of a full disk
        raise as_resource_error(OSError(28, str(error)), path) from error
    finally:
        staged.unlink(missing_ok=True)


def keep_previous(path: Path, previous: Path) -> None:
    """Let ``previous`` be what ``path`` is now, before ``path`` is replaced (a link, no copy)."""
    if not path.is_file():
        return
    staged = previous.with_name(f"{previous.name}.new")
    staged.unlink(missing_ok=True)
    os.link(path, staged)
    _publish(staged, previous)


def _publish(staged: Path, path: Path) -> None:
    """Rename, with a digest file that is right before and after: between the two it lists both digests."""
    digest = sha256(staged)
    old = [line for line in _listed(path) if line != digest][:1]
    _write_digests(path, [digest, *old])
    fault_point("ckpt.pre_publish")
    os.replace(staged, path)
    fsync_folder(path.parent)
    fault_point("ckpt.post_publish")
    _write_digests(path, [digest])


def _write_digests(path: Path, digests: list[str]) -> None:
    write_text(digest_path(path), "".join(f"{d}  {path.name}\n" for d in digests), label="digest")


def _listed(path: Path) -> list[str]:
    try:
        return [line.split()[0] for line in digest_path(path).read_text().splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError):
        return []


def load(path: Path) -> tuple[dict[str, Any], str]:
    """Read a checkpoint; returns its contents and its SHA-256.

    Raises:
        UsageError: there is no such file, or it is not a checkpoint of scarce.
        UnsafeInput: it holds code (a pickle with other things than tensors, TorchScript), or is a bomb.
        DamagedData: it differs from its SHA-256, or is cut.
    """
    if not path.is_file():
        where = "is a folder" if path.is_dir() else "does not exist"
        raise UsageError(f"the checkpoint {path} {where}", "name a file such as runs/spark-cpu/last.pt")
    _check_container(path)
    digest = sha256(path)
    listed = _listed(path)
    if listed and digest not in listed:
        raise DamagedData(
            f"{path} is damaged: its SHA-256 is {digest[:12]}…, {digest_path(path).name} says {listed[0][:12]}…",
            f"use {path.with_name('previous.pt')} or an older copy",
        )
    return _load_tensors(path), digest


def _check_container(path: Path) -> None:
    with open(path, "rb") as handle:
        magic = handle.read(4)
    if magic[:1] == b"\x80" or magic == b"ustar":
        raise UnsafeInput(f"{path} is a bare pickle, which may hold code", "scarce opens its own checkpoints only")
    if magic != b"PK\x03\x04":
        if _listed(path):
            raise DamagedData(f"{path} is damaged: it does not begin like a checkpoint", "use previous.pt")
        raise UsageError(f"{path} is not a checkpoint", "name a file such as runs/spark-cpu/last.pt")
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise DamagedData(f"{path} is damaged or cut: {error}", "use previous.pt or an older copy") from None
    # torch stores entries as they are, so what is declared must fit in the file: no bomb can unfold.
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries) or (
        sum(entry.file_size for entry in entries) > path.stat().st_size
    ):
        raise UnsafeInput(f"{path} declares more than it holds", "it was not written by scarce; do not use it")
    names = [entry.filename for entry in entries]
    if any(name.endswith("constants.pkl") or "/code/" in name for name in names):
        raise UnsafeInput(f"{path} is a TorchScript archive, which holds code", "scarce opens checkpoints only")
    if not any(name.endswith("data.pkl") for name in names):
        raise UsageError(f"{path} is not a checkpoint", "name a file such as runs/spark-cpu/last.pt")


def _load_tensors(path: Path) -> dict[str, Any]:
    try:
        payload = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise UnsafeInput(
            f"{path} holds more than tensors and plain values, so it may hold code; it was not opened",
            "scarce opens its own checkpoints only",
        ) from None
    except Exception as error:  # torch raises many types on damaged archives
        raise DamagedData(f"{path} cannot be read: {error}", "use previous.pt or an older copy") from None
    if not isinstance(payload, dict) or payload.get("format") != FORMAT:
        raise UsageError(f"{path} is not a checkpoint of this version of scarce", "pretrain with this version")
    return payload


def load_encoder(path: Path) -> SavedEncoder:
    """Read the encoder and its origin from any checkpoint of scarce. Raises as `load`, and DamagedData
    naming the first tensor that holds NaN or infinity."""
    payload, digest = load(path)
    state, origin = payload["encoder"], payload["origin"]
    for name, tensor in state.items():
        if not torch.isfinite(tensor).all():
            raise DamagedData(f"{path}: the weights '{name}' are not finite", "use an older checkpoint")
    return SavedEncoder(
        state=state,
        info=EncoderInfo(**payload["info"]),
        path=path,
        digest=digest,
        method=str(origin["method"]),
        epoch=int(origin["epoch"]),
        seed=int(origin["seed"]),
        data=origin["data"],
    )

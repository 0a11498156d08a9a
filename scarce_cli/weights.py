"""Weights to start from: a local file of torchvision's, or one of scarce's own checkpoints.

Nothing is downloaded and no code in a file is run. torchvision's networks see three channels; since a grey film is
the same in all three, their first convolution summed over its input channels gives the same numbers from one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from scarce_cli import checkpoint
from scarce_cli.errors import DamagedData, ResourceError, UnsafeInput, UsageError
from scarce_cli.files import sha256

_FIRST = "conv1.weight"  # the layer that sees the film
_HEAD = "fc."  # torchvision's classifier
_COUNTER = "num_batches_tracked"  # torchvision's oldest files have none
_SHOWN = 5  # names in a message
_LONGEST = 64  # letters of what a file says in a message
_REMEDY = "name a local file (nothing is downloaded): torchvision's {} as .pth or .safetensors, or a checkpoint's"


@dataclass(frozen=True)
class FirstWeights:
    """What a run starts from."""

    state: dict[str, Tensor]  # for the encoder, every name of it
    digest: str  # SHA-256 of the file
    # Films that a checkpoint of scarce was trained on, as `SavedEncoder` has them; none: it is too old to know them.
    trained_on: Tensor | None = None


def read_weights(path: Path, wanted: Mapping[str, Tensor], backbone: str) -> FirstWeights:
    """Read weights for an encoder of one grey channel.

    Args:
        path: a state dict written by ``torch.save`` (the zip format or the older one), a .safetensors file, or a
            checkpoint of scarce, of which the encoder is taken.
        wanted: the encoder's own state: what must be there, in which shape.
        backbone: what the encoder is, for messages.

    Raises:
        UsageError: no such file, or weights of something else; names the first of them.
        UnsafeInput: it holds more than tensors, or declares more than it holds.
        DamagedData: it is cut or damaged, or a weight is not finite (also as float32), or a variance negative.
        ResourceError: it may not be read.
    """
    remedy = _REMEDY.format(backbone)
    try:
        found, digest, trained_on = _read(path)
        return FirstWeights(_fitted(path, found, wanted, backbone), digest, trained_on)
    except OSError as error:
        raise ResourceError(f"cannot read {path}: {error.strerror or error}", "check the permissions") from error
    except (UsageError, UnsafeInput, DamagedData) as error:
        raise type(error)(error.message, remedy) from None


def _read(path: Path) -> tuple[Any, str, Tensor | None]:
    """What the file holds, by its first bytes, its SHA-256, and the films it was trained on if it says so."""
    if not path.is_file():
        raise UsageError(f"the weights {path} {'are a folder' if path.is_dir() else 'do not exist'}")
    with open(path, "rb") as handle:
        start = handle.read(512)
        if start[:4] == b"PK\x03\x04":
            return _read_archive(path)
        if start[:1] == b"\x80" and start[257:262] != b"ustar":
            return _read_old(path, handle), sha256(path), None
    if start[8:9] == b"{" or path.suffix == ".safetensors":
        return _read_safetensors(path), sha256(path), None
    if start[257:262] == b"ustar":
        raise UnsafeInput(f"{path} is a tar file, which may hold code")
    raise UsageError(f"{path} is no file of weights")


def _read_archive(path: Path) -> tuple[Any, str, Tensor | None]:
    payload, digest = checkpoint.read_archive(path)
    if checkpoint.is_own(payload):
        saved = checkpoint.encoder_of(payload, digest, path)
        return saved.state, digest, torch.empty(0, dtype=torch.int64) if saved.trained_on is None else saved.trained_on
    return payload, digest, None


def _read_old(path: Path, handle: IO[bytes]) -> Any:
    """torch's format before 1.6: memory is set aside for what it declares, so that is held against the file's size."""
    found, size = checkpoint.load_tensors(path, handle), path.stat().st_size
    if isinstance(found, dict):
        tensors = [value for value in found.values() if isinstance(value, Tensor) and value.layout == torch.strided]
        storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
        if sum(storages.values()) > size:
            raise UnsafeInput(f"{path} declares more than it holds")
    return found


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise DamagedData(f"{path} is no whole .safetensors file: {str(error)[:_LONGEST]}") from None


def _fitted(path: Path, found: Any, wanted: Mapping[str, Tensor], backbone: str) -> dict[str, Tensor]:
    if not isinstance(found, dict) or not all(isinstance(value, Tensor) for value in found.values()):
        held = _names(found) if isinstance(found, dict) else type(found).__name__
        raise UsageError(f"{path} is not a plain state dict of tensors; it holds {held}")
    state = {str(name): value for name, value in found.items() if not str(name).startswith(_HEAD)}
    _check_names(path, state, wanted, backbone)
    for name, value in state.items():
        checkpoint.check_tensor(path, name, value)
    if state[_FIRST].shape[1] == 3 and wanted[_FIRST].shape[1] == 1:
        state[_FIRST] = state[_FIRST].detach().double().sum(dim=1, keepdim=True)
    fitted = {name: state.get(name, value).to(value.dtype) for name, value in wanted.items()}
    for name, value in fitted.items():  # what was finite in float64 need not be so in float32
        checkpoint.check_tensor(path, name, value)
    return fitted


def _check_names(path: Path, state: Mapping[str, Tensor], wanted: Mapping[str, Tensor], backbone: str) -> None:
    faults = {
        "missing": [name for name in wanted if name not in state and not name.endswith(_COUNTER)],
        "unknown": [name for name in state if name not in wanted],
        "other shape or type": [name for name in state if name in wanted and not _alike(name, state[name], wanted)],
    }
    told = [f"{what}: {_names(names)}" for what, names in faults.items() if names]
    if told:
        kind = _kind(state)
        hint = f"; these are names of a {kind}: --set model.backbone={kind}" if kind not in ("", backbone) else ""
        raise UsageError(f"{path} holds no weights of a {backbone}; {'; '.join(told)}{hint}")


def _kind(names: Mapping[str, Any]) -> str:
    """The encoder of ours that has these names, by its blocks; "" for any other."""
    third = {name.split(".")[1] for name in names if name.startswith("layer3.")}
    return {(2, False): "resnet18", (6, True): "resnet50"}.get((len(third), "layer1.0.conv3.weight" in names), "")


def _alike(name: str, value: Tensor, wanted: Mapping[str, Tensor]) -> bool:
    shape = list(wanted[name].shape)
    shapes = [shape, [shape[0], 3, *shape[2:]]] if name == _FIRST else [shape]
    return list(value.shape) in shapes and value.is_floating_point() == wanted[name].is_floating_point()


def _names(names: Any) -> str:
    names = [str(name)[:_LONGEST] for name in names]
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")

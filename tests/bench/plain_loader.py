"""How the plain loops get their views: Pillow and torchvision in the workers of a DataLoader, three equal channels.

The films are one shared tensor, as published: the workers decode nothing and copy no film from the main process.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms as T

from scarce_cli.config import AugmentSettings, DataSettings
from scarce_cli.methods.base import ViewSpec

CHANNELS = 3
_SHARED = Path("/dev/shm")  # where workers put their batches
_ROOM = 0.6  # of what is free there
_PREFETCH = 2  # batches for each worker, torch's default
_FLOAT = 4  # bytes


@dataclass(frozen=True)
class AddNoise:
    """Gaussian noise on a tensor in [0, 1]."""

    std: float

    def __call__(self, image_CHW: Tensor) -> Tensor:
        """The same shape."""
        return image_CHW + self.std * torch.randn_like(image_CHW)


def view_transform(size: int, augment: AugmentSettings, data: DataSettings) -> T.Compose:
    """The published listing: crop, flip, rotation (nearest pixel, black corners), jitter, blur, noise, normalise.

    torchvision has one kernel size for all: the largest of ``blur_kernel``, as in the listing.
    """
    a = augment
    steps: list[Any] = [
        T.RandomResizedCrop(size, scale=a.crop_scale, ratio=a.crop_ratio),
        T.RandomHorizontalFlip(a.flip_probability),
    ]
    if a.rotation_degrees:
        steps.append(T.RandomRotation(a.rotation_degrees))
    if a.jitter_probability:
        steps.append(T.RandomApply([T.ColorJitter(a.brightness, a.contrast)], a.jitter_probability))
    if a.blur_probability:
        steps.append(T.RandomApply([T.GaussianBlur(a.blur_kernel[1], a.blur_sigma)], a.blur_probability))
    steps += [T.ToTensor(), *([AddNoise(a.noise_std)] if a.noise_std else [])]
    return T.Compose([*steps, T.Normalize([data.mean] * CHANNELS, [data.std] * CHANNELS)])


class Films(Dataset[list[Tensor]]):
    """All views of a film, one after the other; ``films`` of them, whatever the shared tensor holds."""

    def __init__(self, shared_NSS: Tensor, transforms: Sequence[T.Compose], films: int) -> None:
        self.shared_NSS, self.transforms, self.films = shared_NSS, transforms, films

    def __len__(self) -> int:
        return self.films

    def __getitem__(self, index: int) -> list[Tensor]:
        film = Image.fromarray(self.shared_NSS[index % len(self.shared_NSS)].numpy()).convert("RGB")
        return [transform(film) for transform in self.transforms]


def share(images: NDArray[np.uint8]) -> Tensor:
    """A copy of the films that workers read from the same pages."""
    return torch.from_numpy(np.array(images)).share_memory_()


def make_loader(
    shared_NSS: Tensor, specs: Sequence[ViewSpec], data: DataSettings, *, batch: int, batches: int, workers: int,
    pin: bool,
) -> DataLoader[list[Tensor]]:  # fmt: skip
    """Shuffled batches of views (B, 3, size, size), ``batches`` an epoch; fewer are kept ready where there is not the
    memory to share for torch's default."""
    transforms = [view_transform(spec.size, spec.augment, data) for spec in specs]
    workers, prefetch = _that_fit(_batch_bytes(specs, batch), workers)
    return DataLoader(
        Films(shared_NSS, transforms, batch * batches),
        batch,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        pin_memory=pin,
        prefetch_factor=prefetch if workers else None,
        persistent_workers=workers > 0,
    )


def _batch_bytes(specs: Sequence[ViewSpec], batch: int) -> int:
    return sum(batch * CHANNELS * spec.size**2 * _FLOAT for spec in specs)


def _that_fit(batch_bytes: int, workers: int) -> tuple[int, int]:
    """(workers, batches that each keeps ready): a worker that finds no memory to share dies of SIGBUS."""
    fit = int(_ROOM * shutil.disk_usage(_SHARED).free) // batch_bytes if _SHARED.is_dir() else 0
    prefetch = min(_PREFETCH, fit // max(1, workers))
    return (workers, prefetch) if prefetch else (fit, min(fit, 1))

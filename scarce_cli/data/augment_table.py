"""All numbers that a batch of views needs, in one copy to the device, and the memory that its pixels go through.

Shape suffixes: B films, R rows (one for each number).
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Row = NDArray[Any]  # (B,), on the host
Rows = Mapping[str, Tensor]  # by film along the first dimension, on the device


def on_device(rows: Mapping[str, Row], device: torch.device) -> Rows:
    """The same on the device, floats rounded to float32; int32 stays int32. To a GPU they go as one pinned table, and
    nothing waits for the copy."""
    # One dtype for all: float32 travels as its bits.
    values = [row if row.dtype == np.int32 else row.astype(np.float32).view(np.int32) for row in rows.values()]
    table_RB = torch.from_numpy(np.stack(values))
    if device.type == "cuda":
        table_RB = table_RB.pin_memory().to(device, non_blocking=True)
    pairs = zip(rows.items(), table_RB.unbind(), strict=True)
    return {name: bits if row.dtype == np.int32 else bits.view(torch.float32) for (name, row), bits in pairs}


class Workspace:
    """Memory by name, kept from chunk to chunk: fresh pages cost the CPU more than the work done on them."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._kept: dict[str, Tensor] = {}

    def take(self, name: str, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Uninitialised, contiguous; what ``name`` held before is lost."""
        count = int(np.prod(shape))
        kept = self._kept.get(name)
        if kept is None or kept.numel() < count or kept.dtype != dtype:
            kept = self._kept[name] = torch.empty(count, dtype=dtype, device=self._device)
        return kept[:count].view(shape)


_own = threading.local()


def workspace(device: torch.device) -> Workspace:
    """Each thread keeps its own for the CPU, a few MB; for a GPU, where torch keeps memory itself, a new one."""
    if device.type != "cpu":
        return Workspace(device)
    if not hasattr(_own, "workspace"):
        _own.workspace = Workspace(device)
    return _own.workspace

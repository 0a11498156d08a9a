"""All numbers that a batch of views needs, in one table and one copy to the device.

Shape suffixes: B films of the batch, n films of a chunk, R rows (one for each number).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Row = NDArray[Any]  # (B,), on the host
Rows = Mapping[str, Tensor]  # (n,) each, on the device


class Table:
    """Named rows of one number for each film, on the device; rows given as int32 come back as int32."""

    def __init__(self, rows: Mapping[str, Row], device: torch.device) -> None:
        """Floats are rounded to float32. To a GPU goes one pinned copy that nothing waits for."""
        self._whole = [name for name, row in rows.items() if row.dtype == np.int32]
        self._names = self._whole + [name for name in rows if name not in self._whole]
        # One dtype for all: float32 travels as its bits.
        values = [
            rows[name] if name in self._whole else rows[name].astype(np.float32).view(np.int32) for name in self._names
        ]
        table_RB = torch.from_numpy(np.stack(values))
        if device.type == "cuda":
            table_RB = table_RB.pin_memory().to(device, non_blocking=True)
        self._table_RB = table_RB

    def films(self, first: int, last: int) -> dict[str, Tensor]:
        """The rows of films ``first`` to ``last`` - 1: name -> (n,)."""
        part_Rn = self._table_RB[:, first:last]
        whole = len(self._whole)
        values = (*part_Rn[:whole].unbind(), *part_Rn[whole:].view(torch.float32).unbind())
        return dict(zip(self._names, values, strict=True))


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

"""What mixed precision must not touch."""

from __future__ import annotations

import torch
from torch import Tensor


def at_least_float32(values: Tensor) -> Tensor:
    """``values`` in float32 where they come in less (bf16, fp16); float64 stays float64."""
    return values.to(torch.promote_types(values.dtype, torch.float32))

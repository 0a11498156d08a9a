"""The device a run asks for, and the precision of its forward pass."""

from __future__ import annotations

import contextlib
from typing import Literal

import torch

from scarce_cli.errors import ResourceError

Precision = Literal["bf16", "fp16", "fp32"]


def find_device(wanted: str, *, needs: str, fits_here: str) -> torch.device:
    """The torch device, or a message at once.

    Args:
        needs: what the recipe needs, in words.
        fits_here: the command that fits a machine without CUDA.

    Raises:
        ResourceError: CUDA is wanted and not there.
    """
    if wanted == "cpu":
        return torch.device("cpu")
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    build = "built for CUDA" if torch.version.cuda else "built without CUDA"
    raise ResourceError(
        f"no CUDA device here (torch {torch.__version__}, {build}, found the CPU only); {needs}",
        f"on this machine: {fits_here}; or insist with --device cpu",
    )


def autocast(device: torch.device, precision: Precision) -> contextlib.AbstractContextManager[object]:
    """The context of a forward pass: mixed precision, or nothing for fp32."""
    if precision == "fp32":
        return contextlib.nullcontext()
    dtype = torch.bfloat16 if precision == "bf16" else torch.float16
    return torch.autocast(device.type, dtype=dtype)


def grad_scaler(device: torch.device, precision: Precision) -> torch.amp.GradScaler:
    """A loss scaler; does nothing unless the precision is fp16."""
    return torch.amp.GradScaler(device.type, enabled=precision == "fp16")

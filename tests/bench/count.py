"""What a step asks of a device, counted, and what the device can do, measured: their quotient is how far the limit is.

Operations: those of matrix products and convolutions, by torch's FlopCounterMode; what is recomputed is counted again.
Bytes: every operator reads its inputs once and writes its outputs once, without caches. That is what kernels that are
not fused move at the least: a BatchNorm that reads its input twice moves more, and so does a convolution of contiguous
half precision, which cuDNN turns into channels last and back inside; a fused program moves less. Views move nothing;
what is overwritten counts as read.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

_ALLOCATE = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"}
_L4_BYTES, _L4_FLOPS = 0.8 * 300e9, 0.8 * 121e12  # a second: 80 % of the data sheet (dense bf16)


class Traffic(TorchDispatchMode):
    """Adds up ``bytes`` over the operators that run inside."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if not (func.is_view or name == "_unsafe_view" or name in _ALLOCATE):
            self.bytes += sum(_bytes(leaf) for leaf in tree_leaves((args, kwargs or {}, out)))
        return out


def _bytes(leaf: Any) -> int:
    """Of a tensor; one that is expanded is as large as what it shows."""
    return min(leaf.nbytes, leaf.untyped_storage().nbytes()) if isinstance(leaf, Tensor) else 0


def count(step: Callable[[], None]) -> dict[str, float]:
    """Operations and bytes of one step."""
    with FlopCounterMode(display=False) as flops:
        step()
    with Traffic() as traffic:
        step()
    return {"flops": float(flops.get_total_flops()), "bytes": float(traffic.bytes)}


def on_paper(counted: Mapping[str, float], films: int) -> float:
    """Images/s of an L4 by its data sheet: no measurement. The slower of memory and arithmetic decides."""
    return films / max(counted["bytes"] / _L4_BYTES, counted["flops"] / _L4_FLOPS)


def ceilings(device: torch.device, *, side: int, seconds: float = 1.0) -> dict[str, float]:
    """Matrix products of ``side`` x ``side`` in bf16, and copies (bytes read and bytes written) of 32 ``side``^2."""
    a, b = (torch.randn(side, side, device=device).to(torch.bfloat16) for _ in range(2))
    source = torch.randn(8, side, side, device=device)
    target = torch.empty_like(source)
    product = best(lambda: torch.mm(a, b), device, seconds)
    copy = best(lambda: target.copy_(source), device, seconds)
    return {"matrix_tflops": 2 * side**3 / product / 1e12, "copy_gb_per_s": 2 * source.nbytes / copy / 1e9}


def best(action: Callable[[], object], device: torch.device, seconds: float) -> float:
    """Seconds that ``action`` takes, the shortest of several series of five after a warm-up."""
    times: list[float] = []
    ends = time.perf_counter() + seconds
    while len(times) < 3 or time.perf_counter() < ends:
        wait(device)
        started = time.perf_counter()
        for _ in range(5):
            action()
        wait(device)
        times.append((time.perf_counter() - started) / 5)
    return min(times[1:])


def wait(device: torch.device) -> None:
    """Until the device has done what it was asked."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)

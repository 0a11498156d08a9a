"""What the BatchNorms of a method gather from every batch they see, good or bad, in two flat tensors.

A bad batch spoils them in the forward pass, long before anybody knows. Flat, they are copied before each step and
put back after a bad one by one kernel each, without asking the device how the step was.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from scarce_cli.models.ranks import mean_over_ranks


class Statistics:
    """Running means, variances and counters of every BatchNorm inside a module, as views of flat tensors."""

    def __init__(self, module: nn.Module) -> None:
        """Moves the buffers into flat tensors: names, values and what ``state_dict`` shows stay as they are.

        Call it when the module is where it will stay: ``to(device)`` would part them again.
        """
        slots = [(norm, name) for norm in module.modules() if isinstance(norm, _BatchNorm) for name in norm._buffers]
        self._flat = [flat for floating in (True, False) if (flat := _flatten(slots, floating=floating)) is not None]

    def copy(self) -> list[Tensor]:
        """A copy to go back to."""
        return [flat.clone() for flat in self._flat]

    def settle(self, before: list[Tensor], taken: Tensor) -> None:
        """After a step: the mean over all ranks, or what was ``before`` where the step was not ``taken`` (0-d bool)."""
        for flat, old in zip(self._flat, before, strict=True):
            now = mean_over_ranks(flat) if flat.is_floating_point() else flat
            flat.copy_(torch.where(taken, now, old))


def _flatten(slots: Iterable[tuple[_BatchNorm, str]], *, floating: bool) -> Tensor | None:
    """One tensor with all buffers of a kind, which become views of it; None where there are none."""
    found = []
    for norm, name in slots:
        buffer = norm._buffers[name]
        if buffer is not None and buffer.is_floating_point() == floating:
            found.append((norm, name, buffer))
    if not found:
        return None
    flat = torch.cat([buffer.reshape(-1) for _, _, buffer in found])
    parts = flat.split([buffer.numel() for _, _, buffer in found])
    for (norm, name, buffer), part in zip(found, parts, strict=True):
        norm._buffers[name] = part.view(buffer.shape)
    return flat

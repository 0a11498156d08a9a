"""02_splitbn: BatchNorm in groups of a batch, two training steps and evaluation, in both memory formats."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from scarce_cli.models.split_batch_norm import SplitBatchNorm2d
from tests.official.common import Data, Family, close

FORMATS = (torch.contiguous_format, torch.channels_last)


@dataclass(frozen=True)
class _Steps:
    norm: SplitBatchNorm2d
    found: dict[str, Tensor]  # by the files' names


def _tensor(data: Data, name: str, memory_format: torch.memory_format = torch.contiguous_format) -> Tensor:
    values = torch.from_numpy(np.asarray(data[name]))
    return values.contiguous(memory_format=memory_format) if values.ndim == 4 else values


def _layer(data: Data) -> SplitBatchNorm2d:
    channels, splits = len(np.asarray(data["weight"])), int(data["num_splits"])
    norm = SplitBatchNorm2d(channels, splits, eps=float(data["eps"]), momentum=float(data["momentum"])).double()
    state = {"weight": "weight", "bias": "bias", "running_mean": "running_mean0", "running_var": "running_var0"}
    norm.load_state_dict({ours: _tensor(data, theirs) for ours, theirs in state.items()}, strict=False)
    return norm


def _train(data: Data, memory_format: torch.memory_format) -> _Steps:
    norm, found = _layer(data), {}
    for step in (0, 1):
        x = _tensor(data, f"x{step}", memory_format).requires_grad_()
        y = norm(x)
        y.backward(_tensor(data, f"gy{step}", memory_format))
        assert x.grad is not None
        assert norm.running_mean is not None
        assert norm.running_var is not None
        assert norm.num_batches_tracked is not None
        found |= {f"y{step}": y.detach(), f"gx{step}": x.grad}
        found[f"running_mean_after{step}"] = norm.running_mean.clone()
        found[f"running_var_after{step}"] = norm.running_var.clone()
        found[f"num_batches_tracked_after{step}"] = norm.num_batches_tracked.clone()
    return _Steps(norm, found)


def _training(data: Data, key: str) -> None:
    for memory_format in FORMATS:
        close(_train(data, memory_format).found[key], data, key, atol=1e-12)


def _evaluation(data: Data) -> None:
    for memory_format in FORMATS:
        norm = _train(data, memory_format).norm.eval()
        close(norm(_tensor(data, "x_eval", memory_format)).detach(), data, "y_eval", atol=1e-12)


def _shuffled(data: Data) -> None:
    order = _tensor(data, "perm")
    y = _layer(data)(_tensor(data, "x0")[order])[order.argsort()]
    close(y.detach(), data, "y0_shuffled_then_unshuffled", atol=1e-12)


_TRAINED = ("y", "gx", "running_mean_after", "running_var_after", "num_batches_tracked_after")
_INPUTS = ("N", "C", "num_splits", "momentum", "eps", "weight", "bias", "running_mean0", "running_var0", "x_eval")

SPLIT_BATCH_NORM = Family(
    checks={
        **{f"{name}{step}": partial(_training, key=f"{name}{step}") for name in _TRAINED for step in (0, 1)},
        "y_eval": _evaluation,
        "y0_shuffled_then_unshuffled": _shuffled,
    },
    unchecked=dict.fromkeys((*_INPUTS, "x0", "x1", "gy0", "gy1", "perm"), "input"),
)

FAMILIES = {"02_splitbn": SPLIT_BATCH_NORM}

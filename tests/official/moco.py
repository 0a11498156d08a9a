"""01_moco_infonce, 01_queue_ring_nondivisible, 01_moco_ema: MoCo's logits and loss, its queue, its key encoder."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from scarce_cli.methods.moco import enqueue, infonce, infonce_logits, unit_rows
from scarce_cli.models.ema import frozen_copy, moving_average
from tests.official.common import Data, Family, close, close_f32


def _tensor(values: NDArray[np.generic], dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.from_numpy(np.asarray(values)).to(dtype)


@dataclass(frozen=True)
class _Training:
    """All steps of a file; every array has the steps first."""

    logits: NDArray[np.float64]
    loss: NDArray[np.float64]
    k_norm: NDArray[np.float64]
    grad_q_raw: NDArray[np.float64]
    queue: NDArray[np.float64]
    pointer: NDArray[np.int64]


def _train(data: Data, dtype: torch.dtype = torch.float64) -> _Training:
    queue, pointer = _tensor(data["queue0"], dtype).clone(), torch.tensor(int(data["ptr0"]))
    rows: list[list[NDArray[np.generic]]] = []
    for q_raw, k_raw in zip(np.asarray(data["q_raw"]), np.asarray(data["k_raw"]), strict=True):
        q, k = _tensor(q_raw, dtype).requires_grad_(), _tensor(k_raw, dtype).requires_grad_()
        logits = infonce_logits(q, k, queue, float(data["T"]))
        loss = infonce(logits)
        loss.backward()
        assert q.grad is not None
        assert k.grad is None
        enqueue(queue, pointer, unit_rows(k.detach()))
        found = (logits.detach(), loss.detach(), unit_rows(k.detach()), q.grad, queue.clone(), pointer.clone())
        rows.append([tensor.numpy() for tensor in found])
    return _Training(*(np.stack(column) for column in zip(*rows, strict=True)))


def _logits(data: Data) -> None:
    found = _train(data).logits
    (close if data["logits"].dtype == np.float64 else close_f32)(found, data, "logits")


def _loss(data: Data) -> None:
    """In float64, and in float32, as it is trained: as exact as logits of up to 1 / T can be."""
    close(_train(data).loss, data, "loss")
    found, rounding = _train(data, torch.float32).loss, 4 * float(np.finfo(np.float32).eps) / float(data["T"])
    np.testing.assert_allclose(found, np.asarray(data["loss"]), rtol=1e-6, atol=rounding)


def _pointer(data: Data) -> None:
    """Every file has this key, so it is here that one without any queue is noticed."""
    assert data.keys() & {"queue_after", "queue_after_last"}, "the file holds no queue after a step"
    close(_train(data).pointer, data, "queue_ptr_after", rtol=0)


INFONCE = Family(
    checks={
        "k_norm": lambda data: close_f32(_train(data).k_norm, data, "k_norm"),
        "logits": _logits,
        "loss": _loss,
        "grad_q_raw": lambda data: close_f32(_train(data).grad_q_raw, data, "grad_q_raw"),
        "queue_after": lambda data: close_f32(_train(data).queue, data, "queue_after"),
        "queue_after_last": lambda data: close_f32(_train(data).queue[-1], data, "queue_after_last"),
        "queue_ptr_after": _pointer,
    },
    unchecked=dict.fromkeys(("T", "N", "K", "dim", "ptr0", "queue0", "q_raw", "k_raw"), "input"),
    optional=frozenset({"queue_after", "queue_after_last"}),  # one of them: the last queue alone in large files
)


def _ring(data: Data) -> None:
    queue, pointer = _tensor(data["queue0"]).clone(), torch.tensor(int(data["ptr0"]))
    wanted = zip(np.asarray(data["ring_queue_after"]), np.asarray(data["ring_ptr_after"]), strict=True)
    for keys, (queue_after, pointer_after) in zip(np.asarray(data["keys"]), wanted, strict=True):
        enqueue(queue, pointer, _tensor(keys))
        np.testing.assert_array_equal(queue.numpy(), queue_after)
        assert int(pointer) == pointer_after


_OTHER = "what another library does: keys past the end are dropped"

RING = Family(
    checks={"ring_queue_after": _ring, "ring_ptr_after": _ring},
    unchecked={
        **dict.fromkeys(("N", "K", "ptr0", "queue0", "keys"), "input"),
        "official_asserts": "says that the official code refuses such a queue",
        "lightly_truncating_queue_after": _OTHER,
        "lightly_truncating_ptr_after": _OTHER,
    },
)


def _encoder(data: Data, prefix: str) -> nn.Sequential:
    """The file's small encoder, with its weights, in training mode."""
    part = {name.removeprefix(prefix): np.asarray(data[name]) for name in data if name.startswith(prefix)}
    width, inputs = part["l1.weight"].shape
    outputs = len(part["fc.weight"])
    layers = [("l1", nn.Linear(inputs, width)), ("bn", nn.BatchNorm1d(width)), ("relu", nn.ReLU())]
    encoder = nn.Sequential(OrderedDict([*layers, ("fc", nn.Linear(width, outputs))])).double()
    encoder.load_state_dict({name: torch.from_numpy(values) for name, values in part.items()})
    return encoder


def _same_state(module: nn.Module, data: Data, prefix: str) -> None:
    state: Mapping[str, Tensor] = module.state_dict()
    assert {prefix + name for name in state} == {name for name in data if name.startswith(prefix)}
    for name, tensor in state.items():
        close(tensor, data, prefix + name)


def _average_alone(data: Data) -> None:
    query, key = _encoder(data, "before/q/"), frozen_copy(_encoder(data, "before/k/"))
    moving_average(key, query, float(data["m"]))
    _same_state(key, data, "after_ema/k/")


def _whole_forward(data: Data) -> None:
    """The forward averages a second time before the keys are made."""
    query, key = _encoder(data, "before/q/"), frozen_copy(_encoder(data, "before/k/"))
    for _ in range(2):
        moving_average(key, query, float(data["m"]))
    q, k = query(_tensor(data["x_q"])), key(_tensor(data["x_k"]))
    logits = infonce_logits(q, k, _tensor(data["queue0"]), 0.2)
    close(logits.detach(), data, "logits")
    close(infonce(logits).detach(), data, "loss")
    _same_state(query, data, "after_forward/q/")
    _same_state(key, data, "after_forward/k/")


EMA = Family(
    checks={
        "after_ema/k/*": _average_alone,
        "logits": _whole_forward,
        "loss": _whole_forward,
        "after_forward/q/*": _whole_forward,
        "after_forward/k/*": _whole_forward,
    },
    unchecked=dict.fromkeys(("m", "N", "before/q/*", "before/k/*", "queue0", "x_q", "x_k"), "input"),
)

FAMILIES = {"01_moco_infonce": INFONCE, "01_queue_ring_nondivisible": RING, "01_moco_ema": EMA}

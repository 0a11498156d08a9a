"""What the steps of a run say, brought to the host without making the device wait."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from scarce_cli.engine.plan import StepValues
from scarce_cli.engine.step import Taken

_LAG = 1  # steps that a GPU is ahead of what is known of it


@dataclass(frozen=True)
class Entry:
    """One step, as it was read."""

    step: int  # steps done
    lr: float
    weight_decay: float
    values: dict[str, float]
    seconds: float  # since the entry before was read


@dataclass(frozen=True)
class _Pending:
    step: int
    used: StepValues
    names: Sequence[str]
    host: Tensor
    copied: torch.cuda.Event | None


class Ledger:
    """Entries in order of the steps, on a GPU one step late: reading a number of the running step would stop it.

    The delay is fixed, so that all ranks hear of a step at the same place of their loops.
    """

    def __init__(self, device: torch.device) -> None:
        #: steps that may be done and not yet read
        self.lag = _LAG if device.type == "cuda" else 0
        self._pending: deque[_Pending] = deque()
        self._read = time.perf_counter()

    def start(self) -> float:
        """Seconds of the next entry count from now; returns those since the last."""
        now = time.perf_counter()
        seconds, self._read = now - self._read, now
        return seconds

    def add(self, step: int, taken: Taken) -> None:
        """A step that was handed to the device, the ``step``-th of the run (1: the first)."""
        values, copied = taken.values, None
        if values.device.type == "cuda":
            host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            host.copy_(values, non_blocking=True)
            copied = torch.cuda.Event()
            copied.record()
        else:
            host = values
        self._pending.append(_Pending(step, taken.used, taken.names, host, copied))

    def ready(self) -> Iterator[Entry]:
        """What may be read by now."""
        while len(self._pending) > self.lag:
            yield self._next()

    def rest(self) -> Iterator[Entry]:
        """Everything, waiting for the device."""
        while self._pending:
            yield self._next()

    def _next(self) -> Entry:
        pending = self._pending.popleft()
        if pending.copied is not None:
            pending.copied.synchronize()
        now = time.perf_counter()
        seconds, self._read = now - self._read, now
        values = dict(zip(pending.names, pending.host.tolist(), strict=True))
        return Entry(pending.step, pending.used.lr, pending.used.weight_decay, values, seconds)

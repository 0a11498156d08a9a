"""Measures a run on its own first steps: memory, films per second, and the size of a checkpoint."""

from __future__ import annotations

import contextlib
import resource
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scarce_cli.data.memory import available_memory
from scarce_cli.engine.estimate import Estimate
from scarce_cli.engine.host_memory import give_back_memory
from scarce_cli.engine.job import Job
from scarce_cli.engine.ledger import Entry
from scarce_cli.engine.state import TrainState
from scarce_cli.engine.views import Batches

WARM_UP, TIMED = 2, 5  # steps: the first two are slow and take more than the others; those are measured
_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


def device_name(device: torch.device) -> str:
    """As a person calls it."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "the CPU"


def reset_peak(device: torch.device) -> None:
    """Forget the peak until now (of a GPU; of this process where Linux can)."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    else:
        give_back_memory()
        with contextlib.suppress(OSError):
            _CLEAR.write_text("5")


def peak_bytes(device: torch.device) -> int:
    """The most memory taken since `reset_peak`: what torch holds of the GPU, or what this process has resident."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_reserved(device))
    return _status("VmHWM:")


def memory_bytes(device: torch.device) -> int:
    """What there is: this process's share of the GPU; on the CPU what is free and what this process has already."""
    if device.type != "cuda":
        return available_memory() + _status("VmRSS:")
    total = torch.cuda.get_device_properties(device).total_memory
    return int(total * torch.cuda.get_per_process_memory_fraction(device))


def _status(name: str) -> int:
    """A line of what Linux says of this process, in bytes; elsewhere the most it ever had."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in _STATUS.read_text().splitlines():
            if line.startswith(name):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class Gauge:
    """Hears of the first steps of a session and says what follows for the run, once."""

    def __init__(self, job: Job, state: TrainState, batches: Batches) -> None:
        self._job, self._state, self._batches = job, state, batches
        self._heard, self._seconds = 0, 0.0
        self.estimate: Estimate | None = None

    def hear(self, entry: Entry) -> Estimate | None:
        """The estimate after the last of the measured steps, or of the run; None on all others."""
        self._heard += 1
        self._seconds += entry.seconds
        if entry.step < self._batches.total:  # a run of two steps has only these
            if self._heard == 1:
                reset_peak(self._job.device)  # looking for the fastest kernels took more than training will
            elif self._heard == WARM_UP:  # in the second step what was given back is taken again
                self._seconds = 0.0
        last = entry.step == self._batches.total
        if self._heard == WARM_UP + TIMED or (last and self._heard < WARM_UP + TIMED):
            self.estimate = self._estimated(entry.step)
            return self.estimate
        return None

    def _estimated(self, step: int) -> Estimate:
        config, state = self._job.config, self._state
        steps = self._heard - WARM_UP if self._heard > WARM_UP else self._heard
        encoder = state.method.evaluation_encoder()
        return Estimate(
            parameters=state.parameters,
            peak_bytes=peak_bytes(self._job.device),
            memory_bytes=memory_bytes(self._job.device),
            images_per_s=config.run.batch_size * steps / self._seconds,
            films_left=config.run.batch_size * (self._batches.total - step),
            seconds_before=state.seconds,
            dollars_per_hour=self._job.dollars_per_hour,
            checkpoint_bytes=_bytes(state.method.state_dict()) + _bytes(state.optimizer.state_dict()["state"]),
            encoder_bytes=_bytes(encoder.state_dict()),
            encoders=-(-config.run.epochs // config.run.snapshot_epochs),
        )


def _bytes(values: Any) -> int:
    """Of all tensors in nested dicts."""
    if isinstance(values, Tensor):
        return values.nbytes
    parts: Iterable[Any] = values.values() if isinstance(values, dict) else ()
    return sum(_bytes(part) for part in parts)

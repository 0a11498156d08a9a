"""When a run is saved, and what happens when it cannot be."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from scarce_cli.engine.distributed import is_writer
from scarce_cli.engine.job import Job
from scarce_cli.engine.state import TrainState, save_run, save_snapshot
from scarce_cli.errors import Diverged, ResourceError
from scarce_cli.runs import RunFolder

_FAILED_SAVES = 3  # in a row that end a run


def last_good(run: RunFolder) -> str:
    """What of a run that went wrong is still good, in words."""
    return f"the last good state is {run.last}" if run.last.is_file() else f"nothing was saved yet in {run.path}"


class Saver:
    """Saves by time and by steps, the newest and the one before it. Only one of several ranks writes."""

    def __init__(self, job: Job, state: TrainState, warn: Callable[[str], None], steps_per_epoch: int) -> None:
        """``state`` is what is on the disk already, or a fresh one."""
        self._job, self._state, self._warn = job, state, warn
        self._steps_per_epoch = steps_per_epoch
        self._saved_step = self._tried_step = state.step
        self._tried_time = time.monotonic()
        self._failed = 0

    @property
    def due(self) -> bool:
        """Whether so many steps or minutes have gone since the last attempt."""
        run = self._job.config.run
        minutes = (time.monotonic() - self._tried_time) / 60
        steps = self._state.step - self._tried_step
        return is_writer() and (steps >= run.checkpoint_steps or minutes >= run.checkpoint_minutes)

    @property
    def behind(self) -> bool:
        """Whether there is something that is not saved yet."""
        return self._saved_step < self._state.step or not self._job.run.last.is_file()

    def save(self) -> None:
        """Save now. Raises ResourceError (the disk), Diverged (the weights are not finite: what was saved stays)."""
        if not is_writer():
            return
        self._check_finite()
        save_run(self._job.run, self._job.identity, self._state, self._state.step // self._steps_per_epoch)
        self._saved_step = self._state.step

    def save_in_passing(self) -> None:
        """Save when it is due; one that fails is a warning, the third in a row is not. Raises as `save`."""
        self._tried_step, self._tried_time = self._state.step, time.monotonic()
        self._try(self.save)

    def keep_encoder(self, epoch: int) -> None:
        """Keep the encoder apart after an epoch. Raises as `save_in_passing`."""
        if is_writer():
            path = self._job.run.snapshot(epoch)
            self._try(lambda: save_snapshot(path, self._job.identity, self._state, epoch))

    def _try(self, action: Callable[[], None]) -> None:
        try:
            action()
        except ResourceError as error:
            self._failed += 1
            if self._failed >= _FAILED_SAVES:
                raise
            self._warn(f"not saved: {error.message}")
        else:
            self._failed = 0

    def _check_finite(self) -> None:
        """No single step is taken with what is not finite, but many finite ones may add up to it."""
        weights = [p.detach() for p in self._state.method.parameters()]
        if not bool(torch.isfinite(torch.stack(torch._foreach_norm(weights))).all()):
            raise Diverged(
                f"the weights are not finite after step {self._state.step}; {last_good(self._job.run)}",
                "lower optimizer.lr, or --set run.precision=fp32",
            )

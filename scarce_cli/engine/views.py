"""The views of each step, on a GPU made beside the step before: one process, no workers, and nobody waits.

The films of a batch are gathered into pinned memory, copied and augmented on a stream of their own while the main
stream still computes the step before. The kernel is asked for the films of the batch after that, so that the disk is
read meanwhile as well.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from scarce_cli.data.augment import View, draw_parameters, make_view
from scarce_cli.data.cache import advise
from scarce_cli.data.loader import load_films
from scarce_cli.data.order import batch_rows, epoch_order, steps_per_epoch
from scarce_cli.engine.job import Job
from scarce_cli.methods.base import ViewSpec
from scarce_cli.models.ranks import rank, world_size


class Batches:
    """Which films each step sees: every film at most once an epoch, fixed by the seed."""

    def __init__(self, job: Job) -> None:
        """UsageError when there are fewer films than a batch."""
        self._films, self._run = len(job.cache.names), job.config.run
        self.per_epoch = steps_per_epoch(self._films, self._run.batch_size)
        self.total = self.per_epoch * self._run.epochs
        self._orders: dict[int, NDArray[np.int64]] = {}  # of this epoch and the next: a permutation takes a while

    def rows(self, step: int) -> NDArray[np.int64]:
        """This rank's films of the batch of a step: every so many of the whole batch."""
        return self.whole(step)[rank() :: world_size()]

    def whole(self, step: int) -> NDArray[np.int64]:
        """The films of the batch of a step, 0 the first: (B,)."""
        epoch, index = divmod(step, self.per_epoch)
        if epoch not in self._orders:
            self._orders = {e: order for e, order in self._orders.items() if e == epoch - 1}
            self._orders[epoch] = epoch_order(self._films, seed=self._run.seed, epoch=epoch)
        return batch_rows(self._orders[epoch], self._run.batch_size, index)


class ViewMaker:
    """Makes the views of steps in order."""

    def __init__(self, job: Job, specs: Sequence[ViewSpec], batches: Batches) -> None:
        self._job, self._specs, self._batches = job, specs, batches
        self._stream = torch.cuda.Stream(job.device) if job.device.type == "cuda" else None
        self._next: tuple[int, list[View], torch.cuda.Event] | None = None

    def take(self, step: int) -> list[View]:
        """The views of a step, one for each of the method's specs; ready for the current stream."""
        if self._next is None or self._next[0] != step:
            return self._make(step)
        _, views, ready = self._next
        self._next = None
        stream = torch.cuda.current_stream(self._job.device)
        stream.wait_event(ready)
        for view in views:
            view.image_BCHW.record_stream(stream)
            view.clean_BCHW.record_stream(stream)
        return views

    def prepare(self, step: int) -> None:
        """Begin with the views of a step to come. On the CPU there is nobody to do it meanwhile."""
        if step + 1 < self._batches.total:
            advise(self._job.cache, self._batches.rows(step + 1))
        if self._stream is None or step >= self._batches.total:
            return
        with torch.cuda.stream(self._stream):
            views = self._make(step)
            ready = torch.cuda.Event()
            ready.record(self._stream)
        self._next = (step, views, ready)

    def _make(self, step: int) -> list[View]:
        rows, data = self._batches.rows(step), self._job.config.data
        films = load_films(self._job.cache, rows, self._job.device)
        views = []
        for number, spec in enumerate(self._specs):
            parameters = draw_parameters(
                spec.augment,
                self._job.cache.size,
                seed=self._job.config.run.seed,
                epoch=step // self._batches.per_epoch,
                films=rows,
                view=number,
            )
            views.append(make_view(films, spec.augment, parameters, size=spec.size, mean=data.mean, std=data.std))
        return views

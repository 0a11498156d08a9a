"""One step of training on the device. Nothing here waits for the device: what a step says is read later.

Fail before damage: what is not finite never reaches the weights. The device itself decides whether a step is taken,
and the optimizer, the method and the running statistics all go by that one answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from scarce_cli.data.augment import View
from scarce_cli.engine.compiling import compile_networks, compiler_guard
from scarce_cli.engine.device import autocast
from scarce_cli.engine.distributed import wrap
from scarce_cli.engine.job import Job
from scarce_cli.engine.optim import clip_gradients, set_values, step_unless
from scarce_cli.engine.plan import Plan, StepValues
from scarce_cli.engine.state import TrainState
from scarce_cli.engine.statistics import Statistics
from scarce_cli.methods.base import Progress, StepOutput
from scarce_cli.models.ranks import mean_over_ranks

LOSS, TAKEN, SCALE, LOWERED, STOP = "loss", "taken", "scale", "lowered", "stop"
OWN = (LOSS, TAKEN, SCALE, LOWERED, STOP)  # of the engine; the rest of a step's values are the method's scalars


@dataclass(frozen=True)
class Taken:
    """What a step says, still on the device."""

    names: Sequence[str]
    values: Tensor  # (len(names),), float64, the mean over all ranks
    embeddings_ND: Tensor | None
    used: StepValues


class Stepper:
    """Takes a run's steps: forward, backward, clip, update."""

    def __init__(self, job: Job, state: TrainState, *, total_steps: int, steps_per_epoch: int) -> None:
        """``state`` is where it will be trained; its BatchNorms' buffers are moved into flat tensors."""
        self._job, self._state = job, state
        self._total_steps, self._steps_per_epoch = total_steps, steps_per_epoch
        self._plan = Plan(job.config, steps_per_epoch)
        self._statistics = Statistics(state.method)
        if job.config.run.compile:
            compile_networks(state.method)
        self._forward = wrap(state.method)

    def take(self, step: int, views: Sequence[View], *, stop: bool = False) -> Taken:
        """Step number ``step`` (0 on the first) on a batch of views; ``stop`` tells all ranks that this one would."""
        state, config = self._state, self._job.config
        progress = Progress(step, self._total_steps, self._steps_per_epoch)
        used = self._plan.at(step)
        state.method.train()
        set_values(state.optimizer, used)
        before = self._statistics.copy()
        with compiler_guard():
            with autocast(self._job.device, config.run.precision):
                output: StepOutput = self._forward(views, progress, _generator(self._job, step))
            bad, said = self._update(output, progress, stop)
        self._statistics.settle(before, ~bad)
        return Taken(tuple(said), torch.stack(list(said.values())), output.embeddings_ND, used)

    def _update(self, output: StepOutput, progress: Progress, stop: bool) -> tuple[Tensor, dict[str, Tensor]]:
        """Move the weights, and what the method moves with them; neither when loss or gradients are not finite."""
        state, scaler = self._state, self._state.scaler
        state.optimizer.zero_grad(set_to_none=True)
        scaler.scale(output.loss).backward()
        scaler.unscale_(state.optimizer)
        norm = clip_gradients(state.optimizer, self._job.config.optimizer)
        state.method.after_backward(progress)
        said = _mean({LOSS: output.loss, **output.scalars}, stop, norm)
        bad = ~(torch.isfinite(said[LOSS]) & torch.isfinite(norm))
        step_unless(state.optimizer, bad)
        said[TAKEN] = (~bad).double()
        said[SCALE], said[LOWERED] = scaler.adapt(norm)
        state.method.after_step(progress, ~bad)
        return bad, said


def _mean(values: dict[str, Tensor], stop: bool, like: Tensor) -> dict[str, Tensor]:
    """What this rank says, and whether it would stop, as the mean over all ranks (0-d each, float64)."""
    wish = torch.zeros_like(like) if not stop else torch.ones_like(like)
    named = {**values, STOP: wish}
    together = mean_over_ranks(torch.stack([value.detach().double() for value in named.values()]))
    return dict(zip(named, together.unbind(), strict=True))


def _generator(job: Job, step: int) -> torch.Generator:
    """Fixed by (seed, step), alike on all ranks."""
    seed = int(np.random.SeedSequence((job.config.run.seed, step)).generate_state(1)[0])
    return torch.Generator(job.device).manual_seed(seed)

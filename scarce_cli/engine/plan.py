"""What the optimizer uses on each step of a run: the recipe's schedules, epochs turned into steps once, here."""

from __future__ import annotations

from dataclasses import dataclass

from scarce_cli.config import RunConfig
from scarce_cli.schedule import CONVENTIONS, cosine, milestone_lr, warmup_cosine


@dataclass(frozen=True)
class StepValues:
    """What the optimizer uses on one step."""

    lr: float
    lr_1d: float  # for biases and norm parameters
    weight_decay: float  # of the groups that are decayed


class Plan:
    """The learning rates and the weight decay of a run, as functions of the step."""

    def __init__(self, config: RunConfig, steps_per_epoch: int) -> None:
        """``steps_per_epoch`` is that of the data set; a convention by epoch goes by epochs alone."""
        self._optimizer, self._schedule = config.optimizer, config.schedule
        self._convention = CONVENTIONS[config.schedule.convention]
        self._steps_per_epoch = steps_per_epoch
        each = 1 if self._convention.per_epoch else steps_per_epoch
        self._count = config.run.epochs * each
        self._warmup = round(config.schedule.warmup_epochs * each)

    def at(self, step: int) -> StepValues:
        """The values of a step, 0 on the first."""
        tick = step // self._steps_per_epoch if self._convention.per_epoch else step
        lr, lr_1d, final = self._optimizer.lr, self._optimizer.lr_1d or self._optimizer.lr, self._schedule.final_lr
        return StepValues(
            lr=self._lr(step, tick, lr, final),
            lr_1d=self._lr(step, tick, lr_1d, final * lr_1d / lr),
            weight_decay=self._weight_decay(tick),
        )

    def _lr(self, step: int, tick: int, peak: float, final: float) -> float:
        milestones = self._schedule.milestones
        if milestones and tick >= self._warmup:
            return milestone_lr(step // self._steps_per_epoch, base=peak, milestones=milestones)
        return warmup_cosine(
            tick,
            total_steps=self._count,
            warmup_steps=self._warmup,
            peak=peak,
            final=final,
            convention=self._convention,
        )

    def _weight_decay(self, tick: int) -> float:
        """A cosine over the whole run, without warm-up, where the recipe has an end value."""
        start, end = self._optimizer.weight_decay, self._optimizer.final_weight_decay
        if end is None:
            return start
        return cosine(tick, count=self._count, start=start, end=end, reaches=self._convention.reaches)

"""The numbers of a run on their way to metrics.jsonl and W&B."""

from __future__ import annotations

import math
from collections.abc import Callable

from scarce_cli.engine.job import Job, StepReport
from scarce_cli.engine.state import TrainState
from scarce_cli.engine.tracking import Tracker
from scarce_cli.runs import MetricsLog


class Records:
    """Logs steps now and then, and the mean of every metric once an epoch."""

    def __init__(self, job: Job, state: TrainState, warn: Callable[[str], None]) -> None:
        """Open the log; what a rolled-back run logged after ``state.step`` is dropped.

        The sums of the running epoch belong to the state, so that a run stopped in mid-epoch logs the same mean.
        """
        self._every = job.config.run.log_steps
        self._sums = state.epoch_sums
        self._log = MetricsLog(job.run.metrics, from_step=state.step)
        self._tracker = Tracker(job.wandb, job.run.path, job.config.model_dump(mode="json"), warn)

    def step(self, report: StepReport) -> None:
        """One step."""
        values = {
            "loss": report.loss,
            "lr": report.lr,
            "images_per_s": report.images_per_s,
            **report.scalars,
        }
        for name, value in values.items():
            total = self._sums.setdefault(name, [0.0, 0.0])
            if math.isfinite(value):
                total[0] += value
                total[1] += 1
        if report.step % self._every == 0 or report.step == report.total_steps:
            self._log.write("step", {"step": report.step, "epoch": report.epoch, **values})
            self._tracker.log(values, report.step)

    def epoch(self, step: int, epoch: int, more: dict[str, float]) -> dict[str, float]:
        """The end of an epoch; returns what was logged: means over its steps, and ``more``."""
        values = {name: _mean(*sums) for name, sums in self._sums.items()} | more
        self._sums.clear()
        self._log.write("epoch", {"step": step, "epoch": epoch, **values})
        self._tracker.log({f"epoch/{name}": value for name, value in values.items()}, step)
        return values

    def close(self) -> None:
        """The end of the run, however it came."""
        self._log.close()
        self._tracker.finish()


def _mean(total: float, count: float) -> float:
    """Over the finite values; NaN where there was none."""
    return total / count if count else math.nan

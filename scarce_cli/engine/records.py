"""The numbers of a run on their way to metrics.jsonl and W&B."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from scarce_cli.engine.job import Job, StepReport
from scarce_cli.engine.tracking import Tracker
from scarce_cli.runs import MetricsLog


class Records:
    """Logs steps now and then, and the mean of every metric once an epoch."""

    def __init__(self, job: Job, *, from_step: int, warn: Callable[[str], None]) -> None:
        """Open the log; what a rolled-back run logged after ``from_step`` is dropped."""
        self._every = job.config.run.log_steps
        self._log = MetricsLog(job.run.metrics, from_step=from_step)
        self._tracker = Tracker(job.wandb, job.run.path, job.config.model_dump(), warn)
        self._sums: dict[str, list[float]] = {}

    def step(self, report: StepReport) -> None:
        """One step."""
        values = {
            "loss": report.loss,
            "lr": report.lr,
            "images_per_s": report.images_per_s,
            **report.scalars,
        }
        for name, value in values.items():
            self._sums.setdefault(name, []).append(value)
        if report.step % self._every == 0 or report.step == report.total_steps:
            self._log.write("step", {"step": report.step, "epoch": report.epoch, **values})
            self._tracker.log(values, report.step)

    def epoch(self, step: int, epoch: int, more: dict[str, float]) -> dict[str, float]:
        """The end of an epoch; returns what was logged: means over its steps, and ``more``."""
        values = {name: _finite_mean(numbers) for name, numbers in self._sums.items()} | more
        self._sums.clear()
        self._log.write("epoch", {"step": step, "epoch": epoch, **values})
        self._tracker.log({f"epoch/{name}": value for name, value in values.items()}, step)
        return values

    def close(self) -> None:
        """The end of the run, however it came."""
        self._log.close()
        self._tracker.finish()


def _finite_mean(numbers: list[float]) -> float:
    finite = [n for n in numbers if np.isfinite(n)]
    return sum(finite) / len(finite) if finite else float("nan")

"""The numbers of a run on their way to metrics.jsonl, the curves, the run's README, W&B and TensorBoard."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from scarce_cli.engine.distributed import is_writer
from scarce_cli.engine.estimate import Estimate
from scarce_cli.engine.job import Job, Look, StepReport
from scarce_cli.engine.seen import Seen
from scarce_cli.engine.state import TrainState
from scarce_cli.engine.tensorboard import TensorBoard
from scarce_cli.engine.tracking import Tracker
from scarce_cli.engine.views import Batches
from scarce_cli.errors import ResourceError
from scarce_cli.evaluation.collapse import RANDOM, READING, random_line, reading_line
from scarce_cli.runs import MetricsLog, record_skipped

_SPEED = "images_per_s"
_SPEED_SUMS = "films/seconds"  # among the sums of an epoch, instead of it


class Records:
    """Logs steps now and then, and the mean of every metric once an epoch. Only one of several ranks writes."""

    def __init__(self, job: Job, state: TrainState, batches: Batches, warn: Callable[[str], None]) -> None:
        """Open the log; what a rolled-back run logged after ``state.step`` is dropped.

        The sums of the running epoch belong to the state, so that a run stopped in mid-epoch logs the same mean.
        """
        self._job, self._state, self._batches = job, state, batches
        self._warn = warn
        self._every = job.config.run.log_steps
        self._sums = state.epoch_sums
        self._sums.pop(_SPEED, None)  # an older checkpoint's, of rates: the epoch's speed is that of the steps to come
        self._writes = is_writer()
        if not self._writes:
            return
        self._log = MetricsLog(job.run.metrics, from_step=state.step)
        self._seen = Seen(job, state, batches.total, warn)
        config = job.config.model_dump(mode="json")
        self._trackers = (
            Tracker(job.wandb, job.run.path, config, warn, logged=self._log.logged),
            TensorBoard(job.run.tensorboard if job.tensorboard else None, from_step=state.step, warn=warn),
        )

    def step(self, report: StepReport) -> None:
        """One step."""
        films = float(self._job.config.run.batch_size)
        values = {
            "loss": report.loss,
            "lr": report.lr,
            "weight_decay": report.weight_decay,
            _SPEED: report.images_per_s,
            **report.scalars,
        }
        for name, value in values.items():
            key, part, weight = (name, value, 1.0) if name != _SPEED else (_SPEED_SUMS, films, films / value)
            total = self._sums.setdefault(key, [0.0, 0.0])
            if math.isfinite(part):
                total[0] += part
                total[1] += weight
        if self._writes and (report.step % self._every == 0 or report.step == report.total_steps):
            self._write("step", {"step": report.step, "epoch": report.epoch, **values})
            self._track(values, report.step)

    def epoch(self, step: int, epoch: int, more: dict[str, float]) -> dict[str, float]:
        """The end of an epoch; returns what was logged: means of its steps, films by seconds, and ``more``."""
        means = {name: _mean(*sums) for name, sums in self._sums.items()}
        values = {_SPEED if name == _SPEED_SUMS else name: mean for name, mean in means.items()} | more
        self._sums.clear()
        if self._writes:
            self._write("epoch", {"step": step, "epoch": epoch, **values})
            self._track({f"epoch/{name}": value for name, value in values.items()}, step)
            self._seen.epoch(values)
        return values

    def collapse(self, look: Look, *, epoch: float) -> None:
        """What a look at the encoder found."""
        if not self._writes:
            return
        if look.random is not None:
            self._log.write(RANDOM, random_line(look.random))
        line, verdict = reading_line(look.reading), look.verdict
        self._write(READING, {**line, "epoch": epoch, "verdict": verdict.state, "failure": verdict.failure})
        numbers = {f"collapse/{k}": v for k, v in line.items() if isinstance(v, int | float) and k != "step"}
        self._track(numbers, look.reading.step)
        self._seen.verdict(verdict)

    def skipped(self, step: int, what: str) -> Sequence[str]:
        """A step that could not be taken, 1 the first: its batch is recorded. Returns the names of its films."""
        rows = self._batches.whole(step - 1)
        films = [self._job.cache.names[row] for row in rows]
        if self._writes:
            try:
                record_skipped(self._job.run, step=step, what=what, films=films, rows=rows.tolist())
            except ResourceError as error:  # the run is worth more than this line
                self._warn(f"not recorded: {error.message}")
        return films

    def measured(self, estimate: Estimate) -> None:
        """What the run needs and costs."""
        if self._writes:
            self._seen.measured(estimate)

    def ended(self, how: str) -> None:
        """How the session ended, in words."""
        if self._writes:
            self._seen.ended(how)

    def close(self) -> None:
        """The end of the run, however it came."""
        if self._writes:
            self._log.close()
            for tracker in self._trackers:
                tracker.finish()

    def _track(self, values: dict[str, float], step: int) -> None:
        for tracker in self._trackers:
            tracker.log(values, step)

    def _write(self, kind: str, values: Mapping[str, Any]) -> None:
        self._log.write(kind, values)
        self._seen.add({"kind": kind, **values})


def _mean(total: float, count: float) -> float:
    """Over the finite values; NaN where there was none."""
    return total / count if count else math.nan

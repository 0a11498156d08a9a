"""The training loop. It knows no method by name: views in, loss out, backward, step, log, save."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from enum import Enum

import numpy as np
import torch
from torch import Tensor

from scarce_cli.data.augment import View, draw_parameters, make_view
from scarce_cli.data.loader import load_films
from scarce_cli.data.order import batch_rows, epoch_order, steps_per_epoch
from scarce_cli.engine.device import autocast, memory_guard
from scarce_cli.engine.job import Job, Observer, StepReport
from scarce_cli.engine.optim import clip_gradients, set_values
from scarce_cli.engine.plan import Plan, StepValues
from scarce_cli.engine.records import Records
from scarce_cli.engine.signals import StopRequest
from scarce_cli.engine.start import build_state
from scarce_cli.engine.state import restore_newest, running_statistics, save_run, save_snapshot
from scarce_cli.errors import Diverged, Interrupted, ResourceError
from scarce_cli.evaluation.collapse import quick_metrics
from scarce_cli.methods.base import Progress, StepOutput

_BAD_STEPS = 10  # non-finite losses in a row that end a run
_FAILED_SAVES = 3  # in a row that end a run
_LEAST_SCALE = 1.0  # of the fp16 loss: below, gradients no longer fit whatever the scale


class Outcome(Enum):
    """What became of a step."""

    TAKEN = "taken"
    RESCALED = "rescaled"  # left out by fp16's scaler, which lowered its scale: usual on the first steps
    BAD = "bad"  # the loss or a gradient is not finite


class Trainer:
    """Runs a `Job` from where it stands to its end."""

    def __init__(self, job: Job, observer: Observer) -> None:
        """Build everything; nothing is written yet.

        Raises:
            UsageError: fewer films than a batch, or settings or first weights that do not fit each other.
            UnsafeInput, DamagedData: the first weights cannot be used.
            ResourceError: the network does not fit into memory.
        """
        self.job = job
        self.observer = observer
        self.steps_per_epoch = steps_per_epoch(len(job.cache.names), job.config.run.batch_size)
        self.total_steps = job.config.run.epochs * self.steps_per_epoch
        self.plan = Plan(job.config, self.steps_per_epoch)
        with memory_guard(job.config):
            self.state = build_state(job)
        self.specs = self.state.method.view_specs(job.config.data.size, job.config.augment)
        self._saved_step = self._tried_step = 0
        self._tried_time = time.monotonic()
        self._failed_saves = 0

    def train(self) -> None:
        """Go to the end of the run.

        Raises:
            Interrupted: after Ctrl-C or SIGTERM, with a checkpoint written.
            Diverged: ten non-finite losses in a row, a loss scale that collapsed, or not one step taken in the run.
            ResourceError: the device's memory or the disk is full.
        """
        if self.job.resume:
            self._resume()
        self._saved_step = self._tried_step = self.state.step
        records = Records(self.job, self.state, self.observer.warned)
        try:
            self.observer.started(
                total_steps=self.total_steps,
                from_step=self.state.step,
                parameters=sum(p.numel() for _, p in self.state.method.trained_parameters()),
            )
            with StopRequest() as request:
                self._loop(request, records)
        finally:
            self.observer.ended()
            records.close()

    def _resume(self) -> None:
        for warning in restore_newest(self.job.run, self.job.identity, self.state):
            self.observer.warned(warning)

    def _loop(self, request: StopRequest, records: Records) -> None:
        for rows in self._remaining_batches():
            report, output = self._timed_step(rows)
            self.observer.stepped(report)
            records.step(report)
            if self.state.step % self.steps_per_epoch == 0:
                self._end_epoch(output, records)
            if request.stop is not None:
                self._stop(request.stop)
            self._save_if_due()
        if self._saved_step < self.state.step or not self.job.run.last.is_file():
            self._save()

    def _remaining_batches(self) -> Iterator[np.ndarray]:
        run, films = self.job.config.run, len(self.job.cache.names)
        while self.state.step < self.total_steps:
            epoch, first = divmod(self.state.step, self.steps_per_epoch)
            order = epoch_order(films, seed=run.seed, epoch=epoch)
            for index in range(first, self.steps_per_epoch):
                yield batch_rows(order, run.batch_size, index)

    def _timed_step(self, rows: np.ndarray) -> tuple[StepReport, StepOutput]:
        start = time.perf_counter()
        values = self.plan.at(self.state.step)
        output, loss = self._step(rows, values)
        self.state.step += 1
        report = StepReport(
            step=self.state.step,
            total_steps=self.total_steps,
            epoch=self.state.step / self.steps_per_epoch,
            loss=loss,
            lr=values.lr,
            images_per_s=len(rows) / (time.perf_counter() - start),
            scalars={name: float(value) for name, value in output.scalars.items()},
        )
        return report, output

    def _step(self, rows: np.ndarray, values: StepValues) -> tuple[StepOutput, float]:
        state, config = self.state, self.job.config
        progress = Progress(state.step, self.total_steps, self.steps_per_epoch)
        generator = torch.Generator(self.job.device)
        generator.manual_seed(int(np.random.SeedSequence((config.run.seed, state.step)).generate_state(1)[0]))
        state.method.train()
        set_values(state.optimizer, values)
        statistics = running_statistics(state.method)
        before = [values.clone() for values in statistics]
        with memory_guard(config):
            views = self._views(rows, progress.epoch)
            with autocast(self.job.device, config.run.precision):
                output: StepOutput = state.method(views, progress, generator)
            loss = float(output.loss.detach())
            outcome = self._update(output.loss, progress) if math.isfinite(loss) else Outcome.BAD
        if outcome is not Outcome.TAKEN:
            for now, old in zip(statistics, before, strict=True):
                now.copy_(old)
        self._count(outcome, loss, rows)
        return output, loss

    def _views(self, rows: np.ndarray, epoch: int) -> list[View]:
        films, data = load_films(self.job.cache, rows, self.job.device), self.job.config.data
        views = []
        for number, spec in enumerate(self.specs):
            parameters = draw_parameters(
                spec.augment,
                self.job.cache.size,
                seed=self.job.config.run.seed,
                epoch=epoch,
                films=rows,
                view=number,
            )
            views.append(make_view(films, spec.augment, parameters, size=spec.size, mean=data.mean, std=data.std))
        return views

    def _update(self, loss: Tensor, progress: Progress) -> Outcome:
        """Move the weights, and what the method moves with them; neither when a gradient is not finite."""
        state = self.state
        state.optimizer.zero_grad(set_to_none=True)
        state.scaler.scale(loss).backward()
        state.scaler.unscale_(state.optimizer)
        norm = clip_gradients(state.optimizer, self.job.config.optimizer)
        state.method.after_backward(progress)
        if not torch.isfinite(norm):
            return self._rescale()
        state.scaler.step(state.optimizer)
        state.scaler.update()
        state.method.after_step(progress, torch.ones((), dtype=torch.bool, device=self.job.device))
        return Outcome.TAKEN

    def _rescale(self) -> Outcome:
        """Let fp16's scaler lower its scale; where that is not what the gradients are too large for, they are bad."""
        scaler = self.state.scaler
        if not scaler.is_enabled():
            return Outcome.BAD
        before = scaler.get_scale()
        scaler.update()
        if scaler.get_scale() < _LEAST_SCALE:
            raise self._diverged(f"the scale of the fp16 loss fell below {_LEAST_SCALE:g}", "--set run.precision=bf16")
        return Outcome.RESCALED if scaler.get_scale() < before else Outcome.BAD

    def _count(self, outcome: Outcome, loss: float, rows: np.ndarray) -> None:
        """Fail before damage: what is not finite never reached the weights; too often, and the run ends."""
        state = self.state
        if outcome is Outcome.RESCALED:  # neither good nor bad: a scale that never fits ends the run by itself
            state.rescaled_steps += 1
            return
        state.bad_in_a_row = 0 if outcome is Outcome.TAKEN else state.bad_in_a_row + 1
        if outcome is Outcome.TAKEN:
            return
        state.bad_steps += 1
        films = ", ".join(self.job.cache.names[row] for row in rows[:3])
        what = "a gradient is not finite" if math.isfinite(loss) else f"the loss is {loss}"
        self.observer.warned(f"step {state.step + 1}: {what}; skipped (films {films}, …)")
        if state.bad_in_a_row >= _BAD_STEPS:
            raise self._diverged(
                f"{what}, {_BAD_STEPS} steps in a row", "lower optimizer.lr, or --set run.precision=fp32"
            )

    def _diverged(self, what: str, remedy: str) -> Diverged:
        last = self.job.run.last
        good = f"the last good state is {last}" if last.is_file() else f"nothing was saved yet in {self.job.run.path}"
        return Diverged(f"{what}, at step {self.state.step + 1}; {good}", remedy)

    def _check_learned(self) -> None:
        """At the end of the run: Diverged when no step was taken, so that untouched weights never pass for trained."""
        state = self.state
        if state.step == self.total_steps and state.bad_steps + state.rescaled_steps >= state.step:
            raise Diverged(
                f"none of the {state.step} steps could be taken: losses or gradients were not finite",
                "lower optimizer.lr, --set run.precision=fp32, or train for more epochs",
            )

    def _end_epoch(self, output: StepOutput, records: Records) -> None:
        run, epoch = self.job.config.run, self.state.step // self.steps_per_epoch
        more = {} if output.embeddings_ND is None else quick_metrics(output.embeddings_ND)
        self.observer.epoch_ended(epoch, records.epoch(self.state.step, epoch, more))
        self._check_learned()
        if epoch % run.snapshot_epochs == 0 or epoch == run.epochs:
            self._try_save(lambda: save_snapshot(self.job.run.snapshot(epoch), self.job.identity, self.state, epoch))

    def _save_if_due(self) -> None:
        run = self.job.config.run
        minutes = (time.monotonic() - self._tried_time) / 60
        if self.state.step - self._tried_step >= run.checkpoint_steps or minutes >= run.checkpoint_minutes:
            self._tried_step, self._tried_time = self.state.step, time.monotonic()
            self._try_save(self._save)

    def _save(self) -> None:
        save_run(self.job.run, self.job.identity, self.state, self.state.step // self.steps_per_epoch)
        self._saved_step = self.state.step

    def _try_save(self, action: Callable[[], None]) -> None:
        """A save that fails in mid-run is a warning; the third in a row, or the last of the run, is not."""
        try:
            action()
        except ResourceError as error:
            self._failed_saves += 1
            if self._failed_saves >= _FAILED_SAVES:
                raise
            self.observer.warned(f"not saved: {error.message}")
        else:
            self._failed_saves = 0

    def _stop(self, signal: KeyboardInterrupt) -> None:
        self._save()
        raise Interrupted.by(
            signal,
            f"stopped after step {self.state.step} of {self.total_steps}; everything is in {self.job.run.last}",
            "go on with the same command and --resume",
        )

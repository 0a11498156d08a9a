"""The training loop. It knows no method by name: views in, loss out, backward, step, log, save."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from scarce_cli.data.augment import View, draw_parameters, make_view
from scarce_cli.data.loader import load_films
from scarce_cli.data.order import batch_rows, epoch_order, steps_per_epoch
from scarce_cli.engine.device import autocast, grad_scaler
from scarce_cli.engine.job import Job, Observer, StepReport
from scarce_cli.engine.optim import build_optimizer, clip_gradients, set_lr
from scarce_cli.engine.records import Records
from scarce_cli.engine.schedule import warmup_cosine
from scarce_cli.engine.signals import StopRequest
from scarce_cli.engine.state import TrainState, restore_newest, save_run, save_snapshot
from scarce_cli.errors import Diverged, Interrupted, ResourceError
from scarce_cli.evaluation.collapse import quick_metrics
from scarce_cli.methods.base import Progress, StepOutput
from scarce_cli.models.resnet import build_encoder

_BAD_STEPS = 10  # non-finite losses in a row that end a run


def build_state(job: Job) -> TrainState:
    """Encoder, method and optimizer at step 0; the weights are fixed by the seed alone."""
    config = job.config
    encoder = build_encoder(
        config.model.backbone,
        seed=config.run.seed,
        gradient_checkpointing=config.model.gradient_checkpointing,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.run.seed + 1)
        method = job.method_class.build(encoder, job.method_settings, config.data.size)
    # Channels last: 1.5 to 1.7 times the steps per second on two CPU cores, and what tensor cores want.
    method.to(job.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return TrainState(
        method=method,
        optimizer=build_optimizer(method.trained_parameters(), config.optimizer),
        scaler=grad_scaler(job.device, config.run.precision),
    )


class Trainer:
    """Runs a `Job` from where it stands to its end."""

    def __init__(self, job: Job, observer: Observer) -> None:
        """Build everything; nothing is written yet.

        Raises:
            UsageError: fewer films than a batch, or settings that do not fit each other.
        """
        self.job = job
        self.observer = observer
        run, schedule = job.config.run, job.config.schedule
        self.steps_per_epoch = steps_per_epoch(len(job.cache.names), run.batch_size)
        self.total_steps = run.epochs * self.steps_per_epoch
        self.warmup_steps = round(schedule.warmup_epochs * self.steps_per_epoch)
        self.state = build_state(job)
        self.specs = self.state.method.view_specs(job.config.data.size, job.config.augment)
        self._saved_step, self._saved_time = 0, time.monotonic()

    def train(self) -> None:
        """Go to the end of the run.

        Raises:
            Interrupted: after Ctrl-C or SIGTERM, with a checkpoint written.
            Diverged: ten non-finite losses in a row.
            ResourceError: the device's memory or the disk is full.
        """
        if self.job.resume:
            self._resume()
        records = Records(self.job, from_step=self.state.step, warn=self.observer.warned)
        self._saved_step = self.state.step
        self.observer.started(
            total_steps=self.total_steps,
            from_step=self.state.step,
            parameters=sum(p.numel() for _, p in self.state.method.trained_parameters()),
        )
        try:
            with StopRequest() as request:
                self._loop(request, records)
        finally:
            self.observer.ended()
            records.close()

    def _resume(self) -> None:
        restored = restore_newest(self.job.run, self.job.identity, self.state)
        for warning in restored:
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
        save_run(self.job.run, self.job.identity, self.state, self.job.config.run.epochs)

    def _remaining_batches(self) -> Iterator[np.ndarray]:
        run, films = self.job.config.run, len(self.job.cache.names)
        while self.state.step < self.total_steps:
            epoch, first = divmod(self.state.step, self.steps_per_epoch)
            order = epoch_order(films, seed=run.seed, epoch=epoch)
            for index in range(first, self.steps_per_epoch):
                yield batch_rows(order, run.batch_size, index)

    def _timed_step(self, rows: np.ndarray) -> tuple[StepReport, StepOutput]:
        start = time.perf_counter()
        lr = self._lr()
        output, loss = self._step(rows, lr)
        self.state.step += 1
        report = StepReport(
            step=self.state.step,
            total_steps=self.total_steps,
            epoch=self.state.step / self.steps_per_epoch,
            loss=loss,
            lr=lr,
            images_per_s=len(rows) / (time.perf_counter() - start),
            scalars={name: float(value) for name, value in output.scalars.items()},
        )
        return report, output

    def _lr(self) -> float:
        return warmup_cosine(
            self.state.step,
            total_steps=self.total_steps,
            warmup_steps=self.warmup_steps,
            peak=self.job.config.optimizer.lr,
            final=self.job.config.schedule.final_lr,
        )

    def _step(self, rows: np.ndarray, lr: float) -> tuple[StepOutput, float]:
        state, config = self.state, self.job.config
        progress = Progress(state.step, self.total_steps, self.steps_per_epoch)
        generator = torch.Generator(self.job.device)
        generator.manual_seed(int(np.random.SeedSequence((config.run.seed, state.step)).generate_state(1)[0]))
        state.method.train()
        set_lr(state.optimizer, lr)
        try:
            views = self._views(rows, progress.epoch)
            with autocast(self.job.device, config.run.precision):
                output: StepOutput = state.method(views, progress, generator)
            loss = float(output.loss.detach())
            if self._is_good(loss, rows):
                self._update(output.loss, progress)
        except torch.OutOfMemoryError:
            raise self._out_of_memory() from None
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

    def _update(self, loss: Tensor, progress: Progress) -> None:
        state = self.state
        state.optimizer.zero_grad(set_to_none=True)
        state.scaler.scale(loss).backward()
        state.scaler.unscale_(state.optimizer)
        state.method.after_backward(progress)
        clip_gradients(state.optimizer, self.job.config.optimizer.clip_norm)
        state.scaler.step(state.optimizer)
        state.scaler.update()
        state.method.after_step(progress)

    def _is_good(self, loss: float, rows: np.ndarray) -> bool:
        """Fail before damage: a non-finite loss never reaches the weights."""
        if np.isfinite(loss):
            self.state.bad_in_a_row = 0
            return True
        self.state.bad_in_a_row += 1
        self.state.bad_steps += 1
        films = ", ".join(self.job.cache.names[row] for row in rows[:3])
        self.observer.warned(f"step {self.state.step}: the loss is {loss}; skipped (films {films}, …)")
        if self.state.bad_in_a_row >= _BAD_STEPS:
            raise Diverged(
                f"the loss was not finite {_BAD_STEPS} times in a row, at step {self.state.step}",
                f"the last good state is {self.job.run.last}; lower optimizer.lr, or --set run.precision=fp32",
            )
        return False

    def _out_of_memory(self) -> ResourceError:
        batch = self.job.config.run.batch_size
        return ResourceError(
            f"the device ran out of memory at batch {batch}, {self.job.config.data.size} px",
            f"--set run.batch_size={batch // 2}, or --set model.gradient_checkpointing=true",
        )

    def _end_epoch(self, output: StepOutput, records: Records) -> None:
        run, epoch = self.job.config.run, self.state.step // self.steps_per_epoch
        more = {} if output.embeddings_ND is None else quick_metrics(output.embeddings_ND)
        self.observer.epoch_ended(epoch, records.epoch(self.state.step, epoch, more))
        if epoch % run.snapshot_epochs == 0 or epoch == run.epochs:
            self._try_save(lambda: save_snapshot(self.job.run.snapshot(epoch), self.job.identity, self.state, epoch))

    def _save_if_due(self) -> None:
        run = self.job.config.run
        minutes = (time.monotonic() - self._saved_time) / 60
        steps = self.state.step - self._saved_step
        if steps < run.checkpoint_steps and minutes < run.checkpoint_minutes:
            return
        self._try_save(self._save)

    def _save(self) -> None:
        epoch = self.state.step // self.steps_per_epoch
        save_run(self.job.run, self.job.identity, self.state, epoch)
        self._saved_step, self._saved_time = self.state.step, time.monotonic()

    def _try_save(self, action: Callable[[], None]) -> None:
        """A save that fails in mid-run is a warning; the last one at the end is not."""
        try:
            action()
        except ResourceError as error:
            self.observer.warned(f"not saved: {error.message}")
            self._saved_time = time.monotonic()

    def _stop(self, signal: KeyboardInterrupt) -> None:
        self._save()
        raise Interrupted.by(
            signal,
            f"stopped after step {self.state.step} of {self.total_steps}; everything is in {self.job.run.last}",
            "go on with the same command and --resume",
        )

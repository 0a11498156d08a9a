"""The training loop. It knows no method by name: views in, loss out, backward, step, log, save."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from scarce_cli.engine.device import memory_guard
from scarce_cli.engine.distributed import as_the_writer, first_the_writer, wait_for_all
from scarce_cli.engine.guard import Guard
from scarce_cli.engine.job import Job, Observer, StepReport
from scarce_cli.engine.ledger import Entry, Ledger
from scarce_cli.engine.measure import Gauge
from scarce_cli.engine.monitor import Monitor
from scarce_cli.engine.records import Records
from scarce_cli.engine.saving import Saver
from scarce_cli.engine.signals import StopRequest
from scarce_cli.engine.start import build_state
from scarce_cli.engine.state import restore_newest
from scarce_cli.engine.step import LOSS, OWN, STOP, Stepper
from scarce_cli.engine.views import Batches, ViewMaker
from scarce_cli.errors import Interrupted, Terminated, in_words
from scarce_cli.evaluation.collapse import Verdict, quick_metrics
from scarce_cli.models.ranks import world_size


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
        self.batches = Batches(job)
        self.steps_per_epoch, self.total_steps = self.batches.per_epoch, self.batches.total
        with memory_guard(job.config):
            self.state = build_state(job)
            specs = self.state.method.view_specs(job.config.data.size, job.config.augment)
            self._stepper = Stepper(job, self.state, total_steps=self.total_steps, steps_per_epoch=self.steps_per_epoch)
            self._views = ViewMaker(job, specs, self.batches)
        self._largest_view = max(spec.size for spec in specs)
        self._ledger = Ledger(job.device)
        self._gauge = Gauge(job, self.state, self.batches)
        self._asked_at: int | None = None  # the step at which any of several ranks asked to stop
        self._fallen: Verdict | None = None  # what ends the run
        self._all_stopped = False  # for it, on all ranks

    def train(self) -> None:
        """Go to the end of the run.

        Raises:
            Interrupted: after Ctrl-C or SIGTERM, with a checkpoint written.
            Diverged: ten non-finite losses in a row, a loss scale that collapsed, weights that are not finite, or not
                one step taken in the run.
            ResourceError: the device's memory or the disk is full.
            DamagedData: the cache was cut while it was read.
            Collapsed: the monitor's verdict, with a checkpoint written, where the settings say that it stops a run.
        """
        if self.job.resume:
            self._resume()
        if self._largest_view > self.job.cache.size:
            self.observer.warned(
                f"views of {self._largest_view} px are made from films of {self.job.cache.size} px: larger, not sharper"
            )
        self._saver = Saver(self.job, self.state, self.observer.warned, self.steps_per_epoch)
        records = Records(self.job, self.state, self.batches, self.observer.warned)
        self._guard = Guard(self.job, self.state, records.skipped)
        self._monitor = Monitor(self.job, self.state, self.total_steps)
        try:
            self.observer.started(
                total_steps=self.total_steps,
                from_step=self.state.step,
                parameters=self.state.parameters,
            )
            with StopRequest(at_once=world_size() == 1) as request:
                self._loop(request, records)
            records.ended("finished")
        except BaseException as error:
            self._tell(records, error)
            raise
        finally:
            self.observer.ended()
            records.close()
            if self._all_stopped:  # the first to leave ends the others, and the writer has the most to do
                wait_for_all()

    def _tell(self, records: Records, error: BaseException) -> None:
        """How the run ended; what cannot be told is a warning, so that it never hides why the run ended."""
        try:
            records.ended(in_words(error))
        except Exception as another:
            self.observer.warned(f"the end is not in the run's README: {in_words(another)}")

    def _resume(self) -> None:
        with first_the_writer():  # who sets a damaged checkpoint aside
            warnings = restore_newest(self.job.run, self.job.identity, self.state, override=self.job.override)
        for warning in warnings:
            self.observer.warned(warning)

    def _loop(self, request: StopRequest, records: Records) -> None:
        if self.state.step == 0:
            self._look(records, request)
        self._ledger.start()
        while self.state.step < self.total_steps:
            embeddings_ND = self._step(request)
            request.at_once = False  # from now on there is something to save
            self._hear(self._ledger.ready(), records, request)
            self._look(records, request)  # before anything is saved, so that it is saved too
            if self.state.step % self.steps_per_epoch == 0:
                self._hear(self._ledger.rest(), records, request)
                self._end_epoch(embeddings_ND, records)
            if self._saver.due:
                self._hear(self._ledger.rest(), records, request)
                self._saver.save_in_passing()
            if request.stop is not None and (world_size() == 1 or self._all_know):  # also during the save
                self._hear(self._ledger.rest(), records, request)
                self._stop(request.stop)
        if self._saver.behind:
            self._saver.save()
        self._end_collapsed()

    def _look(self, records: Records, request: StopRequest) -> None:
        """When it is time: look at the encoder, and ask for the end of a run that has collapsed."""
        if not self._monitor.due:
            return
        self._hear(self._ledger.rest(), records, request)
        with memory_guard(self.job.config):
            look = self._monitor.look()
        if look is not None:
            records.collapse(look, epoch=self.state.step / self.steps_per_epoch)
            self.observer.looked(look)
            if look.stops:
                self._fallen, request.stop = look.verdict, request.stop or Terminated()
        self.state.seconds += self._ledger.start()  # it is paid for, but no part of a step

    @property
    def _all_know(self) -> bool:
        """Whether every rank has heard that one asked to stop, also those that read no earlier than they have to."""
        return self._asked_at is not None and self.state.step >= self._asked_at + self._ledger.lag

    def _step(self, request: StopRequest) -> Tensor | None:
        """Hand one step to the device; returns the method's embeddings, still there."""
        step = self.state.step
        with memory_guard(self.job.config):
            taken = self._stepper.take(step, self._views.take(step), stop=request.stop is not None)
            self._views.prepare(step + 1)
        self.state.step += 1
        self._ledger.add(self.state.step, taken)
        return taken.embeddings_ND

    def _hear(self, entries: Iterable[Entry], records: Records, request: StopRequest) -> None:
        """Tell everyone what has been read of past steps."""
        for entry in entries:
            self.state.seconds += entry.seconds
            if (estimate := self._gauge.hear(entry)) is not None:
                self.observer.measured(estimate)
                records.measured(estimate)
            if (warning := self._guard.hear(entry)) is not None:
                self.observer.warned(warning)
            report = self._report(entry)
            self.observer.stepped(report)
            records.step(report)
            self._monitor.hear(report)
            if entry.values[STOP] > 0:
                self._asked_at = self._asked_at or entry.step
                request.stop = request.stop or Terminated()

    def _report(self, entry: Entry) -> StepReport:
        return StepReport(
            step=entry.step,
            total_steps=self.total_steps,
            epoch=entry.step / self.steps_per_epoch,
            loss=entry.values[LOSS],
            lr=entry.lr,
            weight_decay=entry.weight_decay,
            images_per_s=self.job.config.run.batch_size / entry.seconds,
            seconds=self.state.seconds,
            scalars={name: value for name, value in entry.values.items() if name not in OWN},
        )

    def _end_epoch(self, embeddings_ND: Tensor | None, records: Records) -> None:
        run, epoch = self.job.config.run, self.state.step // self.steps_per_epoch
        more = {} if embeddings_ND is None else quick_metrics(embeddings_ND)
        self.observer.epoch_ended(epoch, records.epoch(self.state.step, epoch, more))
        self._guard.check_learned(self.total_steps)
        if epoch % run.snapshot_epochs == 0 or epoch == run.epochs:
            self._saver.keep_encoder(epoch)
        self.state.seconds += self._ledger.start()  # it is paid for, but no part of a step

    def _stop(self, signal: KeyboardInterrupt) -> None:
        if self._saver.behind:
            self._saver.save()
        self._end_collapsed()
        raise Interrupted.by(
            signal,
            f"stopped after step {self.state.step} of {self.total_steps}; everything is in {self.job.run.last}",
            "go on with the same command and --resume",
        )

    def _end_collapsed(self) -> None:
        """Raise Collapsed on all ranks where the writer, which alone looks, found the run collapsed."""
        if as_the_writer(self._fallen is not None):
            self._all_stopped = True
            raise self._monitor.error(self._fallen)

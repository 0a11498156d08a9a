"""How a training run looks in the terminal: a summary, a bar, a line for each epoch, and what it costs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scarce_cli.commands.console import harmless, progress_bar, stderr, warn
from scarce_cli.engine.estimate import Estimate
from scarce_cli.engine.job import Job, Look, Observer, StepReport
from scarce_cli.engine.price import bytes_in_words, dollars, hours
from scarce_cli.evaluation.collapse import Verdict

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_SMOOTHING = 0.9  # of the images per second that are shown
_SECONDS = 3600.0


class TrainingView(Observer):
    """Shows a run to a person."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._bar: Progress = progress_bar("steps")
        self._task: TaskID | None = None
        self._rate = 0.0
        self._verdict: Verdict | None = None
        self._seconds = 0.0  # of training, over all sessions

    def started(self, *, total_steps: int, from_step: int, parameters: int) -> None:
        """Print what will be done, open the bar."""
        from rich.markup import escape

        config, cache = self._job.config, self._job.cache
        epochs = "1 epoch" if config.run.epochs == 1 else f"{config.run.epochs} epochs"
        going_on = f", going on after step {from_step}" if from_step else ""
        if config.model.init and not from_step:
            going_on = f", starting from {escape(harmless(config.model.init))}"
        self._line(
            f"[bold]{self._job.identity.method}[/bold] {config.model.backbone}, {config.data.size} px, "
            f"{parameters / 1e6:.1f} million weights, {config.run.precision} on {self._job.device}\n"
            f"{len(cache.names)} films of {cache.folder}, {epochs}, batch "
            f"{config.run.batch_size}, {total_steps} steps{going_on}; run {self._job.run.path}"
        )
        self._task = self._bar.add_task("training", total=total_steps, completed=from_step, note="")
        self._bar.start()

    def measured(self, estimate: Estimate) -> None:
        """What the run needs and will cost, once it is known."""
        cost = f", {dollars(estimate.dollars)}" if estimate.dollars_per_hour else ""
        self._line(
            f"{estimate.images_per_s:.0f} images/s: {hours(estimate.hours)} for the whole run{cost}; memory "
            f"{bytes_in_words(estimate.peak_bytes)} of {bytes_in_words(estimate.memory_bytes)}, disk "
            f"{bytes_in_words(estimate.disk_bytes)}"
        )

    def stepped(self, report: StepReport) -> None:
        """Move the bar."""
        assert self._task is not None
        self._seconds = report.seconds
        keep = _SMOOTHING if self._rate else 0.0
        self._rate = keep * self._rate + (1 - keep) * report.images_per_s
        left = (report.total_steps - report.step) * self._job.config.run.batch_size / self._rate
        state = f"  {self._verdict.state}" if self._verdict is not None else ""
        note = f"loss {report.loss:.4f}  lr {report.lr:.1e}{state}  {self._rate:.0f} images/s{self._cost(left)}"
        self._bar.update(self._task, completed=report.step, note=note, description=f"epoch {report.epoch:.1f}")

    def looked(self, look: Look) -> None:
        """A line when the verdict changes for the worse; the bar shows the last."""
        now, before = look.verdict, self._verdict
        self._verdict = now
        if self._job.config.monitor.on_collapse == "ignore" or now.state == "healthy":
            return
        if before is None or (before.state, before.failure) != (now.state, now.failure):
            warn(f"step {look.reading.step}: {now.in_words}")

    def epoch_ended(self, epoch: int, values: dict[str, float]) -> None:
        """One line that stays."""
        cosine = f", mean cosine {values['mean_cosine']:.3f}" if "mean_cosine" in values else ""
        self._line(
            f"epoch {epoch}/{self._job.config.run.epochs}: loss {values['loss']:.4f}{cosine}, "
            f"{values['images_per_s']:.0f} images/s{self._cost()}"
        )

    def warned(self, message: str) -> None:
        """A warning that stays."""
        warn(message)

    def ended(self) -> None:
        """Close the bar, however the run ended."""
        self._bar.stop()
        if self._seconds:
            self._line(f"trained for {hours(self._seconds / _SECONDS)}{self._cost()}")

    def _cost(self, left: float | None = None) -> str:
        """Dollars so far, and to come for so many seconds more; nothing where no price is known."""
        price = self._job.dollars_per_hour / _SECONDS
        if not price:
            return ""
        to_come = "" if left is None else f", {dollars(price * left)} to come"
        return f", {dollars(price * self._seconds)} so far{to_come}"

    @staticmethod
    def _line(text: str) -> None:
        stderr().print(text, highlight=False, soft_wrap=True)

"""``scarce pretrain METHOD --plan``: what a run would need and cost, without starting it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scarce_cli.commands.console import harmless, say, stderr
from scarce_cli.engine.price import bytes_in_words, dollars, hours

if TYPE_CHECKING:
    from scarce_cli.engine.estimate import Estimate
    from scarce_cli.engine.job import Job
    from scarce_cli.engine.planning import Option, RunPlan


def show_plan(job: Job) -> None:
    """Measure and print.

    Raises:
        ResourceError: the run does not fit into the memory; the alternatives were printed.
    """
    from scarce_cli.engine.planning import plan_run
    from scarce_cli.errors import ResourceError

    with stderr().status("measuring the first steps") as status:
        plan = plan_run(job, lambda changes: status.update(f"measuring {_name(changes) or 'the first steps'}"))
    say(_title(job))
    if plan.estimate is not None:
        _say_estimate(job, plan.estimate)
        _say_options("Cheaper, measured alike:", plan)
        minutes = job.config.run.checkpoint_minutes
        say(f"A pre-emptible machine costs less and loses at most {minutes:g} minutes: go on with --resume.")
        return
    _say_options("What would fit, the gentlest change first:", plan)
    raise ResourceError(
        f"the run does not fit into the memory at batch {job.config.run.batch_size}",
        "choose one of the lines above" if any(o.estimate for o in plan.options) else "use a GPU with more memory",
    )


def _title(job: Job) -> str:
    from scarce_cli.engine.measure import device_name

    config = job.config
    return (
        f"{job.identity.method} {config.model.backbone}, {config.data.size} px, batch {config.run.batch_size}, "
        f"{config.run.precision} on {device_name(job.device)}"
    )


def _say_estimate(job: Job, estimate: Estimate) -> None:
    config, films = job.config, len(job.cache.names)
    say(f"  weights   {estimate.parameters / 1e6:.1f} million, trained")
    say(f"  memory    {bytes_in_words(estimate.peak_bytes)} of {bytes_in_words(estimate.memory_bytes)} at the peak")
    say(f"  speed     {estimate.images_per_s:.0f} images/s, views included")
    say(f"  time      {hours(estimate.hours)} for {config.run.epochs} epochs of {films} films")
    price = f"{dollars(estimate.dollars)} at ${estimate.dollars_per_hour:g} an hour"
    say(f"  price     {price if estimate.dollars_per_hour else 'not known: give --gpu-price DOLLARS_AN_HOUR'}")
    say(
        f"  disk      {bytes_in_words(estimate.disk_bytes)}: 3 checkpoints of "
        f"{bytes_in_words(estimate.checkpoint_bytes)} (newest, previous, one being written), {estimate.encoders} "
        f"encoders of {bytes_in_words(estimate.encoder_bytes)}; {bytes_in_words(_free(job))} free"
    )


def _free(job: Job) -> int:
    from scarce_cli.files import free_bytes

    nearest = next(folder for folder in (job.run.path, *job.run.path.absolute().parents) if folder.is_dir())
    return free_bytes(nearest)


def _say_options(title: str, plan: RunPlan) -> None:
    if plan.options:
        say(title)
    for option in plan.options:
        say(f"  {harmless(_name(option.changes)):44} {_figures(option)}")


def _name(changes: tuple[str, ...]) -> str:
    return " ".join(f"--set {change}" for change in changes)


def _figures(option: Option) -> str:
    estimate = option.estimate
    if estimate is None:
        return "does not fit"
    cost = f", {dollars(estimate.dollars)}" if estimate.dollars_per_hour else ""
    return f"{bytes_in_words(estimate.peak_bytes)}, {estimate.images_per_s:.0f} images/s, {hours(estimate.hours)}{cost}"

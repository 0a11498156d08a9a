"""What a run would need and cost: its first steps on a state that is thrown away, and what to do about it."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

from scarce_cli.config import STAGES, RunConfig
from scarce_cli.engine.compiling import CompilerFailed, forget_compiled
from scarce_cli.engine.device import memory_guard
from scarce_cli.engine.estimate import Estimate
from scarce_cli.engine.job import Job
from scarce_cli.engine.ledger import Ledger
from scarce_cli.engine.measure import TIMED, WARM_UP, Gauge, reset_peak
from scarce_cli.engine.start import build_state
from scarce_cli.engine.step import Stepper
from scarce_cli.engine.views import Batches, ViewMaker
from scarce_cli.errors import OutOfMemory, UsageError
from scarce_cli.strict_yaml import parse_value

_SIZE_STEP, _LEAST_SIZE = 32, 96  # px, of the smaller views that are tried
_BATCH_STEP = 8  # films: batches that are tried are multiples of it, which tensor cores like

Changes = tuple[str, ...]  # section.key=value
Trying = Callable[[Changes], None]


@dataclass(frozen=True)
class Option:
    """Another way to do the run: settings, and what was measured with them (None: it does not fit either)."""

    changes: tuple[str, ...]  # section.key=value
    estimate: Estimate | None


@dataclass(frozen=True)
class RunPlan:
    """What was measured of a run as it is set, and of others."""

    estimate: Estimate | None  # None: it does not fit
    options: tuple[Option, ...]  # cheaper ones where it fits; else alternatives, the gentlest first


def measure(job: Job) -> Estimate | None:
    """Take the first steps of ``job`` and forget them; nothing is written. None when the memory does not do.

    Raises UsageError when the settings do not fit each other, CompilerFailed when the networks cannot be compiled here.
    """
    _give_back(job)
    try:
        estimate = _first_steps(job)
    except OutOfMemory:
        estimate = None
    finally:
        _give_back(job)
    return estimate if estimate is not None and estimate.fits else None


def _give_back(job: Job) -> None:
    """Free what was measured before: it would count as what is measured next."""
    if job.config.run.compile:
        forget_compiled()
    gc.collect()
    reset_peak(job.device)


def _first_steps(job: Job) -> Estimate:
    batches = Batches(job)
    with memory_guard(job.config):
        state = build_state(job)
        stepper = Stepper(job, state, total_steps=batches.total, steps_per_epoch=batches.per_epoch)
        views = ViewMaker(job, state.method.view_specs(job.config.data.size, job.config.augment), batches)
        ledger, gauge = Ledger(job.device), Gauge(job, state, batches)
        ledger.start()
        for step in range(min(WARM_UP + TIMED, batches.total)):
            taken = stepper.take(step, views.take(step))
            views.prepare(step + 1)
            ledger.add(step + 1, taken)
            for entry in ledger.ready():
                state.seconds += entry.seconds
                gauge.hear(entry)
        for entry in ledger.rest():
            state.seconds += entry.seconds
            gauge.hear(entry)
    assert gauge.estimate is not None, "the last step always gives one"
    return gauge.estimate


def plan_run(job: Job, trying: Trying) -> RunPlan:
    """Measure a run as it is, then others: cheaper ones where it fits, else what would fit.

    ``trying`` hears of every set of changes before it is measured. Raises UsageError as `measure`.
    """
    trying(())
    estimate = measure(job)
    if estimate is None:
        return RunPlan(None, tuple(option for option in _that_fit(job, trying) if option is not None))
    tried = (_try(job, change, trying) for change in _cheaper(job.config))
    return RunPlan(estimate, tuple(o for o in tried if o and o.estimate and o.estimate.hours < estimate.hours))


def _cheaper(config: RunConfig) -> Iterator[tuple[str, ...]]:
    if config.run.device == "cuda" and not config.run.compile:
        yield ("run.compile=true",)
    for stages in range(config.model.gradient_checkpointing):
        yield (f"model.gradient_checkpointing={stages}",)
    if config.run.precision == "fp32" and config.run.device == "cuda":
        yield ("run.precision=bf16",)
    if config.data.size - _SIZE_STEP >= _LEAST_SIZE:
        yield (f"data.size={config.data.size - _SIZE_STEP}",)


def _that_fit(job: Job, trying: Trying) -> Iterator[Option | None]:
    """More stages recomputed; smaller views; both, where neither is enough; and the largest batch, which changes what
    is learned most."""
    config = job.config
    stages = [
        (f"model.gradient_checkpointing={n}",) for n in range(config.model.gradient_checkpointing + 1, STAGES + 1)
    ]
    sizes = [(f"data.size={size}",) for size in range(config.data.size - _SIZE_STEP, _LEAST_SIZE - 1, -_SIZE_STEP)]
    enough = False
    for changes in (stages, sizes):
        for option in _until_one_fits(job, changes, trying):
            enough = enough or _fits(option)
            yield option
    if not enough and stages:
        yield from _until_one_fits(job, [(*stages[-1], *size) for size in sizes], trying)
    yield _largest_batch(job, trying)


def _until_one_fits(job: Job, changes: Iterable[Changes], trying: Trying) -> Iterator[Option | None]:
    for change in changes:
        option = _try(job, change, trying)
        yield option
        if _fits(option):
            return


def _fits(option: Option | None) -> bool:
    return option is not None and option.estimate is not None


def _largest_batch(job: Job, trying: Trying) -> Option | None:
    """Bisection; a batch that the method refuses stands for the next smaller one that it takes."""
    step = _BATCH_STEP if job.config.run.batch_size > 2 * _BATCH_STEP else 1
    fits, too_large = 0, -(-job.config.run.batch_size // step)  # in steps
    best: Option | None = None
    while too_large - fits > 1:
        middle = (fits + too_large) // 2
        tried = ((n, _try(job, (f"run.batch_size={n * step}",), trying)) for n in range(middle, fits, -1))
        count, option = next(((n, option) for n, option in tried if option is not None), (fits, None))
        if option is not None and not _fits(option):
            too_large = count
        else:
            fits, best = middle, option or best
    return best


def _try(job: Job, changes: tuple[str, ...], trying: Trying) -> Option | None:
    """Measure with other settings; None when they do not fit the method's, or cannot be compiled here."""
    trying(changes)
    try:
        return Option(changes, measure(_changed(job, changes)))
    except UsageError:
        return None
    except CompilerFailed:
        if job.config.run.compile:  # what was asked for: not to be passed over
            raise
        return None


def _changed(job: Job, changes: Changes) -> Job:
    """UsageError when the changes do not fit the other settings."""
    values = job.config.model_dump(mode="json")
    for change in changes:
        name, _, value = change.partition("=")
        section, key = name.split(".")
        values[section][key] = parse_value(value, change)
    try:
        config = RunConfig.model_validate_json(json.dumps(values))
    except ValueError as error:
        raise UsageError(f"{' '.join(changes)}: {error}") from None
    return replace(job, identity=replace(job.identity, config=config))

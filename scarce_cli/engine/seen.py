"""What a person looks at while a run goes on and afterwards: its curves and its README."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from scarce_cli import __version__
from scarce_cli.engine.estimate import Estimate
from scarce_cli.engine.job import Job
from scarce_cli.engine.measure import device_name
from scarce_cli.engine.reconstruct import Reconstructing
from scarce_cli.engine.report import RunFacts, write_readme
from scarce_cli.engine.state import TrainState
from scarce_cli.errors import ResourceError
from scarce_cli.evaluation.collapse import Verdict
from scarce_cli.figures.history import History
from scarce_cli.figures.training import draw_training
from scarce_cli.models.ranks import world_size
from scarce_cli.runs import read_metrics

_SHARE = 0.05  # of the time that drawing may take: of very short epochs not every one is drawn


class Seen:
    """Refreshes ``curves.png`` and ``README.md`` after each epoch and at the end. A disk that fails is a warning."""

    def __init__(self, job: Job, state: TrainState, total_steps: int, warn: Callable[[str], None]) -> None:
        """Take up what was logged before; the first README is written with the first measurement."""
        self._job, self._state, self._total_steps, self._warn = job, state, total_steps, warn
        lines = read_metrics(job.run.metrics)
        self._history = History(lines)
        self._estimate: Estimate | None = None
        self._last_epoch: Mapping[str, float] = _last_epoch(lines)
        self._verdict: Verdict | None = None
        self._drawn = -math.inf  # when
        self._cost = 0.0  # seconds of the last drawing
        self._warned = False

    def add(self, line: Mapping[str, Any]) -> None:
        """One line of metrics.jsonl."""
        self._history.add(line)

    def measured(self, estimate: Estimate) -> None:
        """What the run needs and costs."""
        self._estimate = estimate
        self._safely(lambda: write_readme(self._job.run, self._facts("training")))

    def epoch(self, values: Mapping[str, float]) -> None:
        """The end of an epoch, with its means."""
        self._last_epoch = dict(values)
        if self._cost < _SHARE * (time.monotonic() - self._drawn):
            self._refresh("training")

    def verdict(self, verdict: Verdict) -> None:
        """What the last look at the encoder found."""
        self._verdict = verdict

    def ended(self, how: str) -> None:
        """The end of the session, in words."""
        self._refresh(how)

    def _refresh(self, status: str) -> None:
        begun = time.monotonic()
        job = self._job
        title = f"{job.identity.method}, {job.config.model.backbone}, {job.run.path}"
        self._safely(lambda: draw_training(self._history, job.run.curves, title=title))
        self._safely(lambda: write_readme(job.run, self._facts(status)))
        self._drawn = time.monotonic()
        self._cost = self._drawn - begun

    def _safely(self, action: Callable[[], None]) -> None:
        try:
            action()
        except ResourceError as error:
            if not self._warned:
                self._warn(f"not drawn: {error.message}")
            self._warned = True

    def _facts(self, status: str) -> RunFacts:
        job, config, estimate = self._job, self._job.config, self._estimate
        run, method = str(job.run.path), job.identity.method
        paints = isinstance(self._state.method, Reconstructing)
        return RunFacts(
            method=method,
            preset=job.identity.preset,
            backbone=config.model.backbone,
            status=status,
            step=self._state.step,
            total_steps=self._total_steps,
            scarce=__version__,
            torch=str(torch.__version__),
            device=device_name(job.device),
            precision=config.run.precision,
            films=len(job.cache.names),
            data=job.cache.folder,
            digest=job.cache.digest,
            size=config.data.size,
            epochs=config.run.epochs,
            batch=config.run.batch_size,
            seed=config.run.seed,
            parameters=self._state.parameters,
            seconds=self._state.seconds,
            images_per_s=self._last_epoch.get("images_per_s", estimate.images_per_s if estimate else math.nan),
            go_on=[
                *(("scarce",) if world_size() == 1 else ("torchrun", "...", "-m", "scarce_cli")),
                *("pretrain", method, "--preset", str(job.run.settings)),
                *("--data", str(job.cache.folder), "--out", run, "--resume"),
                *(("--tensorboard",) if job.tensorboard else ()),
                *(() if job.wandb == "off" else ("--wandb", job.wandb)),
            ],
            next=[
                ["scarce", "monitor-collapse", run],
                ["scarce", "probe", str(job.run.last), "--labels", "labels.csv"],
                *([["scarce", "visualize", method, str(job.run.last)]] if paints else []),
            ],
            processes=world_size(),
            dollars_per_hour=job.dollars_per_hour,
            peak_bytes=None if estimate is None else estimate.peak_bytes,
            bad_steps=self._state.bad_steps,
            last_epoch=self._last_epoch,
            verdict="" if self._verdict is None else self._verdict.in_words,
        )


def _last_epoch(lines: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """What the log of an earlier session says of its last whole epoch."""
    epochs = [line for line in lines if line.get("kind") == "epoch"]
    found = epochs[-1] if epochs else {}
    return {k: v for k, v in found.items() if k not in ("kind", "step", "epoch") and isinstance(v, int | float)}

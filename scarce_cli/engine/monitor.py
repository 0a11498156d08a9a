"""Looks at the encoder while it trains: does it still tell films apart, does it learn, and if not, why not?

What is looked at is a copy of the encoder that a checkpoint would keep, in evaluation mode, on the same films each
time; nothing of the training knows of it. Looks are frequent at the beginning, when a failing run is cheapest to stop,
and after the first take about a hundredth of the time of a run.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import replace

import numpy as np

from scarce_cli.engine.distributed import is_writer
from scarce_cli.engine.job import Job, Look, StepReport
from scarce_cli.engine.state import TrainState
from scarce_cli.errors import Collapsed
from scarce_cli.evaluation.collapse import (
    CollapseMetrics,
    Reading,
    Verdict,
    collapse_metrics,
    is_confirmed,
    judge,
    readings_of,
    summed_up,
)
from scarce_cli.evaluation.features import NotFinite, extract_features, extract_view_features
from scarce_cli.models.resnet import Encoder, build_encoder
from scarce_cli.runs import read_metrics
from scarce_cli.vitals import NOT_AS_WRITTEN, changes

_PARTS = 50  # looks at a short run
_SHARE = 0.008  # of a run's time that measuring may take
_AHEAD = 0.25  # of the run, whose share may be spent beforehand: together a hundredth
_VIEWS = 2  # of each film, beside the whole film
_BATCH = 32  # films at once: little memory beside that of training


class Monitor:
    """Hears of every step, and looks when it is time. Of several ranks only one looks."""

    def __init__(self, job: Job, state: TrainState, total_steps: int) -> None:
        """Take up what an earlier session logged until ``state.step``."""
        self._job, self._state, self._total_steps = job, state, total_steps
        self._settings, self._expected = job.config.monitor, state.method.expectations()
        self._every = min(self._settings.steps, max(1, total_steps // _PARTS))
        self._on = bool(self._settings.films) and is_writer()
        count = min(self._settings.films, len(job.cache.names))
        drawn = np.random.default_rng(job.config.run.seed).permutation(len(job.cache.names))
        self._rows = np.sort(drawn[:count])
        self._random, self._readings = self._earlier() if self._on else (None, [])
        self._encoder: Encoder | None = None
        self._heard: dict[str, list[float]] = {}  # since the last reading
        self._begun = state.step, state.seconds
        self._spent = self._cost = 0.0  # seconds of this session's looks, and of its last

    def hear(self, report: StepReport) -> None:
        """One step."""
        if self._on:
            for name, value in {"loss": report.loss, **report.scalars}.items():
                self._heard.setdefault(name, []).append(value)

    @property
    def due(self) -> bool:
        """Whether it is time for a reading: at the very beginning, now and then, at the end.

        The same on all ranks, so that they read their ledgers at the same steps.
        """
        step = self._state.step
        return self._settings.films > 0 and (step % self._every == 0 or step == self._total_steps)

    def look(self) -> Look | None:
        """Take a reading now. What the method says costs nothing; the features are measured when there is time for it.

        None where another rank looks.

        Raises:
            DamagedData: the cache was cut.
        """
        if not self._on:
            return None
        begun, step = time.perf_counter(), self._state.step
        new = self._measure(self._random_start()) if self._random is None and self._has_time else None
        self._random = self._random or new
        signals, self._heard = summed_up(self._heard), {}
        at_start = new is not None and self._starts_there
        features = new if at_start else self._measure(self._copy()) if self._has_time else None
        reading = Reading(step, step / self._total_steps, features, signals)
        self._readings.append(reading)
        verdict = judge(self._readings, self._random, self._expected)
        self._tell()
        if features is not None:
            self._cost = time.perf_counter() - begun
            self._spent += self._cost
        return Look(reading, verdict, self._stops(reading), new)

    def error(self, verdict: Verdict | None) -> Collapsed:
        """What ends the run: the verdict with its evidence, and what to change. None: another rank knows it."""
        step, config = self._state.step, self._job.config.model_dump(mode="json")
        where = (
            f"stopped by its monitor after step {step} of {self._total_steps}; everything is in {self._job.run.last}"
        )
        if verdict is None or verdict.failure is None:
            return Collapsed(f"the run was {where}", "see the messages of the first process")
        wanted = changes(self._state.method.cures_for(verdict.failure, config), config)
        remedy = [f"  {change}" for change in wanted]
        if wanted:
            remedy = ["start anew, in another folder, with these settings:", *remedy]
        return Collapsed(
            f"{verdict.failure}: the run was {where}\n{'; '.join(verdict.evidence)}",
            "\n".join([*remedy, "to go on all the same, without being stopped again: --resume --on-collapse warn"]),
        )

    @property
    def _has_time(self) -> bool:
        """Whether one more look stays below its share of this session's time.

        The start of the run, which the rest is compared with, is always measured; a short session that goes on has
        nothing to spend beforehand.
        """
        step, seconds = self._state.step, self._state.seconds
        ahead = seconds / step * self._total_steps * _AHEAD if step and not self._begun[0] else 0.0
        return step == 0 or self._spent + self._cost <= _SHARE * (seconds - self._begun[1] + ahead)

    def _stops(self, reading: Reading) -> bool:
        wanted = self._settings.on_collapse == "stop" and reading.progress >= self._settings.grace
        return wanted and is_confirmed(self._readings, self._random, self._expected)

    def _earlier(self) -> tuple[CollapseMetrics | None, list[Reading]]:
        """What earlier sessions saw until this step: as logged, or as the checkpoint has it where the log is gone.

        Features of another number of films are left out: a rank depends on it.
        """
        lines = read_metrics(self._job.run.metrics)
        random, readings = readings_of(line for line in lines if line.get("step", 0) <= self._state.step)
        if not readings:
            with contextlib.suppress(*NOT_AS_WRITTEN):
                readings = [Reading.from_plain(one) for one in self._state.vitals["readings"]]
                kept = self._state.vitals["random"]
                random = None if kept is None else CollapseMetrics.from_plain(kept)
        films = len(self._rows)
        same = [one if one.features is None or one.features.films == films else replace(one, features=None)
                for one in readings]  # fmt: skip
        return (random if random is not None and random.films == films else None), same

    def _measure(self, encoder: Encoder) -> CollapseMetrics | None:
        """None when the features are not finite, of which the guard and the loss say more."""
        try:
            return self._measured(encoder)
        except NotFinite:
            return None

    def _measured(self, encoder: Encoder) -> CollapseMetrics:
        job, config = self._job, self._job.config
        info = job.identity.info()
        whole = extract_features(encoder, info, job.cache, self._rows, job.device, batch_size=_BATCH)
        views = extract_view_features(
            encoder,
            info,
            job.cache,
            self._rows,
            job.device,
            augment=config.augment,
            views=_VIEWS,
            seed=config.run.seed,
            batch_size=_BATCH,
        )
        return collapse_metrics(whole, views)

    def _random_start(self) -> Encoder:
        """What the seed draws, also for a run that starts from weights of a file."""
        return build_encoder(self._job.config.model.backbone, seed=self._job.config.run.seed).eval()

    @property
    def _starts_there(self) -> bool:
        """Whether the run stands at that start."""
        model = self._job.config.model
        return self._state.step == 0 and not model.init and not model.zero_init_residual

    def _copy(self) -> Encoder:
        """The encoder that a checkpoint would keep, apart from the one that is trained."""
        if self._encoder is None:
            self._encoder = build_encoder(self._job.config.model.backbone, seed=0).eval()
        self._encoder.load_state_dict(self._state.method.evaluation_encoder().state_dict())
        return self._encoder

    def _tell(self) -> None:
        """For the checkpoint: what was seen, so that it can be judged wherever it is taken."""
        self._state.vitals = {
            "expected": self._expected.as_plain(),
            "random": None if self._random is None else self._random.as_plain(),
            "readings": [reading.as_plain() for reading in self._readings],
        }

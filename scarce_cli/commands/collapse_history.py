"""What a run said of itself: in its newest checkpoint, and in its log.

Both are read as text of strangers: what is odd in them is left out, and a note says so.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scarce_cli.vitals import NOT_AS_WRITTEN

if TYPE_CHECKING:
    from scarce_cli.checkpoint import SavedEncoder
    from scarce_cli.config import RunConfig
    from scarce_cli.evaluation.collapse import CollapseMetrics, Reading
    from scarce_cli.methods.base import Method
    from scarce_cli.vitals import Expectations

_PARTS = 50  # readings that the steps of a log without any are summed up to
_RECENT = 0.1  # of the run: what was said longer ago says nothing of a checkpoint
_PLACES = {"kind", "step", "epoch", "lr", "weight_decay", "images_per_s"}  # of a line, beside what the method says
_MOST_VALUES, _DEEPEST, _LONGEST, _LARGEST = 1_000_000, 12, 10_000, 1 << 62  # of what a checkpoint says


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint to look at, with what it says of its run."""

    saved: SavedEncoder
    origin: Mapping[str, Any]

    @cached_property
    def config(self) -> RunConfig | None:
        """The run's settings; None where they are not those of this version."""
        from scarce_cli.config import RunConfig

        try:
            return RunConfig.model_validate_json(json.dumps(_plain(self.origin["settings"])))
        except NOT_AS_WRITTEN:
            return None

    def settings(self, kind: type[Method]) -> dict[str, Any] | None:
        """The same as plain values by section, those of its method checked as well; None where either does not fit."""
        if self.config is None:
            return None
        try:
            own = kind.settings_type.model_validate_json(json.dumps(self.config.method))
        except ValueError:
            return None
        return self.config.model_dump(mode="json") | {"method": own.model_dump(mode="json")}

    @property
    def step(self) -> int:
        """Steps done."""
        step = self.origin.get("step")
        return step if type(step) is int and 0 <= step < _LARGEST else self.saved.epoch

    @property
    def progress(self) -> float:
        """Of the planned run, 0 to 1; 1 where it is not known."""
        return min(1.0, self.step / self.total_steps) if self.total_steps else 1.0

    @cached_property
    def total_steps(self) -> int:
        """Of the planned run; 0 where it is not known."""
        films = self.saved.data.get("films")
        if self.config is None or type(films) is not int or films < self.config.run.batch_size:
            return 0
        return films // self.config.run.batch_size * self.config.run.epochs

    @property
    def epochs(self) -> int:
        """Of the planned run; those done where that is not known."""
        return self.config.run.epochs if self.total_steps and self.config else self.saved.epoch

    @property
    def folder(self) -> Path:
        """Where its run lies, if it lies in one."""
        parent = self.saved.path.parent
        return parent.parent if parent.name == "encoders" else parent


@dataclass(frozen=True)
class History:
    """What is known of a run beside its weights."""

    kind: type[Method] | None  # None: no method of this version
    expected: Expectations
    readings: tuple[Reading, ...]  # until the newest checkpoint, oldest first
    random: CollapseMetrics | None  # as the run itself measured it
    notes: tuple[str, ...]  # what is missing, for a person


def read_history(newest: Checkpoint) -> History:
    """What the run of a checkpoint said until then. Never fails on what stands there."""
    from scarce_cli.vitals import Expectations

    kind = _kind(newest.saved.method)
    notes: list[str] = []
    expected, random, readings = _vitals(newest, notes)
    logged_random, logged = _log(newest, notes, sum_up=not readings)
    by_step = {reading.step: reading for reading in (*logged, *readings) if reading.step <= newest.step}
    expected = expected or _built(newest, kind)
    if expected is None:
        notes.append(
            f"what the numbers of '{newest.saved.method}' mean is not known here: judged by the features alone"
        )
    elif not any(reading.signals for reading in by_step.values()):
        notes.append("neither the checkpoint nor a log beside it says how the loss went: judged by the features alone")
    ordered = tuple(by_step[step] for step in sorted(by_step))
    return History(kind, expected or Expectations(), ordered, random or logged_random, tuple(notes))


def with_measured(
    readings: Sequence[Reading], measured: Sequence[tuple[Checkpoint, CollapseMetrics]]
) -> tuple[Reading, ...]:
    """Readings of a run with the features of its checkpoints as they were measured now, oldest first.

    Features that were measured on another number of films are left out, as ranks depend on it. Of a checkpoint between
    two readings only the features are known: what the method said counts once.
    """
    from scarce_cli.evaluation.collapse import Reading

    films = {metrics.films for _, metrics in measured}
    own = {
        r.step: r if r.features is None or r.features.films in films else replace(r, features=None) for r in readings
    }
    for one, metrics in measured:
        said = own[one.step].signals if one.step in own else {}
        own[one.step] = Reading(one.step, one.progress, metrics, said)
    return tuple(own[step] for step in sorted(own))


def is_recent(readings: Sequence[Reading], newest: Checkpoint) -> bool:
    """Whether the run looked at its own features, and went on shortly before a checkpoint: its own verdict counts."""
    looked = any(reading.features is not None for reading in readings)
    return looked and newest.progress - readings[-1].progress <= _RECENT


def _vitals(one: Checkpoint, notes: list[str]) -> tuple[Expectations | None, CollapseMetrics | None, list[Reading]]:
    """Of the checkpoint itself, which a run kept there since there are readings."""
    from scarce_cli.evaluation.collapse import CollapseMetrics, Reading
    from scarce_cli.vitals import Expectations

    if "vitals" not in one.origin:
        return None, None, []
    try:
        vitals = _plain(one.origin["vitals"])
        random = None if vitals["random"] is None else CollapseMetrics.from_plain(vitals["random"])
        readings = [Reading.from_plain(values) for values in vitals["readings"]]
        return Expectations.from_plain(vitals["expected"]), random, readings
    except NOT_AS_WRITTEN:
        notes.append(f"what {one.saved.path.name} says of its run cannot be read: left out")
        return None, None, []


def _log(one: Checkpoint, notes: list[str], *, sum_up: bool) -> tuple[CollapseMetrics | None, list[Reading]]:
    """Of the log beside the checkpoint: its readings; where it has none, its steps summed up to some."""
    from scarce_cli.evaluation.collapse import readings_of
    from scarce_cli.runs import RunFolder, read_metrics

    path = RunFolder(one.folder).metrics
    try:
        lines = [line for line in read_metrics(path) if _step(line) <= one.step]
        random, readings = readings_of(lines)
    except (*NOT_AS_WRITTEN, OSError, RecursionError):
        notes.append(f"{path} cannot be read: left out")
        return None, []
    return random, readings or (readings_of_steps(lines, one) if sum_up else [])


def readings_of_steps(lines: Iterable[Mapping[str, Any]], one: Checkpoint) -> list[Reading]:
    """The steps of a log without readings (an older version's), summed up to at most 50; of epochs if need be.

    Signals are means of what is finite, beside the loss's spread and the share of steps where it was not finite.
    """
    from scarce_cli.evaluation.collapse import Reading

    lines = [line for line in lines if 0 < _step(line) <= one.step]
    for kind in ("step", "epoch"):
        parts: dict[int, list[Mapping[str, Any]]] = {}
        for line in lines:
            if line.get("kind") == kind:
                parts.setdefault(int((_step(line) - 1) * _PARTS // (one.total_steps or one.step)), []).append(line)
        if parts:
            total = one.total_steps or one.step
            last = {number: int(max(map(_step, part))) for number, part in parts.items()}
            return [Reading(last[n], min(1.0, last[n] / total), None, _signals(parts[n])) for n in sorted(parts)]
    return []


def _signals(lines: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    from scarce_cli.evaluation.collapse import summed_up

    names = dict.fromkeys(name for line in lines for name in line if name not in _PLACES)
    return summed_up({name: [_number(line[name]) for line in lines if name in line] for name in names})


def _step(line: Mapping[str, Any]) -> float:
    """Infinite for what is no step."""
    step = _number(line.get("step"))
    return step if step >= 0 else math.inf


def _number(value: Any) -> float:
    """NaN for all that is no number one can compute with."""
    whole = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if whole and abs(value) < 1e100 else math.nan


def _kind(name: str) -> type[Method] | None:
    from scarce_cli.errors import UsageError
    from scarce_cli.methods import method_class

    try:
        return method_class(name)
    except UsageError:
        return None


def _built(one: Checkpoint, kind: type[Method] | None) -> Expectations | None:
    """What the method expects when it is built from the run's settings: without memory, as nothing is computed."""
    import torch

    from scarce_cli.errors import ScarceError
    from scarce_cli.models.resnet import build_encoder

    if kind is None or one.config is None:
        return None
    try:
        settings = kind.settings_type.model_validate_json(json.dumps(one.config.method))
        with torch.device("meta"):
            encoder = build_encoder(one.config.model.backbone, seed=0)
            return kind.build(encoder, settings, one.config.data.size).expectations()
    except (*NOT_AS_WRITTEN, ScarceError, RuntimeError):
        return None


def _plain(value: Any) -> Any:
    """A copy of plain values. ValueError for what is none, or more than a run can say: a forged list of lists
    unfolds without end."""
    left = _MOST_VALUES

    def copy(value: Any, depth: int) -> Any:
        nonlocal left
        left -= 1
        if left < 0 or depth > _DEEPEST:
            raise ValueError("more than a run can say")
        if type(value) is dict:
            return {copy(key, _DEEPEST): copy(item, depth + 1) for key, item in value.items()}
        if type(value) in (list, tuple):
            return [copy(item, depth + 1) for item in value]
        if not _is_plain(value):
            raise ValueError("not plain")
        return value

    return copy(value, 0)


def _is_plain(value: Any) -> bool:
    if type(value) is str:
        return len(value) <= _LONGEST
    return value is None or type(value) is bool or (type(value) in (int, float) and abs(value) < _LARGEST)

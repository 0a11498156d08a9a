"""What ``scarce monitor-collapse`` says of a run: a table, a verdict, what to change, and all of it as JSON."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from scarce_cli.commands.collapse_history import Checkpoint, History
    from scarce_cli.evaluation.collapse import CollapseMetrics, Reading, Verdict
    from scarce_cli.figures.collapse import CollapseCurve
    from scarce_cli.vitals import Change

WORST_FIRST = ("collapsed", "suspicious", "healthy")
_WIDE, _WIDEST = 96, 120  # characters of a terminal that shows more
_UNKNOWN = "-"


@dataclass(frozen=True)
class Found:
    """What was found of one run."""

    name: str
    checkpoints: Sequence[Checkpoint]  # by steps, oldest first
    metrics: Sequence[CollapseMetrics]  # of each of them
    random: CollapseMetrics  # of the random initialisation, on the same films
    last_ND: NDArray[Any]  # features of the last checkpoint, and of the random initialisation
    random_ND: NDArray[Any]
    history: History
    readings: Sequence[Reading]  # what the run said, and what was measured now
    verdict: Verdict
    changes: Sequence[Change]  # of the recipe, the most likely first

    @property
    def newest(self) -> Checkpoint:
        """The checkpoint that is judged."""
        return self.checkpoints[-1]

    @property
    def called(self) -> str:
        """The verdict in a few words."""
        failure = self.verdict.failure
        return self.verdict.state if failure is None else f"{self.verdict.state}: {failure}"


@dataclass(frozen=True)
class _Column:
    """Of the table."""

    title: str
    value: Callable[[CollapseMetrics], str]
    from_width: int = 0  # characters of the terminal


def worst(states: Iterable[str]) -> str:
    """Of several verdicts."""
    return min(states, key=WORST_FIRST.index)


def warn_of(found: Found) -> None:
    """Say on stderr what is missing for a verdict."""
    from scarce_cli.commands.console import warn

    for note in found.history.notes:
        warn(f"{found.name}: {note}")


def show(found: Found) -> None:
    """Print the table, the verdict and what to change."""
    from scarce_cli.commands.console import say
    from scarce_cli.commands.inputs import table

    title = f"{found.name}: {found.newest.saved.method}, {found.random.films} films, {found.random.dimensions} features"
    table(title, *_table(found))
    said = _signals_in_words(found)
    if said:
        say(said)
    say(f"Verdict: {found.called}")
    for line in found.verdict.evidence:
        say(f"  {line}")
    if found.changes:
        say("What to change, the most likely first:")
        for change in found.changes:
            say(f"  {change}")
        say(f"Start anew: {command(found)}")
    elif found.verdict.failure is not None and found.history.kind is None:
        say("What to change is not known: this version has no such method.")
    elif found.verdict.failure is not None:
        say("What to change is not known: the recipe has all that is known to help already.")


def _table(found: Found) -> tuple[list[str], list[list[str]]]:
    from scarce_cli.commands.console import stdout

    known = [found.random, *found.metrics]
    columns = [c for c in _COLUMNS if stdout().width >= c.from_width and any(c.value(m) != _UNKNOWN for m in known)]
    rows = [["random", "-", *(column.value(found.random) for column in columns)]]
    for one, metrics in zip(found.checkpoints, found.metrics, strict=True):
        rows.append([one.saved.path.name, str(one.saved.epoch), *(column.value(metrics) for column in columns)])
    return ["encoder", "epoch", *(c.title.format(cap=found.random.rank_cap) for c in columns)], rows


def _digits(name: str, digits: int) -> Callable[[CollapseMetrics], str]:
    def write(metrics: CollapseMetrics) -> str:
        value = getattr(metrics, name)
        return _UNKNOWN if value is None else f"{value:.{digits}f}"

    return write


_COLUMNS = (
    _Column("relative\nstd", _digits("relative_std", 3)),
    _Column("dead\ndims", _digits("dead_dimensions", 0)),
    _Column("mean\ncosine", _digits("mean_cosine", 4)),
    _Column("cosine\ncentred", _digits("mean_cosine_centred", 4), _WIDE),
    _Column("rank of\n{cap}", _digits("effective_rank", 1)),
    _Column("RankMe", _digits("rankme", 1), _WIDE),
    _Column("alpha", _digits("alpha", 2)),
    _Column("uniformity", _digits("uniformity", 3), _WIDEST),
    _Column("alignment", _digits("alignment", 3), _WIDEST),
    _Column("views\nfound", _digits("retrieval", 3)),
    _Column("LiDAR", _digits("lidar", 1)),
)


def _signals_in_words(found: Found) -> str:
    """What the method said of the newest checkpoint, each beside its value where films are not told apart."""
    blind, said = found.history.expected.blind, found.readings[-1].signals
    names = [name for name in sorted(blind, key=lambda name: name != "loss") if name in said]
    names = [name for name in names if name == "loss" or said[name] != said.get("loss")]  # another name for it
    shown = [f"{name} {_finite(said[name])} ({blind[name]:.4g})" for name in names]
    return f"Signals (in brackets: where films are not told apart): {', '.join(shown)}" if shown else ""


def _finite(value: float) -> str:
    return f"{value:.4g}" if math.isfinite(value) else "not finite"


def command(found: Found) -> str:
    """For the shell: starts the run anew with all changes. Their ``--set`` alone where the recipe is gone."""
    changed = [word for change in found.changes for word in ("--set", change.option.removeprefix("--set "))]
    recipe = _recipe(found.newest)
    if not recipe:
        return shlex.join(changed)
    words = ["scarce", "pretrain", found.newest.saved.method, "--preset", recipe]
    folder = str(found.newest.saved.data.get("folder"))
    words += ["--data", folder] if Path(folder).is_dir() else []
    return shlex.join([*words, *changed, "--out", f"{found.newest.folder}-2"])


def _recipe(one: Checkpoint) -> str:
    """The run's settings where they lie beside it, which hold what was changed on the command line as well."""
    from scarce_cli.presets import preset_names
    from scarce_cli.runs import RunFolder

    settings, preset = RunFolder(one.folder).settings, one.origin.get("preset")
    if settings.is_file():
        return str(settings)
    return preset if isinstance(preset, str) and preset in preset_names(one.saved.method) else ""


def as_plain(found: Found) -> dict[str, Any]:
    """For JSON: no NaN, which JSON has not."""
    return {
        "run": found.name,
        "method": found.newest.saved.method,
        "verdict": found.verdict.state,
        "failure": found.verdict.failure,
        "evidence": list(found.verdict.evidence),
        "changes": [{"key": c.cure.key, "now": c.now, "to": c.cure.to, "why": c.cure.why} for c in found.changes],
        "command": command(found) if found.changes else None,
        "notes": list(found.history.notes),
        "random_initialisation": found.random.as_plain(),
        "checkpoints": [
            {
                "path": str(one.saved.path),
                "sha256": one.saved.digest,
                "epoch": one.saved.epoch,
                "step": one.step,
                "progress": one.progress,
                **metrics.as_plain(),
            }
            for one, metrics in zip(found.checkpoints, found.metrics, strict=True)
        ],
        "expected": found.history.expected.as_plain(),
        "readings": [reading.as_plain() for reading in found.readings],
    }


def as_curve(found: Found) -> CollapseCurve:
    """For the picture."""
    from scarce_cli.figures.collapse import CollapseCurve

    epochs, own = found.newest.epochs, found.history.readings
    looks = [(r.progress * epochs, r.features) for r in own if r.features is not None and r.step]
    return CollapseCurve(
        name=found.name,
        state=found.verdict.state,
        called=found.called,
        epochs=[_epoch(one) for one in found.checkpoints],
        metrics=found.metrics,
        random=found.random,
        last_ND=found.last_ND,
        random_ND=found.random_ND,
        looks=looks,
        signals=_columns([(r.progress * epochs, r.signals) for r in found.readings]),
        blind=found.history.expected.blind,
    )


def _epoch(one: Checkpoint) -> float:
    return one.progress * one.epochs if one.total_steps else float(one.saved.epoch)


def _columns(said: Sequence[tuple[float, Mapping[str, float]]]) -> dict[str, tuple[list[float], list[float]]]:
    """Epochs and values of each signal, where it was said and is finite."""
    columns: dict[str, tuple[list[float], list[float]]] = {}
    for epoch, signals in said:
        for name, value in signals.items():
            if math.isfinite(value):
                epochs, values = columns.setdefault(name, ([], []))
                epochs.append(epoch)
                values.append(value)
    return columns

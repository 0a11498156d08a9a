"""``scarce monitor-collapse``: does the encoder still tell films apart, and if not, why not and what helps?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scarce_cli.commands.pretrain import Device

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from scarce_cli.checkpoint import EncoderInfo
    from scarce_cli.commands.collapse_history import Checkpoint, History
    from scarce_cli.commands.collapse_report import Found
    from scarce_cli.data.cache import Cache
    from scarce_cli.evaluation.collapse import CollapseMetrics, Reading, Verdict
    from scarce_cli.models.resnet import Encoder
    from scarce_cli.vitals import Change

_FAILED = 9  # exit code: a verdict, not an error


class FailOn(StrEnum):
    """The mildest verdict that gives exit code 9."""

    suspicious = "suspicious"
    collapsed = "collapsed"
    never = "never"


def monitor_collapse(
    checkpoints: Annotated[
        list[Path], typer.Argument(help="A checkpoint, several, or a run's folder (a curve over its epochs).")
    ],
    data: Annotated[
        Path | None, typer.Option(help="Prepared data set. Default: the one the checkpoint was trained on.")
    ] = None,
    images: Annotated[int, typer.Option(min=2, help="Films to look at, drawn by the seed.")] = 2048,
    views: Annotated[
        int,
        typer.Option(
            min=0, help="Random views of each film, as in training; 0: whole films alone, a third of the time."
        ),
    ] = 2,
    json: Annotated[bool, typer.Option("--json", help="Print everything as JSON, and nothing else on stdout.")] = False,
    fail_on: Annotated[FailOn, typer.Option(help="The mildest verdict that gives exit code 9.")] = FailOn.collapsed,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for collapse.json and collapse.png. Default: the checkpoint's run."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Fixes which films and views are drawn.")] = 0,
    device: Annotated[Device | None, typer.Option(help="Where to compute. Default: the GPU if there is one.")] = None,
) -> None:
    """Say whether a run is healthy, suspicious or collapsed: how, by which numbers, and what to change.

    Exit code 9: collapsed.
    """
    from scarce_cli.commands.inputs import compute_device, open_data
    from scarce_cli.errors import UsageError
    from scarce_cli.files import make_folder

    if views == 1:
        raise UsageError(
            "--views 1: a single view has no other to be found by", "--views 2, or 0 for whole films alone"
        )
    opened = [one for path in checkpoints for one in (_open_run(path) if path.is_dir() else [_open(path)])]
    cache = open_data(opened[-1].saved.data, data)
    looking = _Looking(cache, _draw(len(cache.names), images, seed), compute_device(device), views, seed)
    folder = out or opened[-1].folder
    make_folder(folder)
    found = _look(_by_run(opened), looking)
    _report(found, cache, seed, folder, as_json=json)
    if _fails([one.verdict.state for one in found], fail_on):
        raise typer.Exit(_FAILED)


def _fails(states: Sequence[str], fail_on: FailOn) -> bool:
    return fail_on is not FailOn.never and ("collapsed" in states or fail_on in states)


def _open_run(folder: Path) -> list[Checkpoint]:
    """A run's folder stands for its snapshots, and for its last checkpoint where that went further."""
    from scarce_cli.errors import UsageError
    from scarce_cli.runs import RunFolder

    run = RunFolder(folder)
    opened = [_open(path) for path in (*run.snapshots(), run.last) if path != run.last or path.is_file()]
    if not opened:
        raise UsageError(f"no checkpoint in {folder}", "name a run's folder or a checkpoint such as last.pt")
    return opened[:-1] if len(opened) > 1 and opened[-1].step == opened[-2].step else opened


def _open(path: Path) -> Checkpoint:
    from scarce_cli.checkpoint import encoder_of, load
    from scarce_cli.commands.collapse_history import Checkpoint

    payload, digest = load(path)
    return Checkpoint(encoder_of(payload, digest, path), payload["origin"])


def _draw(films: int, wanted: int, seed: int) -> NDArray[np.int64]:
    import numpy as np

    return np.sort(np.random.default_rng(seed).permutation(films)[:wanted])


def _by_run(opened: Sequence[Checkpoint]) -> list[tuple[str, list[Checkpoint]]]:
    """Checkpoints of different runs are different curves, each with a verdict of its own; in the order of steps."""
    runs: dict[tuple[Path, str, EncoderInfo, int], list[Checkpoint]] = {}
    for one in opened:
        runs.setdefault((one.folder, one.saved.method, one.saved.info, one.saved.seed), []).append(one)
    folders = [key[0] for key in runs]
    return [
        (_name(*key, alone=folders.count(key[0]) == 1), sorted(run, key=lambda one: one.step))
        for key, run in runs.items()
    ]


def _name(folder: Path, method: str, info: EncoderInfo, seed: int, *, alone: bool) -> str:
    return str(folder) if alone else f"{folder} ({method}, {info.backbone}, {info.size} px, seed {seed})"


@dataclass(frozen=True)
class _Looking:
    """What all encoders are shown."""

    cache: Cache
    rows: NDArray[np.int64]
    device: torch.device
    views: int
    seed: int

    def at(self, encoder: Encoder, one: Checkpoint, on_films: Any) -> tuple[CollapseMetrics, NDArray[np.float32]]:
        """Metrics and features of an encoder that sees as ``one``'s does."""
        from scarce_cli.evaluation.collapse import collapse_metrics
        from scarce_cli.evaluation.features import extract_features, extract_view_features

        seen = (encoder, one.saved.info, self.cache, self.rows, self.device)
        whole = extract_features(*seen, on_films=on_films)
        if not self.views_of(one):
            return collapse_metrics(whole), whole
        assert one.config is not None
        views = extract_view_features(
            *seen, augment=one.config.augment, views=self.views, seed=self.seed, on_films=on_films
        )
        return collapse_metrics(whole, views), whole

    def views_of(self, one: Checkpoint) -> int:
        """None without the augmentation of the training, or where its blur does not fit the encoder's size."""
        if one.config is None or one.config.augment.blur_kernel[1] // 2 >= one.saved.info.size:
            return 0
        return self.views


def _look(runs: Sequence[tuple[str, Sequence[Checkpoint]]], looking: _Looking) -> list[Found]:
    from scarce_cli.commands.console import progress_bar
    from scarce_cli.evaluation.features import random_encoder, restore_encoder

    passes = sum(sum(1 + looking.views_of(one) for one in (*run, run[-1])) for _, run in runs)
    with progress_bar("films") as bar:
        task = bar.add_task("looking", total=len(looking.rows) * passes, note="")

        def look(encoder: Encoder, one: Checkpoint) -> tuple[CollapseMetrics, NDArray[np.float32]]:
            return looking.at(encoder, one, lambda films: bar.advance(task, films))

        found = []
        for name, run in runs:
            metrics = []
            for one in run:
                measured, last = look(restore_encoder(one.saved), one)
                metrics.append(measured)
            random = look(random_encoder(run[-1].saved), run[-1])
            found.append(_found(name, run, metrics, last, random, blind=looking.views_of(run[-1]) < looking.views))
    return found


def _found(
    name: str,
    run: Sequence[Checkpoint],
    metrics: Sequence[CollapseMetrics],
    last_ND: NDArray[np.float32],
    random: tuple[CollapseMetrics, NDArray[np.float32]],
    *,
    blind: bool,
) -> Found:
    """``blind``: views were wanted, and could not be made."""
    from scarce_cli.commands.collapse_history import read_history, with_measured
    from scarce_cli.commands.collapse_report import Found

    history = read_history(run[-1])
    if blind:
        history = replace(history, notes=(*history.notes, "no views: its settings are not those of this version"))
    readings = with_measured(history.readings, list(zip(run, metrics, strict=True)))
    verdict = _judge(history, readings, random[0], run[-1])
    changes = _changes(history, verdict, run[-1])
    return Found(name, run, metrics, random[0], last_ND, random[1], history, readings, verdict, changes)


def _judge(history: History, readings: Sequence[Reading], random: CollapseMetrics, newest: Checkpoint) -> Verdict:
    """Of what was measured now, and of what the run itself measured until shortly before: the worse one."""
    from scarce_cli.commands.collapse_history import is_recent
    from scarce_cli.commands.collapse_report import WORST_FIRST
    from scarce_cli.evaluation.collapse import judge

    now = judge(readings, random, history.expected)
    if not is_recent(history.readings, newest):
        return now
    then = judge(history.readings, history.random, history.expected)
    if WORST_FIRST.index(now.state) <= WORST_FIRST.index(then.state):
        return now
    return replace(then, evidence=(*then.evidence, "(as the run measured it itself while it went)"))


def _changes(history: History, verdict: Verdict, newest: Checkpoint) -> list[Change]:
    from scarce_cli.vitals import changes

    if verdict.failure is None or history.kind is None:
        return []
    settings = newest.settings(history.kind)
    return changes(history.kind.cures_for(verdict.failure, settings), settings or {})


def _report(found: Sequence[Found], cache: Cache, seed: int, folder: Path, *, as_json: bool) -> None:
    from scarce_cli.commands.collapse_report import as_curve, as_plain, show, warn_of, worst
    from scarce_cli.commands.console import say
    from scarce_cli.figures.collapse import draw_collapse
    from scarce_cli.files import write_json

    document = {
        "verdict": worst(one.verdict.state for one in found),
        "data": {"folder": str(cache.folder), "digest": cache.digest, "films": len(cache.names)},
        "seed": seed,
        "runs": [as_plain(one) for one in found],
    }
    for one in found:
        warn_of(one)
        if not as_json:
            show(one)
    written = [folder / "collapse.json", folder / "collapse.png"]
    write_json(written[0], document)
    draw_collapse([as_curve(one) for one in found], written[1])
    if as_json:
        _print_json(document)
    else:
        say(f"Written: {written[0]}, {written[1]}")


def _print_json(document: Mapping[str, Any]) -> None:
    """In ASCII, so that no terminal obeys or refuses a name in it."""
    import json

    typer.echo(json.dumps(document, indent=2))

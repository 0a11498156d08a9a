"""``scarce monitor-collapse``: does the encoder still tell films apart?"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scarce_cli.commands.pretrain import Device

if TYPE_CHECKING:
    from scarce_cli.checkpoint import SavedEncoder
    from scarce_cli.data.cache import Cache
    from scarce_cli.evaluation.collapse import CollapseMetrics
    from scarce_cli.figures.curves import CollapseCurve

_COLLAPSED = 9  # exit code: a verdict, not an error
_WORST_FIRST = ("collapsed", "suspect", "healthy")

Run = list["SavedEncoder"]  # checkpoints of one run, in the order given


def monitor_collapse(
    checkpoints: Annotated[
        list[Path], typer.Argument(help="A checkpoint, several in order, or a run's folder (a curve).")
    ],
    data: Annotated[
        Path | None, typer.Option(help="Prepared data set. Default: the one the checkpoint was trained on.")
    ] = None,
    films: Annotated[int, typer.Option(min=2, help="Films to look at, drawn by the seed.")] = 2048,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for collapse.json and collapse.png. Default: the checkpoint's."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Fixes which films are drawn.")] = 0,
    device: Annotated[Device | None, typer.Option(help="Where to compute. Default: the GPU if there is one.")] = None,
) -> None:
    """Measure how far films differ for an encoder, beside a random one. Exit code 9: collapsed."""
    from scarce_cli.checkpoint import load_encoder
    from scarce_cli.commands.inputs import open_data
    from scarce_cli.files import make_folder

    paths = _expand(checkpoints)
    saved = [load_encoder(path) for path in paths]
    cache = open_data(saved[-1].data, data)
    runs = _by_run(saved)
    curves = _measure(runs, cache, films, seed, device)
    folder = out or _run_folder(paths[-1])
    make_folder(folder)
    _report(runs, curves, folder)


def _expand(checkpoints: list[Path]) -> list[Path]:
    """A run's folder stands for its snapshots, and for its last checkpoint where there are none."""
    from scarce_cli.errors import UsageError
    from scarce_cli.runs import RunFolder

    paths: list[Path] = []
    for path in checkpoints:
        if not path.is_dir():
            paths.append(path)
            continue
        run = RunFolder(path)
        found = run.snapshots() or [p for p in (run.last,) if p.is_file()]
        if not found:
            raise UsageError(f"no checkpoint in {path}", "name a run's folder or a checkpoint such as last.pt")
        paths.extend(found)
    return paths


def _run_folder(checkpoint: Path) -> Path:
    return checkpoint.parent.parent if checkpoint.parent.name == "encoders" else checkpoint.parent


def _by_run(saved: list[SavedEncoder]) -> dict[str, Run]:
    """Checkpoints of different runs are different curves, each with a verdict of its own."""
    runs: dict[tuple[Any, ...], Run] = {}
    for one in saved:
        runs.setdefault((_run_folder(one.path), one.method, one.info, one.seed), []).append(one)
    names = [str(key[0]) for key in runs]
    return {
        str(folder) if names.count(str(folder)) == 1 else f"{folder} ({method}, {info.backbone}, seed {seed})": run
        for (folder, method, info, seed), run in runs.items()
    }


def _measure(runs: dict[str, Run], cache: Cache, films: int, seed: int, device: Device | None) -> list[CollapseCurve]:
    import numpy as np

    from scarce_cli.commands.console import progress_bar
    from scarce_cli.commands.inputs import compute_device
    from scarce_cli.evaluation.collapse import collapse_metrics
    from scarce_cli.evaluation.features import extract_features, random_encoder, restore_encoder
    from scarce_cli.figures.curves import CollapseCurve

    where = compute_device(device)
    count = min(films, len(cache.names))
    rows = np.sort(np.random.default_rng(seed).permutation(len(cache.names))[:count])
    with progress_bar("films") as bar:
        task = bar.add_task("looking", total=count * sum(len(run) + 1 for run in runs.values()), note="")

        def look(encoder: Any, one: SavedEncoder) -> CollapseMetrics:
            return collapse_metrics(
                extract_features(encoder, one.info, cache, rows, where, on_films=lambda n: bar.advance(task, n))
            )

        return [
            CollapseCurve(
                name,
                [float(one.epoch) for one in run],
                [look(restore_encoder(one), one) for one in run],
                look(random_encoder(run[-1]), run[-1]),
            )
            for name, run in runs.items()
        ]


def _report(runs: dict[str, Run], curves: list[CollapseCurve], folder: Path) -> None:
    from scarce_cli.commands.console import say
    from scarce_cli.commands.inputs import table
    from scarce_cli.evaluation.collapse import verdict
    from scarce_cli.figures.curves import draw_collapse
    from scarce_cli.files import write_json

    found = []
    for curve, run in zip(curves, runs.values(), strict=True):
        state, reasons = verdict(curve.metrics, curve.random)
        table(*_table(curve, run))
        say(f"Verdict: {state} ({'; '.join(reasons)})")
        found.append(_as_json(curve, run) | {"verdict": state, "reasons": reasons})
    worst = min((str(run["verdict"]) for run in found), key=_WORST_FIRST.index)
    write_json(folder / "collapse.json", {"verdict": worst, "runs": found})
    draw_collapse(curves, folder / "collapse.png")
    say(f"Written: {folder / 'collapse.json'}, {folder / 'collapse.png'}")
    if worst == "collapsed":
        raise typer.Exit(_COLLAPSED)


def _table(curve: CollapseCurve, run: Run) -> tuple[str, list[str], list[list[str]]]:
    rows = [["random initialisation", "-", *_cells(curve.random)]]
    rows += [[one.path.name, str(one.epoch), *_cells(m)] for one, m in zip(run, curve.metrics, strict=True)]
    title = f"{curve.name}: {run[-1].method}, {curve.random.films} films, {curve.random.dimensions} features"
    return title, ["encoder", "epoch", "relative std", "mean cosine", "effective rank"], rows


def _cells(m: CollapseMetrics) -> list[str]:
    rank = "undefined" if m.effective_rank is None else f"{m.effective_rank:.1f}"
    return [f"{m.relative_std:.3f}", f"{m.mean_cosine:.4f}", f"{rank} of {m.rank_cap}"]


def _as_json(curve: CollapseCurve, run: Run) -> dict[str, Any]:
    return {
        "run": curve.name,
        "method": run[-1].method,
        "random_initialisation": asdict(curve.random),
        "checkpoints": [
            {"path": str(one.path), "sha256": one.digest, "epoch": one.epoch, **asdict(m)}
            for one, m in zip(run, curve.metrics, strict=True)
        ],
    }

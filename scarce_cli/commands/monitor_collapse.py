"""``scarce monitor-collapse``: does the encoder still tell films apart?"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scarce_cli.commands.pretrain import Device

if TYPE_CHECKING:
    from scarce_cli.checkpoint import SavedEncoder
    from scarce_cli.evaluation.collapse import CollapseMetrics

_COLLAPSED = 9  # exit code: a verdict, not an error


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
    device: Annotated[Device, typer.Option(help="Where to compute.")] = Device.cpu,
) -> None:
    """Measure how far films differ for an encoder, beside a random one. Exit code 9: collapsed."""
    from scarce_cli.checkpoint import load_encoder
    from scarce_cli.commands.inputs import open_data
    from scarce_cli.files import make_folder

    paths = _expand(checkpoints)
    saved = [load_encoder(path) for path in paths]
    cache = open_data(saved[-1].data, data)
    metrics, random = _measure(saved, cache, films, seed, device)
    folder = out or paths[-1].parent
    if paths[-1].parent.name == "encoders" and out is None:
        folder = folder.parent
    make_folder(folder)
    _report(saved, metrics, random, folder)


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


def _measure(
    saved: list[SavedEncoder], cache: Any, films: int, seed: int, device: Device
) -> tuple[list[CollapseMetrics], CollapseMetrics]:
    import numpy as np

    from scarce_cli.commands.console import progress_bar
    from scarce_cli.engine.device import find_device
    from scarce_cli.evaluation.collapse import collapse_metrics
    from scarce_cli.evaluation.features import extract_features, random_encoder, restore_encoder

    where = find_device(device.value, needs="--device cuda was given", fits_here="--device cpu")
    count = min(films, len(cache.names))
    rows = np.sort(np.random.default_rng(seed).permutation(len(cache.names))[:count])
    encoders = [(random_encoder(saved[-1]), saved[-1]), *((restore_encoder(s), s) for s in saved)]
    measured = []
    with progress_bar("films") as bar:
        task = bar.add_task("looking", total=count * len(encoders), note="")
        for encoder, origin in encoders:
            features = extract_features(
                encoder, origin.info, cache, rows, where, on_films=lambda n: bar.advance(task, n)
            )
            measured.append(collapse_metrics(features))
    return measured[1:], measured[0]


def _report(saved: list[SavedEncoder], metrics: list[CollapseMetrics], random: CollapseMetrics, folder: Path) -> None:
    from scarce_cli.commands.console import stdout
    from scarce_cli.commands.inputs import table
    from scarce_cli.evaluation.collapse import verdict
    from scarce_cli.figures.curves import draw_collapse
    from scarce_cli.files import write_json

    result, reasons = verdict(metrics, random)
    rows = [["random init", "-", *_cells(random)]]
    rows += [[s.path.name, str(s.epoch), *_cells(m)] for s, m in zip(saved, metrics, strict=True)]
    columns = ["encoder", "epoch", "relative std", "mean cosine", "effective rank"]
    console = stdout()
    console.print(table(f"{random.films} films, {random.dimensions} features", columns, rows))
    console.print(f"Verdict: {result} ({'; '.join(reasons)})", highlight=False, soft_wrap=True)
    write_json(
        folder / "collapse.json",
        {
            "verdict": result,
            "reasons": reasons,
            "random_initialisation": asdict(random),
            "checkpoints": [
                {"path": str(s.path), "sha256": s.digest, "epoch": s.epoch, **asdict(m)}
                for s, m in zip(saved, metrics, strict=True)
            ],
        },
    )
    curve = [(float(s.epoch), m) for s, m in zip(saved, metrics, strict=True)]
    draw_collapse({saved[-1].method: curve}, random, folder / "collapse.png")
    console.print(f"Written: {folder / 'collapse.json'}, {folder / 'collapse.png'}", highlight=False, soft_wrap=True)
    if result == "collapsed":
        raise typer.Exit(_COLLAPSED)


def _cells(m: CollapseMetrics) -> list[str]:
    rank = "undefined" if m.effective_rank is None else f"{m.effective_rank:.1f}"
    return [f"{m.relative_std:.3f}", f"{m.mean_cosine:.4f}", f"{rank} of {m.rank_cap}"]

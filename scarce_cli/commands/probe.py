"""``scarce probe``: what the features are worth with a handful of labels."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scarce_cli.commands.pretrain import Device

if TYPE_CHECKING:
    from scarce_cli.checkpoint import SavedEncoder
    from scarce_cli.data.cache import Cache
    from scarce_cli.evaluation.probe import Films, ProbeSettings, Score, Skipped, Task

RANDOM = "random"
_WORTH_TRYING = 5  # films with and without, in training and test, before a finding is tried unasked


def probe(
    checkpoints: Annotated[list[Path], typer.Argument(help="One checkpoint, or several to compare.")],
    labels: Annotated[
        Path,
        typer.Option(help="Table with image, patient and findings (CSV; NIH's and PadChest's as they are)."),
    ],
    finding: Annotated[
        list[str] | None,
        typer.Option(help="A finding to test; may be repeated. Default: all with enough films."),
    ] = None,
    negative: Annotated[
        str | None, typer.Option(help="Compare with this finding instead of with all other films.")
    ] = None,
    shots: Annotated[str, typer.Option(help="Labelled films per class, separated by commas.")] = "1,5,10,20,50",
    draws: Annotated[int, typer.Option(min=2, help="Support sets drawn for each number of shots.")] = 10,
    test_fraction: Annotated[
        float, typer.Option(min=0.05, max=0.95, help="Share of the patients that is only tested on.")
    ] = 0.2,
    c: Annotated[float, typer.Option(help="Weight of the data in the logistic regression, above 0.")] = 100.0,
    stage: Annotated[
        int,
        typer.Option(
            min=1, max=4, help="Stage of the ResNet to take features from, random ones too; published: the last."
        ),
    ] = 4,
    seed: Annotated[int, typer.Option(min=0, help="Fixes the split and the draws.")] = 0,
    data: Annotated[
        Path | None, typer.Option(help="Prepared data set. Default: the one the checkpoint was trained on.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for probe.json, probe.csv, probe.png. Default: beside the checkpoint."),
    ] = None,
    max_bad: Annotated[
        float,
        typer.Option(min=0, max=1, help="Share of the labels that may have no film, before exit code 3."),
    ] = 0.001,
    device: Annotated[Device | None, typer.Option(help="Where to compute. Default: the GPU if there is one.")] = None,
) -> None:
    """Few-shot linear probe on frozen features, split by patient, against random initialisation."""
    from scarce_cli.data.labels import read_labels

    table = read_labels(labels)
    settings = _settings(shots, draws, c, test_fraction, stage, seed)

    from scarce_cli.checkpoint import load_encoder
    from scarce_cli.commands.inputs import open_data
    from scarce_cli.commands.probe_report import report

    saved = [load_encoder(path) for path in checkpoints]
    _check_alike(saved)
    cache = open_data(saved[0].data, data)
    films, rows = _join(table, cache, max_bad)
    tasks = _choose(films, finding or [], negative, settings)
    results = _evaluate(saved, cache, films, rows, tasks, settings, device)
    report(results, saved, settings, labels, out or checkpoints[0].parent / "probe")


def _check_alike(saved: list[SavedEncoder]) -> None:
    """All are compared with one random initialisation, so they must be of one architecture and size."""
    from scarce_cli.errors import UsageError

    for one in saved[1:]:
        if (one.info, one.seed) != (saved[0].info, saved[0].seed):
            raise UsageError(
                f"{one.path} ({one.info.backbone}, {one.info.size} px, seed {one.seed}) and {saved[0].path} "
                f"({saved[0].info.backbone}, {saved[0].info.size} px, seed {saved[0].seed}) did not start alike",
                "probe them one by one: each has a random initialisation of its own",
            )


def _settings(shots: str, draws: int, c: float, test_fraction: float, stage: int, seed: int) -> ProbeSettings:
    from scarce_cli.errors import UsageError
    from scarce_cli.evaluation.probe import ProbeSettings

    try:
        numbers = tuple(sorted({int(part) for part in shots.split(",")}))
    except ValueError:
        numbers = ()
    if not numbers or numbers[0] < 1:
        raise UsageError(f"--shots {shots}: not whole numbers from 1", "for example --shots 1,5,10")
    if not c > 0:
        raise UsageError(f"--c {c}: must be above 0", "for example --c 1")
    return ProbeSettings(shots=numbers, draws=draws, c=c, test_fraction=test_fraction, stage=stage, seed=seed)


def _join(table: Any, cache: Cache, max_bad: float) -> tuple[Films, Any]:
    """Labelled films and their rows in the cache; counts and names what found no partner."""
    from scarce_cli.commands.console import stderr, warn
    from scarce_cli.data.labels_match import match
    from scarce_cli.errors import TooManyBadFiles, UsageError
    from scarce_cli.evaluation.probe import Films

    for problem in table.problems[:5]:
        warn(problem)
    if len(table.problems) > 5:
        warn(f"{len(table.problems) - 5} more problems in {table.path}")
    found = match(table, cache.names)
    if len(found.rows) == 0:
        raise UsageError(
            f"no image of {table.path} is a film of {cache.folder}",
            f"the films are named like {cache.names[0]}, the images like {table.images[0]}",
        )
    missing = len(found.without_film)
    if missing:
        warn(f"{missing} labels have no film ({', '.join(found.without_film[:5])}, …)")
    if missing > max_bad * len(table.images):
        raise TooManyBadFiles(
            f"{missing} of {len(table.images)} labels in {table.path} have no film in {cache.folder}",
            "prepare the missing films; or --max-bad 1 if the table covers more films than these",
        )
    if found.without_label:
        stderr().print(f"{len(found.without_label)} films have no label and are left out", highlight=False)
    patients = tuple(table.patients[i] for i in found.labels)
    return Films(patients, tuple(table.findings[i] for i in found.labels)), found.rows


def _choose(films: Films, wanted: list[str], negative: str | None, settings: ProbeSettings) -> list[Task]:
    from scarce_cli.data.labels import NORMAL
    from scarce_cli.errors import UsageError
    from scarce_cli.evaluation.probe import make_task

    if wanted:
        return [make_task(films, name, negative, settings) for name in wanted]
    names = sorted({name for findings in films.findings for name in findings})
    candidates = [name for name in names if name.casefold() not in NORMAL and name != negative]
    tasks = [make_task(films, name, negative, settings) for name in candidates]
    tasks = [task for task in tasks if _is_worth_trying(task)]
    if not tasks:
        raise UsageError("no finding has enough films for a probe", "name one with --finding, or label more")
    return tasks


def _is_worth_trying(task: Task) -> bool:
    tested = task.labels[task.test]
    return task.available() >= _WORTH_TRYING and min(tested.sum(), (~tested).sum()) >= _WORTH_TRYING


def _evaluate(
    saved: list[SavedEncoder],
    cache: Cache,
    films: Films,
    rows: Any,
    tasks: list[Task],
    settings: ProbeSettings,
    device: Device | None,
) -> list[Score | Skipped]:
    import numpy as np

    from scarce_cli.commands.console import progress_bar
    from scarce_cli.commands.inputs import compute_device
    from scarce_cli.evaluation.features import extract_features, random_encoder, restore_encoder
    from scarce_cli.evaluation.probe import run_probe

    where = compute_device(device)
    encoders = {RANDOM: (random_encoder(saved[0]), saved[0])}
    for one in saved:
        encoders[_name(one, saved)] = (restore_encoder(one), one)
    used = np.unique(np.concatenate([task.films for task in tasks]))
    features = {}
    with progress_bar("films") as bar:
        reading = bar.add_task("features", total=len(used) * len(encoders), note="")
        for name, (encoder, origin) in encoders.items():
            part = extract_features(
                encoder,
                origin.info,
                cache,
                rows[used],
                where,
                stage=settings.stage,
                on_films=lambda n: bar.advance(reading, n),
            )
            features[name] = np.zeros((len(rows), part.shape[1]), np.float32)
            features[name][used] = part
        fitting = bar.add_task("findings", total=len(tasks), note="")
        return run_probe(tasks, features, settings, lambda task: bar.advance(fitting))


def _name(one: SavedEncoder, saved: list[SavedEncoder]) -> str:
    name = f"{one.method} epoch {one.epoch}"
    same = [other for other in saved if f"{other.method} epoch {other.epoch}" == name]
    return name if len(same) == 1 else f"{name} ({one.path})"

"""``scarce cache``: all prepared films in one file that training maps."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from scarce_cli.data.preprocess import Request

_STRAIGHT = "Straight from source films"


def cache(
    *,
    dataset: Annotated[
        Path,
        typer.Argument(
            metavar="DATASET",
            help="Data set folder made by scarce preprocess, such as nih-256; or, with --size, a folder of films.",
        ),
    ],
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="Build it again although there is one. Readers keep the old one.")
    ] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Build nothing: read every byte and name a damaged block.")
    ] = False,
    workers: Annotated[int, typer.Option(min=0, help="Processes, 0 for one per core.")] = 0,
    size: Annotated[
        int | None,
        typer.Option(
            metavar="PIXELS",
            help="Build from source films, without PNG files in between: a multiple of 32 from 32 to 4096.",
            rich_help_panel=_STRAIGHT,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="Data set folder to make. Default: <folder>-<size> here.", rich_help_panel=_STRAIGHT
        ),
    ] = None,
    window: Annotated[
        str, typer.Option(metavar="percentile|minmax", help="As in scarce preprocess.", rich_help_panel=_STRAIGHT)
    ] = "percentile",
    fit: Annotated[
        str, typer.Option(metavar="pad|squash|crop", help="As in scarce preprocess.", rich_help_panel=_STRAIGHT)
    ] = "pad",
    max_bad: Annotated[
        float,
        typer.Option(
            min=0.0,
            max=1.0,
            help="Share of unusable files, 0 to 1, above which the exit code is 3.",
            rich_help_panel=_STRAIGHT,
        ),
    ] = 0.001,
    dedupe: Annotated[
        bool, typer.Option("--dedupe", help="Leave duplicates and near-duplicates out.", rich_help_panel=_STRAIGHT)
    ] = False,
    follow_links: Annotated[
        bool,
        typer.Option("--follow-links", help="Follow links that leave the folder.", rich_help_panel=_STRAIGHT),
    ] = False,
) -> None:
    """Put all prepared films into one plain .npy file that training maps into memory at once.

    Anyone opens it with numpy.load("cache.npy", mmap_mode="r"): (N, size, size) uint8.

    The order of the films, the settings and a digest per block are in cache.json.
    """
    from scarce_cli.data.dataset import read_dataset
    from scarce_cli.data.film import Settings
    from scarce_cli.data.preprocess import Request
    from scarce_cli.data.sources import default_folder

    if verify:
        _verify(dataset)
        return
    if (dataset / "dataset.json").exists():
        prepared = read_dataset(dataset)
        _refuse_other_size(dataset, prepared.settings.size, size)
        if prepared.images:
            _from_images(dataset, rebuild, workers)
            return
        request = Request(
            prepared.source, dataset, prepared.settings, None, workers, prepared.dedupe, prepared.follow_links
        )
        _from_films(request, rebuild, max_bad)
        return
    _require_size(dataset, size)
    assert size is not None
    folder = out or default_folder(dataset, size)
    request = Request(dataset, folder, Settings(size, window, fit), None, workers, dedupe, follow_links)
    _from_films(request, rebuild, max_bad)


def _refuse_other_size(dataset: Path, present: int, wanted: int | None) -> None:
    from scarce_cli.errors import UsageError

    if wanted not in (None, present):
        raise UsageError(f"{dataset} holds films of size {present}, not {wanted}", "leave out --size")


def _require_size(dataset: Path, size: int | None) -> None:
    from scarce_cli.errors import UsageError

    if not dataset.is_dir():
        raise UsageError(f"{dataset}: no such folder", "prepare one: scarce preprocess --src FOLDER --size 256")
    if size is None:
        raise UsageError(
            f"{dataset} is no prepared data set (it has no dataset.json)",
            f"prepare it: scarce preprocess --src {dataset} --size 256, or build straight from its films: "
            f"scarce cache {dataset} --size 256",
        )


def _from_images(folder: Path, rebuild: bool, workers: int) -> None:
    from scarce_cli.commands.console import progress_bar
    from scarce_cli.data.build import build_from_images, check_cache
    from scarce_cli.data.dataset import read_dataset

    if not rebuild and check_cache(folder):
        _say_what_is_there(folder, "is up to date")
        return
    dataset = read_dataset(folder)
    _say_size(dataset.counts.get("films", 0), dataset.settings.size, folder)
    with progress_bar("films") as bar:
        task = bar.add_task("building the cache", total=None, note="")
        build_from_images(
            folder,
            workers=workers,
            progress=lambda done, total, bad: bar.update(task, completed=done, total=total),
        )
    _say_what_is_there(folder, "is built")


def _from_films(request: Request, rebuild: bool, max_bad: float) -> None:
    from scarce_cli.commands.console import progress_bar
    from scarce_cli.commands.preprocess import report
    from scarce_cli.data.build import build_from_films
    from scarce_cli.data.preprocess import check_bad, find_films

    _say_size(len(find_films(request)), request.settings.size, request.folder)
    with progress_bar("films") as bar:
        task = bar.add_task("building the cache", total=None, note="")
        outcome = build_from_films(
            request,
            rebuild=rebuild,
            progress=lambda done, total, bad: bar.update(
                task, completed=done, total=total, note=f"{bad} skipped" if bad else ""
            ),
        )
    report(request.folder, outcome)
    if outcome.dataset and outcome.dataset.counts["films"]:
        _say_what_is_there(request.folder, "is built" if outcome.new else "is up to date")
    check_bad(outcome.rows, request.folder, max_bad)


def _say_size(films: int, size: int, folder: Path) -> None:
    from scarce_cli.commands.console import stdout
    from scarce_cli.data.memory import available_memory, size_advice
    from scarce_cli.files import free_bytes

    free = free_bytes(folder if folder.is_dir() else folder.absolute().parent)
    for line in size_advice(films, size, free, available_memory()):
        stdout().print(line, soft_wrap=True, highlight=False)


def _say_what_is_there(folder: Path, state: str) -> None:
    from rich.markup import escape

    from scarce_cli.commands.console import stdout
    from scarce_cli.data.cache import CACHE, open_cache

    opened = open_cache(folder)
    stdout().print(
        f"{escape(str(folder / CACHE))} {state}: {len(opened.names):,} films of {opened.size} x {opened.size}, "
        f"{opened.images.nbytes / 2**30:.2f} GiB, mean {opened.mean:.4f}, std {opened.std:.4f}",
        soft_wrap=True,
        highlight=False,
    )


def _verify(folder: Path) -> None:
    from rich.markup import escape

    from scarce_cli.commands.console import stdout
    from scarce_cli.data.cache import CACHE, verify_cache

    index = verify_cache(folder)
    stdout().print(
        f"{escape(str(folder / CACHE))} is as it was written: {len(index.blocks)} blocks, "
        f"{index.films_shape[0]:,} films",
        soft_wrap=True,
        highlight=False,
    )

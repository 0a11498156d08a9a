"""``scarce preprocess``: from a folder of films to a prepared data set."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from scarce_cli.data.preprocess import Outcome, Request


def preprocess(
    src: Annotated[Path, typer.Option("--src", help="Folder of films, nested as you like. Only read.")],
    size: Annotated[
        int, typer.Option(help="Side of the prepared films in pixels: a multiple of 32, 32 to 4096.")
    ] = 256,
    out: Annotated[
        Path | None, typer.Option(help="Data set folder to make. Default: <name of src>-<size> here.")
    ] = None,
    window: Annotated[
        str, typer.Option(help="Raw values that become black and white: percentile (0.5 to 99.5) or minmax.")
    ] = "percentile",
    fit: Annotated[
        str, typer.Option(help="pad (aspect kept, black border), squash (aspect lost) or crop (centre).")
    ] = "pad",
    max_bad: Annotated[
        float, typer.Option(help="Share of files that may be unusable, 0 to 1, before the exit code is 3.")
    ] = 0.001,
    workers: Annotated[int, typer.Option(help="Processes, 1 or more. Default 0: one per core.")] = 0,
    shard: Annotated[
        str, typer.Option(help="Do part K of N only, as K/N (1/16 to 16/16). A last call without it merges.")
    ] = "",
    dedupe: Annotated[
        bool, typer.Option("--dedupe", help="Leave out duplicates instead of only reporting them.")
    ] = False,
    follow_links: Annotated[
        bool, typer.Option("--follow-links", help="Also read what links inside --src point to outside of it.")
    ] = False,
) -> None:
    """Turn X-rays of any kind (PNG, JPEG, TIFF, DICOM; 8 or 16 bit) into small 8-bit squares, losing no grey level.

    Makes a data set folder with images/, manifest.csv (one row per file), bad_files.csv and dataset.json.
    The sources are only read. Run it again after an interruption: it does what is missing.
    """
    from scarce_cli.commands.console import progress_bar
    from scarce_cli.data.film import Settings
    from scarce_cli.data.preprocess import Request, check_bad
    from scarce_cli.data.preprocess import preprocess as run

    folder = out or Path(f"{src.absolute().name}-{size}")
    request = Request(
        src, folder, Settings(size, window, fit), _parse_shard(shard), max_bad, workers, dedupe, follow_links
    )
    with progress_bar("films") as bar:
        task = bar.add_task("preparing", total=None, note="")
        outcome = run(
            request,
            lambda done, total, bad: bar.update(
                task, completed=done, total=total, note=f"{bad} skipped" if bad else ""
            ),
        )
    _report(request, outcome)
    check_bad(outcome.rows, folder, max_bad)


def _parse_shard(text: str) -> tuple[int, int] | None:
    from scarce_cli.errors import UsageError

    if not text:
        return None
    part, slash, parts = text.partition("/")
    if slash and part.isdecimal() and parts.isdecimal() and 1 <= int(part) <= int(parts):
        return int(part), int(parts)
    raise UsageError(
        f"--shard {text}: not a part", "write it as K/N with K from 1 to N, such as --shard 3/16"
    )


def _report(request: Request, outcome: Outcome) -> None:
    from collections import Counter

    from rich.markup import escape
    from rich.table import Table

    from scarce_cli.commands.console import stdout

    table = Table("", "films", title=escape(str(request.folder)), title_justify="left")
    counts = Counter(row.reason if row.status == "skipped" else row.status for row in outcome.rows)
    table.add_row("done", str(counts.pop("done", 0)))
    for what, count in counts.most_common(12):
        table.add_row(escape(what), str(count))
    table.add_row("same pixels as another", str(sum(bool(row.duplicate_of) for row in outcome.rows)))
    stdout().print(table)
    if outcome.dataset:
        stdout().print(f"Next: scarce cache {escape(str(request.folder))}", soft_wrap=True)

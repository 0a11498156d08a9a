"""``scarce preprocess``: from a folder of films to a prepared data set."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from scarce_cli.data.manifest import Row
    from scarce_cli.data.preprocess import Outcome

SHEET = "suspicious.png"
_SHOWN_REASONS = 12


def preprocess(
    *,
    src: Annotated[
        Path, typer.Option("--src", metavar="FOLDER", help="Folder of films, nested as you like. It is only read.")
    ],
    size: Annotated[
        int, typer.Option(metavar="PIXELS", help="Side of the prepared films: a multiple of 32 from 32 to 4096.")
    ] = 256,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Data set folder to make. Default: <name of --src>-<size> here."),
    ] = None,
    window: Annotated[
        str,
        typer.Option(
            metavar="percentile|minmax",
            help="Which values become black and white: percentile (0.5 % beyond either end, so that a "
            "burned-in marker does not count) or minmax (the extremes).",
        ),
    ] = "percentile",
    fit: Annotated[
        str,
        typer.Option(
            metavar="pad|squash|crop",
            help="pad (aspect kept, black border), squash (aspect lost) or crop (centred square).",
        ),
    ] = "pad",
    max_bad: Annotated[
        float,
        typer.Option(min=0.0, max=1.0, help="Share of unusable files, 0 to 1, above which the exit code is 3."),
    ] = 0.001,
    workers: Annotated[int, typer.Option(min=0, help="Processes, 0 for one per core.")] = 0,
    shard: Annotated[
        str,
        typer.Option(metavar="K/N", help="Do only part K of N, for job arrays. A last call without it merges."),
    ] = "",
    dedupe: Annotated[
        bool,
        typer.Option("--dedupe", help="Leave duplicates and near-duplicates out instead of reporting them."),
    ] = False,
    follow_links: Annotated[
        bool, typer.Option("--follow-links", help="Follow links inside --src that leave it.")
    ] = False,
) -> None:
    """Turn X-rays (PNG, JPEG, TIFF, DICOM; 8 or 16 bit) into small 8-bit squares without losing grey levels.

    Makes a data set folder with images/, manifest.csv (one row per file),
    bad_files.csv (what could not be used, and why) and dataset.json.

    Run it again after an interruption: it does what is missing.
    """
    from scarce_cli.commands.console import progress_bar
    from scarce_cli.data.film import Settings
    from scarce_cli.data.preprocess import Request, check_bad
    from scarce_cli.data.preprocess import preprocess as run
    from scarce_cli.data.sources import default_folder

    folder = out or default_folder(src, size)
    request = Request(src, folder, Settings(size, window, fit), _parse_shard(shard), workers, dedupe, follow_links)
    with progress_bar("films") as bar:
        task = bar.add_task("preparing", total=None, note="")
        outcome = run(
            request,
            lambda done, total, bad: bar.update(
                task, completed=done, total=total, note=f"{bad} skipped" if bad else ""
            ),
        )
    report(folder, outcome)
    _say_next(folder, shard, outcome)
    check_bad(outcome.rows, folder, max_bad)


def _parse_shard(text: str) -> tuple[int, int] | None:
    from scarce_cli.errors import UsageError

    if not text:
        return None
    part, slash, parts = text.partition("/")
    if slash and part.isdecimal() and parts.isdecimal() and 1 <= int(part) <= int(parts):
        return int(part), int(parts)
    raise UsageError(f"--shard {text}: not a part", "write it as K/N with K from 1 to N, such as --shard 3/16")


def report(folder: Path, outcome: Outcome) -> None:
    """The closing table: what was done, what was skipped and why, and what to look at."""
    from rich.markup import escape
    from rich.table import Table

    from scarce_cli.commands.console import stdout

    rows = outcome.rows
    table = Table("", "films", title=escape(str(folder)), title_justify="left")
    done = sum(row.status == "done" for row in rows)
    table.add_row("done", f"{done:,}" + (f" ({outcome.new:,} now)" if 0 < outcome.new < len(rows) else ""))
    for what, count in _reasons(rows):
        table.add_row(f"skipped: {escape(what)}", f"{count:,}")
    if outcome.dataset:
        dropped = ", left out" if outcome.dataset.dedupe else ""
        for key, what in (("duplicates", "duplicates"), ("near_duplicates", "near-duplicates")):
            table.add_row(what + dropped, f"{outcome.dataset.counts[key]:,}")
        for what, count in _suspicions(rows):
            table.add_row(f"looks {what}" if what != "no contrast" else what, f"{count:,}")
    stdout().print(table)
    if outcome.dataset:
        _draw_sheet(folder, rows)


def _reasons(rows: Sequence[Row]) -> list[tuple[str, int]]:
    from collections import Counter

    counts = Counter(row.reason for row in rows if row.status == "skipped").most_common()
    shown = counts[:_SHOWN_REASONS]
    rest = sum(count for _, count in counts[_SHOWN_REASONS:])
    return [*shown, ("other reasons (see bad_files.csv)", rest)] if rest else shown


def _suspicions(rows: Sequence[Row]) -> list[tuple[str, int]]:
    from collections import Counter

    return Counter(row.suspicion for row in rows if row.status == "done" and row.suspicion).most_common()


def _draw_sheet(folder: Path, rows: Sequence[Row]) -> None:
    """Up to 40 films that look turned or inverted, to be looked at; none: no sheet."""
    from rich.markup import escape

    from scarce_cli.commands.console import stdout
    from scarce_cli.data.cache import open_cache
    from scarce_cli.data.preprocess import read_image
    from scarce_cli.data.sources import printable
    from scarce_cli.figures.contact import MOST, draw_contact_sheet

    suspects = [row for row in rows if row.status == "done" and row.suspicion]
    path = folder / SHEET
    if not suspects:
        path.unlink(missing_ok=True)
        return
    if suspects[0].output:
        squares = [read_image(folder, row) for row in suspects[:MOST]]
    else:
        cache = open_cache(folder)
        place = {name: number for number, name in enumerate(cache.names)}
        squares = [cache.images[place[row.path]] for row in suspects[:MOST]]
    captions = [(printable(row.path), row.suspicion) for row in suspects[:MOST]]
    draw_contact_sheet(path, squares, captions)
    stdout().print(
        f"Look at {escape(str(path))}: {len(squares)} of {len(suspects)} films that may not be upright chest films",
        soft_wrap=True,
        highlight=False,
    )


def _say_next(folder: Path, shard: str, outcome: Outcome) -> None:
    from rich.markup import escape

    from scarce_cli.commands.console import stdout

    if shard:
        line = f"Part {shard} is done. When all parts are: the same command without --shard merges them."
    elif outcome.dataset and outcome.dataset.counts["films"]:
        line = f"Next: scarce cache {escape(str(folder))}"
    else:
        return
    stdout().print(line, soft_wrap=True, highlight=False)

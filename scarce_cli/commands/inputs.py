"""What evaluation commands are given: checkpoints, the data set behind them, a device."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scarce_cli.commands.console import warn

if TYPE_CHECKING:
    from scarce_cli.data.cache import Cache


def open_data(remembered: Mapping[str, Any], data: Path | None) -> Cache:
    """The data set named by ``--data``, else the one the checkpoint was trained on, else the one here.

    Raises:
        UsageError: none of them is there.
    """
    from scarce_cli.data.cache import find_dataset, open_cache

    if data is not None:
        return open_cache(find_dataset(Path(), data))
    folder = Path(str(remembered["folder"]))
    if not folder.is_dir():
        warn(f"the data set {folder} that the checkpoint was trained on is gone; looking in this folder")
        return open_cache(find_dataset(Path(), None))
    cache = open_cache(folder)
    if cache.digest != remembered["digest"]:
        warn(f"{folder} has changed since the checkpoint was trained on it")
    return cache


def table(title: str, columns: list[str], rows: list[list[str]]) -> Any:
    """A rich table; the first column to the left, the others to the right."""
    from rich.table import Table
    from rich.text import Text

    result = Table(title=title, title_justify="left")
    for number, column in enumerate(columns):
        result.add_column(column, justify="right" if number else "left")
    for row in rows:
        result.add_row(*(Text(cell) for cell in row))
    return result

"""What evaluation commands share: the data set behind a checkpoint, the device, tables."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scarce_cli.commands.console import harmless, say, stdout, warn

if TYPE_CHECKING:
    import torch

    from scarce_cli.commands.pretrain import Device
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
        folder = find_dataset(Path(), None)
    cache = open_cache(folder)
    if cache.digest != remembered["digest"]:
        warn(f"the films of {folder} are not those that the checkpoint was trained on")
    return cache


def compute_device(wanted: Device | None) -> torch.device:
    """The device asked for; the GPU if there is one and nothing was asked. Raises ResourceError."""
    import torch

    from scarce_cli.engine.device import find_device
    from scarce_cli.engine.host_memory import keep_memory

    name = wanted.value if wanted else "cuda" if torch.cuda.is_available() else "cpu"
    device = find_device(name, needs="--device cuda was given", remedy="leave out --device, or --device cpu")
    if device.type == "cpu":
        keep_memory()
    return device


def table(title: str, columns: list[str], rows: list[list[str]]) -> None:
    """Print a table on stdout: the first column to the left, the others to the right. No cell is cut or
    read as markup; a terminal that is too narrow breaks it over lines."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    say(f"\n{title}")
    tall = any("\n" in cell for row in rows for cell in row)
    result = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0), leading=int(tall))
    for number, column in enumerate(columns):
        result.add_column(Text(harmless(column)), justify="right" if number else "left", overflow="fold")
    for row in rows:
        result.add_row(*(Text(harmless(cell)) for cell in row))
    stdout().print(result)

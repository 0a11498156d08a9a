"""``scarce cache``: all prepared films in one file that training maps."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def cache(
    dataset: Annotated[
        Path, typer.Argument(help="Data set folder made by scarce preprocess, such as nih-256.")
    ],
) -> None:
    """Put all prepared films into one plain .npy file that training maps into memory at once.

    Anyone opens it with numpy.load("cache.npy", mmap_mode="r"): (N, size, size) uint8. The order of the films
    and the digests are in cache.json beside it.
    """
    from scarce_cli.commands.console import progress_bar, stdout
    from scarce_cli.data.build import build_cache
    from scarce_cli.data.cache import CACHE, open_cache

    with progress_bar("films") as bar:
        task = bar.add_task("building the cache", total=None, note="")
        build_cache(dataset, lambda done, total, bad: bar.update(task, completed=done, total=total))
    opened = open_cache(dataset)
    stdout().print(
        f"{len(opened.names)} films, {opened.images.nbytes / 2**30:.2f} GiB: {dataset / CACHE}",
        soft_wrap=True,
    )

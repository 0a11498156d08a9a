"""Views by themselves, beside the plain way: python tests/bench/views.py [--data FOLDER] [--json FILE]

Ours: batches of films on torch's threads, in one channel. The plain way: Pillow and torchvision on three equal channels
in the workers of a DataLoader, as many as threads. Two views of each film, the published settings with one kernel size
for both. They take turns in one run; a ratio is the median over the rounds, with the smallest and the largest. Nine
tenths of the plain way at 23 px are torchvision's two-dimensional blur, so 9 px is the figure that says more.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from plain_loader import make_loader, share
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.utils.data import DataLoader

from scarce_cli.config import AugmentSettings, DataSettings
from scarce_cli.data.augment import draw_parameters, make_view
from scarce_cli.data.cache import open_cache
from scarce_cli.data.phantom import draw_phantom
from scarce_cli.methods.base import ViewSpec

VIEWS = 2  # of each film
TARGETS = {9: 2.0, 23: 8.0}  # kernel size in px -> how many times the plain way's films per second
Geometry = Literal["warp", "published"]


@dataclass(kw_only=True)
class Rounds:
    """Films per second of both sides, by rounds."""

    films_per_s: list[float] = field(default_factory=list)
    plain_films_per_s: list[float] = field(default_factory=list)

    @property
    def ratios(self) -> list[float]:
        """By rounds."""
        return [a / b for a, b in zip(self.films_per_s, self.plain_films_per_s, strict=True)]


@dataclass
class Row(Rounds):
    """One comparison."""

    kernel: int  # px
    geometry: Geometry


def main() -> None:
    """Compare at every kernel size asked for, print one table, write the JSON."""
    options = _options()
    torch.set_num_threads(options.threads)
    images = np.asarray(open_cache(options.data).images[: options.films]) if options.data else draw_films(64, options)
    rows = [compare(images, kernel, geometry, options) for kernel in options.kernels for geometry in options.geometries]
    Console(width=None if Console().is_terminal else 120).print(table(rows, images.shape[1], options))
    if options.json:
        options.json.write_text(json.dumps(as_json(rows, images.shape[1], options), indent=1))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with a cached data set; without it, films are drawn")
    parser.add_argument("--stored", type=int, default=256, help="px of a drawn film")
    parser.add_argument("--size", type=int, default=224, help="px of a view")
    parser.add_argument("--kernels", type=int, nargs="+", default=list(TARGETS), help="px of the blur's kernel")
    parser.add_argument("--geometries", nargs="+", choices=("warp", "published"), default=["warp"])
    parser.add_argument("--films", type=int, default=64, help="by turn")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def draw_films(count: int, options: argparse.Namespace) -> NDArray[np.uint8]:
    """(count, stored, stored), chest-like."""
    drawn = np.stack([draw_phantom(0, n, size=options.stored).pixels for n in range(count)]).astype(np.float32)
    low, high = drawn.min(axis=(1, 2), keepdims=True), drawn.max(axis=(1, 2), keepdims=True)
    return ((drawn - low) / (high - low) * 255).astype(np.uint8)


def view_specs(kernel: int, geometry: Geometry, size: int) -> list[ViewSpec]:
    """Two views with the published settings."""
    augment = AugmentSettings(rotation_degrees=10.0, blur_kernel=(kernel, kernel), geometry=geometry)
    return [ViewSpec(size, augment)] * VIEWS


def compare(images: NDArray[np.uint8], kernel: int, geometry: Geometry, options: argparse.Namespace) -> Row:
    """Both by turns; the first round warms up, and the order turns round every time."""
    specs, data, row = (
        view_specs(kernel, geometry, options.size),
        DataSettings(size=options.size),
        Row(kernel, geometry),
    )
    batches = max(1, options.films // options.batch)
    loader = make_loader(
        share(images), specs, data, batch=options.batch, batches=batches, workers=options.threads, pin=False
    )
    for turn in range(options.rounds + 1):
        for side in ("ours", "plain") if turn % 2 else ("plain", "ours"):
            if side == "ours":
                rate = our_rate(images, specs, data, batch=options.batch, batches=batches, epoch=turn)
            else:
                rate = plain_rate(loader, batches * options.batch)
            if turn:
                (row.films_per_s if side == "ours" else row.plain_films_per_s).append(rate)
    return row


def our_rate(
    images: NDArray[np.uint8], specs: list[ViewSpec], data: DataSettings, *, batch: int, batches: int, epoch: int
) -> float:
    """Films per second of our way, from the stored films to normalised views."""
    order = np.random.default_rng(epoch).permutation(batch * batches) % len(images)
    start = time.perf_counter()
    for index in range(batches):
        our_views(images, specs, data, order[index * batch : (index + 1) * batch], epoch)
    return batch * batches / (time.perf_counter() - start)


def our_views(
    images: NDArray[np.uint8], specs: list[ViewSpec], data: DataSettings, rows: NDArray[np.int64], epoch: int
) -> list[Tensor]:
    """All views of the films ``rows``: (B, 1, size, size) each."""
    films, views = torch.from_numpy(images[rows]), []
    for number, spec in enumerate(specs):
        drawn = draw_parameters(spec.augment, images.shape[1], seed=0, epoch=epoch, films=rows, view=number)
        made = make_view(films, spec.augment, drawn, size=spec.size, mean=data.mean, std=data.std)
        views.append(made.image_BCHW)
    return views


def plain_rate(loader: DataLoader[list[Tensor]], films: int) -> float:
    """Films per second of the plain way. The turn is an epoch of its own: nothing is prepared in the other's time."""
    start = time.perf_counter()
    for _ in loader:
        pass
    return films / (time.perf_counter() - start)


def table(rows: list[Row], stored: int, options: argparse.Namespace) -> Table:
    """One line for each comparison."""
    found = Table(title=f"two views of {options.size} px of each film of {stored} px, {options.threads} threads")
    for column in ("kernel", "geometry", "ours, films/s", "plain, films/s", "times", "spread", "target"):
        found.add_column(column, justify="left" if column == "geometry" else "right")
    for row in rows:
        low, mid, high = min(row.ratios), median(row.ratios), max(row.ratios)
        target = TARGETS.get(row.kernel) if row.geometry == "warp" else None
        found.add_row(
            str(row.kernel), row.geometry, f"{median(row.films_per_s):.0f}", f"{median(row.plain_films_per_s):.0f}",
            f"{mid:.1f}", f"{low:.1f} to {high:.1f}",
            "" if target is None else f"{target:g}: {'reached' if mid >= target else 'missed'}",
        )  # fmt: skip
    return found


def as_json(rows: list[Row], stored: int, options: argparse.Namespace) -> dict[str, Any]:
    """The same with all rounds."""
    found = [
        {"kernel": row.kernel, "geometry": row.geometry, "films_per_s": row.films_per_s,
         "plain_films_per_s": row.plain_films_per_s, "times": median(row.ratios), "target": TARGETS.get(row.kernel)}
        for row in rows
    ]  # fmt: skip
    names = ("size", "films", "batch", "rounds", "threads")
    asked = {name: getattr(options, name) for name in names}
    return {"torch": torch.__version__, "stored": stored, **asked, "views": VIEWS, "rows": found}


if __name__ == "__main__":
    main()

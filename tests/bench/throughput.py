"""How fast a training step is on a CPU, beside the plain loop: python tests/bench/throughput.py [--full] [--json FILE]

Both sides use all cores that torch is given and take turns in one run; a ratio is the median over the rounds, with the
smallest and the largest. Four parts: views alone (as tests/bench/views.py), a whole step (films, views, model), the
step on views that are there already, and the moving average of a second network. Both sides make the same views, those
of the published series; ``--kernel`` is the size of the blur. The plain side is float32, its DataLoader has as many
workers as there are threads, and every turn is an epoch of its own, so that nothing is prepared in the other's time:
with fewer ``--steps`` than workers some of these would have nothing to do. In steps each side is a process of its own
that sleeps while the other computes, because how memory is kept is a matter of the process.

SparK is there twice: sparse, as in the recipe, and masked at the input, as published. The plain side is masked at the
input in both.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
import views
from plain import moving_average_loop
from plain_loader import share
from rich.console import Console
from rich.table import Table
from sides import PUBLISHED, Ours, Plain, Recipe, Side, draw_films, load_recipe, open_films, specs_of
from turns import Take, apart, take_turn

from scarce_cli.models.ema import frozen_copy, moving_average
from scarce_cli.models.resnet import build_encoder

CASES = {
    "moco": ("moco", "l4"),
    "barlow": ("barlow", PUBLISHED),  # the projector of 8,192 is for a batch of 256: here it would be all there is
    "dino": ("dino", "l4"),
    "spark": ("spark", "l4"),
    "spark, input": ("spark", PUBLISHED),
}
PARTS = ("views", "step", "model", "ema")
TARGETS = {"fp32": 1.25, "bf16": 1.8}  # of a whole step; the second on a CPU with AMX
FLAGS = ("avx2", "avx512f", "avx512_bf16", "avx512_fp16", "amx_bf16")
STORED = 256  # px of a film for a view of 224; in proportion for others


@dataclass
class Row(views.Rounds):
    """One comparison."""

    part: str
    case: str
    ours: str  # precision
    target: float | None = None  # of the ratio


def main() -> None:
    """Run the parts asked for, print one table, write the JSON."""
    options = _options()
    torch.set_num_threads(options.threads)
    machine, rows = cpu(options.threads), []
    with tempfile.TemporaryDirectory() as place:
        side = max(32, round(options.size * STORED / 224))
        options.stored_films = Path(place) / "films.npy"
        draw_films(options.stored_films, max(4 * options.batch, 64), side)
        for case in options.cases:
            rows += compare_steps(case, options)
        if "views" in options.parts:
            rows += compare_views(side, options)
    if "ema" in options.parts:
        rows.append(compare_averages(options))
    Console(width=None if Console().is_terminal else 120).print(table(rows, machine, options))
    if options.json:
        options.json.write_text(json.dumps(as_json(rows, machine, options), indent=1))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--precisions", nargs="+", choices=TARGETS, default=list(TARGETS), help="of our side")
    parser.add_argument("--backbone", choices=("resnet18", "resnet50"), default="resnet18")
    parser.add_argument("--size", type=int, default=96, help="px of a view, a multiple of 32")
    parser.add_argument("--batch", type=int, default=32, help="a multiple of 8")
    parser.add_argument("--kernel", type=int, default=9, help="px of the blur's kernel; published: up to 23")
    parser.add_argument("--steps", type=int, help="by turn; default: as many as threads, at least 2")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--full", action="store_true", help="MoCo with ResNet-50 at 224 px")
    parser.add_argument("--toy", action="store_true", help="seconds, to see that everything works")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    options.steps = options.steps or max(2, options.threads)
    if options.full:
        options.cases, options.backbone, options.size = ["moco"], "resnet50", 224
    if options.toy:
        options.size, options.batch, options.steps, options.rounds = 64, 8, 1, 1
    return options


def cpu(threads: int) -> dict[str, Any]:
    """What the processor is, and which of the instructions that matter here it has."""
    path = Path("/proc/cpuinfo")
    lines = [line.split(":", 1) for line in path.read_text().splitlines() if ":" in line] if path.is_file() else []
    known = {key.strip(): value.strip() for key, value in reversed(lines)}
    flags = known.get("flags", "").split()
    return {
        "cpu": known.get("model name", "not known"),
        "threads": threads,
        "instructions": [flag for flag in FLAGS if flag in flags],
        "torch": torch.__version__,
    }


def compare_steps(case: str, options: argparse.Namespace) -> list[Row]:
    """Whole steps and steps on views that are there, of all sides of a case by turns."""
    recipes = {name: _recipe(case, name, options) for name in options.precisions}
    shared = recipes[options.precisions[0]]  # crops, batch and network are the same in all
    made: dict[str, Callable[[], Side]] = {name: partial(_ours, recipe, options) for name, recipe in recipes.items()}
    made["plain"] = partial(_plain, shared, options)
    rows = []
    with contextlib.ExitStack() as stack:
        sides = {name: stack.enter_context(_taking_turns(make, options)) for name, make in made.items()}
        for part in ("step", "model"):
            if part in options.parts:
                rates = _by_turns(sides, part, options)
                for name in options.precisions:
                    target = TARGETS[name] if part == "step" else None
                    rows.append(
                        Row(part, case, name, target, films_per_s=rates[name], plain_films_per_s=rates["plain"])
                    )
    return rows


def _ours(recipe: Recipe, options: argparse.Namespace) -> Side:
    torch.set_num_threads(options.threads)
    return Ours(recipe, open_films(options.stored_films), torch.device("cpu"))


def _plain(recipe: Recipe, options: argparse.Namespace) -> Side:
    torch.set_num_threads(options.threads)
    workers = 0 if options.toy else options.threads
    shared = share(open_films(options.stored_films).images)
    device = torch.device("cpu")
    return Plain(recipe, shared, specs_of(recipe), device, workers=workers, batches=options.steps)


def _taking_turns(make: Callable[[], Side], options: argparse.Namespace) -> AbstractContextManager[Take]:
    """At toy size one process is enough to see that it works."""
    return contextlib.nullcontext(partial(take_turn, make())) if options.toy else apart(make)


def _recipe(case: str, precision: str, options: argparse.Namespace) -> Recipe:
    """The recipe at the bench's size, with the published views and no recomputation on either side."""
    method, preset = CASES[case]
    same = ["run.device=cpu", f"run.precision={precision}", "model.gradient_checkpointing=0"]
    size = [f"run.batch_size={options.batch}", f"model.backbone={options.backbone}", f"data.size={options.size}"]
    blur = ["augment.blur_kernel=[3, 3]"]  # replaced below; the recipe's own may be too large for a small view
    if method == "barlow" and options.toy:
        size.append("method.projector=[64, 64]")
    if method == "dino":
        size.append(f"method.local_size={max(32, round(options.size * 3 / 7 / 16) * 16)}")
    recipe = load_recipe(method, preset, same + size + blur, published=same)
    kernel = min(options.kernel, options.size // 4 * 2 - 1)
    own = {"blur_kernel": (kernel, kernel), "geometry": "warp"}  # ours, over real pixels; torchvision has its own
    return recipe.with_augment(recipe.published.augment.model_copy(update=own))


def _by_turns(sides: dict[str, Take], part: str, options: argparse.Namespace) -> dict[str, list[float]]:
    """Films per second of every side, by rounds; the first round warms up. The order turns round every time."""
    rates: dict[str, list[float]] = {name: [] for name in sides}
    names = list(sides)
    for turn in range(options.rounds + 1):
        for name in names if turn % 2 else reversed(names):
            seconds = sides[name](part, options.steps)
            if turn:
                rates[name].append(options.steps * options.batch / seconds)
    return rates


def compare_views(side: int, options: argparse.Namespace) -> list[Row]:
    """Two views of 224 px of each film and nothing else, with a small and a large blur kernel. ``side``: of a film at
    toy size, px."""
    asked = argparse.Namespace(**{**vars(options), "films": 2 * options.batch, "stored": STORED, "size": 224})
    if options.toy:
        asked.stored, asked.size = side, options.size
    films, rows = views.draw_films(asked.films, asked), []
    for kernel, target in views.TARGETS.items():
        found = views.compare(films, kernel, "warp", asked)
        rates = {"films_per_s": found.films_per_s, "plain_films_per_s": found.plain_films_per_s}
        rows.append(Row("views", f"kernel {kernel}", "fp32", target, **rates))
    return rows


def compare_averages(options: argparse.Namespace) -> Row:
    """The moving average of a ResNet-50 (18 in toy size): all parameters at once, and one by one. Here a film is one
    average."""
    fast = build_encoder("resnet18" if options.toy else "resnet50", seed=0)
    ways: dict[str, Callable[[], None]] = {
        "ours": partial(moving_average, frozen_copy(fast), fast, 0.999),
        "plain": partial(moving_average_loop, frozen_copy(fast), fast, 0.999),
    }
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(5 * options.rounds + 1):
        for name, way in ways.items():
            started = time.perf_counter()
            way()
            if turn:
                rates[name].append(1 / (time.perf_counter() - started))
    return Row("moving average", "ResNet-50", "fp32", films_per_s=rates["ours"], plain_films_per_s=rates["plain"])


def table(rows: Sequence[Row], machine: dict[str, Any], options: argparse.Namespace) -> Table:
    """All rows; a whole step has a target."""
    amx = "amx_bf16" in machine["instructions"]
    found = Table(
        title=f"{machine['cpu']}, {machine['threads']} threads, {', '.join(machine['instructions'])}; "
        f"{options.backbone}, {options.size} px, batch {options.batch}, blur kernel {options.kernel}",
        caption="" if amx else "No AMX here: the target for bf16 is one for CPUs that have it.",
    )
    for column in ("part", "case", "ours", "ours, films/s", "plain, films/s", "ratio", "spread", "target"):
        found.add_column(column, justify="right" if column[0] in "orst" and "," in column else "left")
    for row in rows:
        low, mid, high = min(row.ratios), median(row.ratios), max(row.ratios)
        target = _verdict(row, mid, amx, options.toy)
        rates = (f"{median(row.films_per_s):.1f}", f"{median(row.plain_films_per_s):.1f}")
        found.add_row(row.part, row.case, row.ours, *rates, f"{mid:.2f}", f"{low:.2f} to {high:.2f}", target)
    return found


def _verdict(row: Row, ratio: float, amx: bool, toy: bool) -> str:
    if toy or row.target is None or (row.ours == "bf16" and not amx):
        return ""
    return f"{row.target:g}: {'reached' if ratio >= row.target else 'missed'}"


def as_json(rows: Sequence[Row], machine: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """Everything in the table, by rounds."""
    chosen = {name: value for name, value in vars(options).items() if name not in ("json", "stored_films")}
    return {
        "machine": machine,
        "options": chosen,
        "rows": [{**vars(row), "ratios": row.ratios, "median": median(row.ratios)} for row in rows],
    }


if __name__ == "__main__":
    main()

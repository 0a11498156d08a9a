"""How fast this program trains on a GPU, beside the plain loop: python tests/bench/gpu.py [--json FILE] [--minutes 9]

For each method's recipe: films per second of ``scarce pretrain``'s engine and of the plain loop (tests/bench/plain.py),
in processes of their own, by turns: ours, plain, then plain, ours, until the time is up. A process takes whole steps
(films to weights), then steps on views that are there already; ours then makes views alone. Both may use as much memory
as an L4 has (``--memory``), whatever the card; running out of it is a result. The JSON is written after every process.

augmentation  time of the device for one batch of views, alone, over the time of a whole step
waiting       share of the time between whole steps: the device has none of the next step's data yet
of matrix     operations of a step (torch's FlopCounterMode) over its time, of what a large product reaches
of memory     bytes of a step (each operator's inputs and outputs, once) over its time, of what a large copy reaches
L4 on paper   from the same operations and bytes and the data sheet of an L4 (80 %): a limit, not a measurement

The plain loop's rate is taken over whole rounds of its workers: a batch from each is left out first, then one from
each is timed. Without a GPU the bench says so, checks itself on the CPU at toy size, and exits 0.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gpu_report import as_json, table
from gpu_side import measure
from rich.console import Console
from sides import draw_films

METHODS = ("moco", "barlow", "spark", "dino")
STORED = 256  # px
_LEAST = 30.0  # seconds under which no process is started


def main() -> None:
    """Compare until the time is up; print the table."""
    options = _options()
    if options.part:  # a process of its own: measures one side and writes what it found
        measure(options.part, options.method, options)
        return
    if not torch.cuda.is_available() and not options.toy:
        print(f"No CUDA device here (torch {torch.__version__}): checking the bench on the CPU at toy size instead.")
        options.toy = True
    if options.toy:
        _make_toy(options)
    with tempfile.TemporaryDirectory() as place:
        options.films = Path(place) / "films.npy"
        _films(options)
        found = Found(options, Path(place))
        found.compare()
    console = Console(width=None if Console().is_terminal else 140)
    console.print(table(found.results, options))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--preset", default="l4")
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="SECTION.KEY=VALUE")
    parser.add_argument("--compile", action="store_true", help="our side a second time, with run.compile")
    parser.add_argument("--memory", type=float, default=22.5, help="GiB that a process may take")
    parser.add_argument("--minutes", type=float, default=9.0, help="for everything")
    parser.add_argument("--seconds", type=float, default=8.0, help="of whole steps, and half of it of the model's")
    parser.add_argument("--plain-seconds", type=float, default=45.0, help="at most, of whole steps of the plain loop")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--workers", type=int, default=14, help="of the plain loop's DataLoader")
    parser.add_argument("--count", type=int, default=20000, help="films, drawn")
    parser.add_argument("--data", type=Path, help="cache.npy of a prepared data set instead of drawn films")
    parser.add_argument("--toy", action="store_true", help="on the CPU, in seconds, to see that everything works")
    parser.add_argument("--json", type=Path, help="written after every process")
    for name, kind in (("--part", str), ("--method", str), ("--films", Path), ("--out", Path)):
        parser.add_argument(name, type=kind, default="" if kind is str else None, help=argparse.SUPPRESS)
    return parser.parse_args()


def _make_toy(options: argparse.Namespace) -> None:
    options.preset, options.rounds, options.workers, options.count = "smoke", 1, 1, 64
    options.seconds = options.plain_seconds = 0.0


def _films(options: argparse.Namespace) -> None:
    """Films as an .npy file where every process maps them."""
    if options.data:
        films = np.load(options.data, mmap_mode="r")
        assert films.dtype == np.uint8, f"{options.data} holds {films.dtype}, not uint8 films"
        options.films.symlink_to(options.data.resolve())
    else:
        draw_films(options.films, options.count, 48 if options.toy else STORED)


class Found:
    """Runs the processes and keeps what they found."""

    def __init__(self, options: argparse.Namespace, place: Path) -> None:
        self.options, self.place = options, place
        self.ends = time.monotonic() + 60 * options.minutes
        self.results: dict[str, Any] = {"device": {}, "methods": {name: {} for name in options.methods}}
        self._took: dict[str, float] = {}

    def compare(self) -> None:
        """Ceilings, then both sides of every method by turns."""
        self.results["device"] = self._run("ceilings", "") or {}
        sides = ["ours", *(["compiled"] if self.options.compile else []), "plain"]
        for turn in range(self.options.rounds):
            for method in self.options.methods:
                for side in sides if turn % 2 == 0 else reversed(sides):
                    result = self._run(side, method)
                    if result is not None:
                        self.results["methods"][method].setdefault(side, []).append(result)
                        self._save()

    def _run(self, part: str, method: str) -> dict[str, Any] | None:
        """What a process found, in part where it did not get to its end; None when there is no time for it."""
        left, out = self.ends - time.monotonic(), self.place / "found.json"
        if not self.options.toy and left < max(_LEAST, self._took.get(part + method, 0.0)):
            print(f"no time for {part} {method}", flush=True)
            return None
        out.unlink(missing_ok=True)
        started = time.monotonic()
        failed = self._here(part, method, out) if self._is_toy(part) else self._apart(part, method, out, left)
        self._took[part + method] = time.monotonic() - started
        result: dict[str, Any] = json.loads(out.read_text()) if out.exists() else {}
        if failed:
            result = {**result, "status": result.get("status") or failed}
        print(f"{part} {method}: {result.get('status')}, {self._took[part + method]:.0f} s", flush=True)
        return result

    def _is_toy(self, part: str) -> bool:
        """At toy size one process is enough to see that it works."""
        return bool(self.options.toy) and part != "ceilings"

    def _here(self, part: str, method: str, out: Path) -> str:
        measure(part, method, argparse.Namespace(**{**vars(self.options), "out": out}))
        return ""

    def _apart(self, part: str, method: str, out: Path, left: float) -> str:
        command = [sys.executable, __file__, "--part", part, "--method", method, "--out", str(out)]
        kept = ("preset", "memory", "seconds", "plain_seconds", "workers", "films")
        command += [word for name in kept for word in (f"--{name.replace('_', '-')}", str(getattr(self.options, name)))]
        command += [word for setting in self.options.settings for word in ("--set", setting)]
        command += ["--toy"] if self.options.toy else []
        try:
            done = subprocess.run(command, timeout=left, check=False)
        except subprocess.TimeoutExpired:
            return "stopped: the time was up"
        return f"ended with code {done.returncode}" if done.returncode else ""

    def _save(self) -> None:
        if self.options.json:
            self.options.json.write_text(json.dumps(as_json(self.results, self.options), indent=1))


if __name__ == "__main__":
    main()

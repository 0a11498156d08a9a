"""What today's verdict says of the logs of runs, reading by reading; trains nothing.

    python tests/bench/replay_verdicts.py RUN [RUN ...] [--spreads yes|no] [--blind loss=1.0 ...]

A run is a folder with metrics.jsonl, and with last.pt, which says what the method's scalars read when nothing is told
apart; ``--blind`` and ``--spreads`` say so instead.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console
from rich.table import Table

from scarce_cli.checkpoint import load
from scarce_cli.evaluation.collapse import CollapseMetrics, Reading, judge, readings_of
from scarce_cli.runs import read_metrics
from scarce_cli.vitals import Expectations

SHAPE = ("std", "relative_std", "mean_cosine", "effective_rank", "retrieval", "lidar")
HEAD = ("step", "progress", "verdict", *SHAPE, "signals")


def main() -> None:
    """A table for each run, and the evidence wherever it is not healthy."""
    options = _options()
    console = Console(width=220, highlight=False)
    for run in options.runs:
        expected = _expected(run, options)
        random, readings = readings_of(read_metrics(run / "metrics.jsonl"))
        table, said = Table(*HEAD, title=f"{run.name}: {expected}"), []
        table.add_row("random", "", "", *_shape(random), "")
        for count, reading in enumerate(readings, 1):
            verdict = judge(readings[:count], random, expected)
            called = verdict.state if verdict.failure is None else f"{verdict.state}: {verdict.failure}"
            table.add_row(
                str(reading.step), f"{reading.progress:.3f}", called, *_shape(reading.features), _signals(reading)
            )
            said += [f"{reading.step}: {line}" for line in verdict.evidence if verdict.failure]
        console.print(table, *said, sep="\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--spreads", choices=("yes", "no"), default="yes")
    parser.add_argument("--blind", nargs="+", metavar="NAME=VALUE")
    return parser.parse_args()


def _expected(run: Path, options: argparse.Namespace) -> Expectations:
    if options.blind is None and (run / "last.pt").is_file():
        return Expectations.from_plain(load(run / "last.pt")[0]["origin"]["vitals"]["expected"])
    pairs = (pair.split("=") for pair in options.blind or ())
    return Expectations({name: float(value) for name, value in pairs}, options.spreads == "yes")


def _shape(found: CollapseMetrics | None) -> list[str]:
    values = [None if found is None else getattr(found, name) for name in SHAPE]
    return ["-" if value is None else f"{value:.4g}" for value in values]


def _signals(reading: Reading) -> str:
    return " ".join(f"{name}={value:.4g}" for name, value in reading.signals.items())


if __name__ == "__main__":
    main()

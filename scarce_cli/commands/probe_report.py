"""What ``scarce probe`` prints and writes."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from scarce_cli.checkpoint import SavedEncoder
    from scarce_cli.evaluation.probe import ProbeSettings, Score, Skipped

_LAST_STAGE = 4
_NAME, _CELL = 15, 13  # characters of a table's first column, and of each further one with its gap
_COLUMNS = (
    *("finding", "negative", "initialisation", "shots", "auc", "sd", "low", "high"),
    *("difference", "difference_low", "difference_high", "draws", "test_positives", "test_negatives"),
)


def report(
    results: Sequence[Score | Skipped],
    saved: Sequence[SavedEncoder],
    settings: ProbeSettings,
    labels: Path,
    folder: Path,
) -> None:
    """Print the tables; write probe.json, probe.csv and (where there is anything to draw) probe.png."""
    from scarce_cli.commands.console import say
    from scarce_cli.evaluation.probe import Score
    from scarce_cli.figures.curves import draw_learning_curves
    from scarce_cli.files import make_folder, write_json, write_text

    scores = [r for r in results if isinstance(r, Score)]
    skipped = [r for r in results if not isinstance(r, Score)]
    make_folder(folder)
    document = {
        "labels": str(labels),
        "checkpoints": [{"path": str(s.path), "sha256": s.digest, "epoch": s.epoch} for s in saved],
        "settings": asdict(settings),
        "scores": [asdict(s) for s in scores],
        "skipped": [asdict(s) for s in skipped],
        "note": "For research; not for diagnosis.",
    }
    write_json(folder / "probe.json", document)
    write_text(folder / "probe.csv", as_csv(scores))
    if scores:
        _print_tables(scores, settings)
        draw_learning_curves(scores, folder / "probe.png")
    for row in skipped:
        shots = "" if row.shots is None else f", {row.shots} shots"
        say(f"left out: {row.finding} against {row.negative}{shots}: {row.reason}")
    written = ["probe.json", "probe.csv", *(["probe.png"] if scores else [])]
    say(f"Written: {', '.join(str(folder / name) for name in written)}")


def as_csv(scores: Sequence[Score]) -> str:
    """One line for each finding, number of shots and initialisation."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for s in scores:
        a, d = s.auc, s.difference
        numbers = [a.mean, a.sd, a.low, a.high, *((d.mean, d.low, d.high) if d else ())]
        cells = [f"{number:.6f}" for number in numbers] + [""] * (7 - len(numbers))
        tested = [s.draws, s.test_positives, s.test_negatives]
        writer.writerow([s.finding, s.negative, s.initialisation, s.shots, *cells, *tested])
    return buffer.getvalue()


def _print_tables(scores: Sequence[Score], settings: ProbeSettings) -> None:
    """One table for each finding; in 80 columns five numbers of shots stand side by side, more below."""
    from scarce_cli.commands.console import say, stdout
    from scarce_cli.commands.inputs import table

    where = "" if settings.stage == _LAST_STAGE else f" Features of stage {settings.stage}."
    say(
        f"\nAUC on the films of test patients, mean ± sd of {settings.draws} draws; below it what is\n"
        f"gained over random initialisation, with its 95 % interval.{where}"
    )
    fits = max(1, (stdout().width - _NAME) // _CELL)
    for finding, negative in dict.fromkeys((s.finding, s.negative) for s in scores):
        part = [s for s in scores if (s.finding, s.negative) == (finding, negative)]
        tested = f"tested on {part[0].test_positives} + {part[0].test_negatives} films"
        title = f"{finding} against {negative} ({tested})"
        for shots in _chunks(sorted({s.shots for s in part}), fits):
            table(title, ["features", *map(_heading, shots)], _rows(part, shots))


def _rows(scores: Sequence[Score], shots: Sequence[int]) -> list[list[str]]:
    by_place = {(s.initialisation, s.shots): s for s in scores}
    names = dict.fromkeys(s.initialisation for s in scores)
    return [[name, *(_cell(by_place[name, n]) for n in shots)] for name in names]


def _chunks(values: Sequence[int], size: int) -> list[Sequence[int]]:
    return [values[start : start + size] for start in range(0, len(values), size)]


def _heading(shots: int) -> str:
    return f"{shots} shot{'s' * (shots > 1)}"


def _cell(score: Score) -> str:
    text = f"{score.auc.mean:.3f} ±{_short(score.auc.sd)}"
    d = score.difference
    return text if d is None else f"{text}\n{d.mean:+.3f}\n[{_short(d.low, '+')},{_short(d.high, '+')}]"


def _short(value: float, sign: str = "") -> str:
    """Two decimals without the nought in front."""
    return f"{value:{sign}.2f}".replace("0.", ".", 1)

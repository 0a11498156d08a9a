"""What ``scarce probe`` prints and writes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scarce_cli.commands.probe_report.tables import print_result

if TYPE_CHECKING:
    from scarce_cli.evaluation.fewshot.result import Result

__all__ = ["as_plain", "print_result", "write_result"]

FILES = ("probe.json", "probe.csv", "cases.csv", "probe.png", "calibration.png", "cases.png", "report.html")
"""All that may be written. What an earlier probe left of them and this one does not make is removed."""


def write_result(result: Result, folder: Path) -> list[Path]:
    """Write the result into ``folder``, each file whole or not at all; returns what was written.

    probe.json always, with every number as it is; probe.csv and probe.png where there are scores; cases.csv and
    cases.png where there are cases; calibration.png where scores are probabilities; report.html with all of it.

    Raises:
        ResourceError: the folder cannot be written.
    """
    from scarce_cli.commands.probe_report.page import as_html
    from scarce_cli.commands.probe_report.spreadsheet import cases_csv, scores_csv
    from scarce_cli.files import remove_temporaries, require_writable, write_json, write_text

    require_writable(folder)
    remove_temporaries(folder)
    written = _draw(result, folder)
    texts = {"probe.csv": scores_csv(result) if result.scores else ""}
    texts["cases.csv"] = cases_csv(result) if result.cases else ""
    texts["report.html"] = as_html(result, {path.name: path.read_bytes() for path in written})
    for name, text in texts.items():
        if text:
            write_text(folder / name, text, label="report")
            written.append(folder / name)
    write_json(folder / "probe.json", as_plain(result), label="report")
    written.append(folder / "probe.json")
    _remove_stale(folder, written)
    return sorted(written, key=lambda path: FILES.index(path.name))


def _draw(result: Result, folder: Path) -> list[Path]:
    from scarce_cli.figures.calibration import draw_calibration
    from scarce_cli.figures.cases import draw_cases
    from scarce_cli.figures.learning import draw_learning_curves

    figures = {"probe.png": draw_learning_curves, "calibration.png": draw_calibration, "cases.png": draw_cases}
    return [folder / name for name, draw in figures.items() if draw(result, folder / name)]


def _remove_stale(folder: Path, written: list[Path]) -> None:
    from scarce_cli.files import as_resource_error

    for path in (folder / name for name in FILES):
        if path not in written:
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise as_resource_error(error, path) from error


def as_plain(value: Any) -> Any:
    """``value`` as JSON has it, in the order of its fields; null for numbers that are not finite."""
    if is_dataclass(value):
        return {field.name: as_plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): as_plain(inner) for key, inner in value.items()}
    if isinstance(value, tuple | list | frozenset | set):
        return [as_plain(inner) for inner in (sorted(value) if isinstance(value, frozenset | set) else value)]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)

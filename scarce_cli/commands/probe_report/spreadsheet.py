"""A probe's numbers for a spreadsheet.

One line for each finding, number of shots and initialisation, then the means. Each baseline has columns of its own, so
that no line comes twice. An apostrophe keeps a name that looks like a formula from being one.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from scarce_cli.commands.console import harmless
from scarce_cli.commands.probe_report.words import tested_on

if TYPE_CHECKING:
    from scarce_cli.evaluation.fewshot.result import Cases, Difference, Estimate, MeanScore, Result, Score

Cell = str | int | float

# What a spreadsheet takes for the start of a formula, also in wide forms: at the start of a cell, or where one would
# start if semicolons or tabs separated cells.
_FORMULA = re.compile(r"(^|[;\t\r\n])(\s*)(?=[=+\-@\uff1d\uff0b\uff0d\uff20])")
_PLACES = 6  # decimals
_ENDS = ("", "_low", "_high")
_MEASURES = ("auc", "average_precision", "sensitivity_90", "sensitivity_95", "ppv_90", "ppv_95")
_FIRST = ("line", "finding", "against", "initialisation", "shots", "in_mean", "test_films_with", "test_films_without")
_PATIENTS = ("test_patients_with", "test_patients_without")
_OVER = ("", " low", " high", " p", " p Holm")
_CASES = ("finding", "against", "initialisation", "cases", "controls", "films", "auc", "auc_low", "auc_high", "p")
_MORE = ("shuffled_auc", "permutations", "target", "more_cases", "more_cases_low", "more_cases_high", "in_words")


def scores_csv(result: Result) -> str:
    """probe.csv: all measures with their 95 % intervals. Empty cells are not known.

    ``line`` is "finding" or "mean"; a mean's ``finding`` is their number. Columns "over B" hold the difference of AUCs
    to the baseline B, its interval, p, and p corrected for the number of findings.
    """
    baselines = _baselines([*result.scores, *result.means])
    measures = [f"{name}{end}" for name in _MEASURES for end in _ENDS]
    measures.insert(1, "auc_sd")
    header = [*_FIRST, *_PATIENTS, *measures, "brier", "brier_naive", *_headings(baselines)]
    rows = [_score(result, s, baselines) for s in result.scores]
    return _table(header, [*rows, *(_mean(m, baselines) for m in result.means)])


def cases_csv(result: Result) -> str:
    """cases.csv: one line for each finding and initialisation; the learning curves are in probe.json."""
    baselines = _baselines(result.cases)
    return _table([*_CASES, *_MORE, *_headings(baselines)], [_case(c, baselines) for c in result.cases])


def _table(header: Sequence[Cell], rows: Iterable[Sequence[Cell]]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")
    for row in (header, *rows):
        writer.writerow([_cell(value) for value in row])
    return buffer.getvalue()


def _cell(value: Cell) -> Cell:
    if isinstance(value, str):
        return _FORMULA.sub(r"\1\2'", harmless(value))
    if not math.isfinite(value):
        return ""
    return round(value, _PLACES) if isinstance(value, float) else value


def _baselines(rows: Sequence[Score | MeanScore | Cases]) -> list[str]:
    return list(dict.fromkeys(d.baseline for row in rows for d in row.differences))


def _headings(baselines: Sequence[str]) -> list[str]:
    return [f"over {baseline}{end}" for baseline in baselines for end in _OVER]


def _score(result: Result, s: Score, baselines: Sequence[str]) -> list[Cell]:
    tested = tested_on(result, (s.finding, s.against))
    films = (tested.positives, tested.negatives) if tested else ("", "")
    patients = (tested.positive_patients, tested.negative_patients) if tested else ("", "")
    first = ["finding", s.finding, s.against, s.initialisation, s.shots, "yes" if s.enough else "no"]
    others = [s.average_precision, s.sensitivity_90, s.sensitivity_95, s.ppv_90, s.ppv_95]
    brier = (s.calibration.brier, s.calibration.brier_prevalence) if s.calibration else ("", "")
    measures = [*_with_sd(s.auc), *(cell for other in others for cell in _ends(other))]
    return [*first, *films, *patients, *measures, *brier, *_over(s.differences, baselines)]


def _mean(m: MeanScore, baselines: Sequence[str]) -> list[Cell]:
    first: list[Cell] = ["mean", f"mean of {len(m.findings)}", "", m.initialisation, m.shots, "", "", "", "", ""]
    not_known: list[Cell] = [""] * 14  # the other four measures and Brier's two
    measures = [*_with_sd(m.auc), *_ends(m.average_precision), *not_known]
    return [*first, *measures, *_over(m.differences, baselines)]


def _case(c: Cases, baselines: Sequence[str]) -> list[Cell]:
    first = [c.finding, c.against, c.initialisation, c.cases, c.controls, c.films, *_ends(c.auc), c.p]
    p = c.projection
    more: list[Cell] = [p.target, *("" if n is None else n for n in (p.more_cases, p.low, p.high))] if p else [""] * 4
    in_words = " ".join(text for text in (p.text if p else "", c.note) if text)
    return [*first, c.shuffled, c.permutations, *more, in_words, *_over(c.differences, baselines)]


def _with_sd(estimate: Estimate) -> list[Cell]:
    return [estimate.mean, estimate.sd, estimate.low, estimate.high]


def _ends(estimate: Estimate | None) -> list[Cell]:
    return [estimate.mean, estimate.low, estimate.high] if estimate else [""] * 3


def _or_empty(value: float | None) -> Cell:
    return "" if value is None else value


def _over(differences: Sequence[Difference], baselines: Sequence[str]) -> list[Cell]:
    by_name = {d.baseline: d for d in differences}
    cells: list[Cell] = []
    for baseline in baselines:
        d = by_name.get(baseline)
        cells += [*_ends(d.auc), _or_empty(d.p), _or_empty(d.p_holm)] if d else [""] * len(_OVER)
    return cells

"""probe.csv and cases.csv: every number in a cell of its own, and no name that a spreadsheet would run."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import replace

import pytest

from scarce_cli.commands.console import harmless
from scarce_cli.commands.probe_report.spreadsheet import cases_csv, scores_csv
from scarce_cli.evaluation.fewshot.result import Estimate
from tests.evaluation.fewshot import examples
from tests.evaluation.fewshot.examples import DINO, HOSTILE, IMAGENET, RANDOM


def read(text: str) -> list[dict[str, str]]:
    rows = list(csv.reader(io.StringIO(text)))
    assert {len(row) for row in rows} == {len(rows[0])}
    assert len(set(rows[0])) == len(rows[0])
    return [dict(zip(rows[0], row, strict=True)) for row in rows[1:]]


def test_each_score_and_each_mean_is_a_line() -> None:
    result = examples.linear()
    rows = read(scores_csv(result))
    assert len(rows) == len(result.scores) + len(result.means)
    for row, score in zip(rows, result.scores, strict=False):
        assert (row["line"], row["finding"], row["initialisation"], int(row["shots"])) == (
            "finding", score.finding, score.initialisation, score.shots,
        )  # fmt: skip
        for name in ("auc", "average_precision", "sensitivity_90", "sensitivity_95", "ppv_90", "ppv_95"):
            value = getattr(score, name)
            cells = [float(row[f"{name}{end}"]) for end in ("", "_low", "_high")]
            assert cells == pytest.approx([value.mean, value.low, value.high], abs=1e-6)
        assert float(row["brier"]) == pytest.approx(score.calibration.brier, abs=1e-6)
        by_name = {d.baseline: d for d in score.differences}
        for baseline in (RANDOM, IMAGENET):
            cells = [row[f"over {baseline}{end}"] for end in ("", " low", " high", " p", " p Holm")]
            d = by_name.get(baseline)
            wanted = [d.auc.mean, d.auc.low, d.auc.high, d.p] if d else []
            assert [float(cell) for cell in cells[:4] if cell] == pytest.approx(wanted, abs=1e-6)
            assert bool(cells[4]) == (d is not None and d.p_holm is not None)
    ((last),) = rows[-1:]
    assert (last["line"], last["finding"], last["shots"]) == ("mean", "mean of 2", "50")
    assert float(last["auc_sd"]) == pytest.approx(result.means[-1].auc.sd)
    assert float(last[f"over {RANDOM} p"]) == pytest.approx(result.means[-1].differences[0].p)
    assert last["brier"] == last["sensitivity_90"] == ""


def test_tested_films_stand_beside_their_finding() -> None:
    row = next(r for r in read(scores_csv(examples.linear())) if r["finding"] == "Hernia")
    cells = [row[f"test_{what}"] for what in ("films_with", "films_without", "patients_with", "patients_without")]
    assert cells == ["11", "212", "4", "180"]
    assert row["in_mean"] == "no"


def test_what_is_not_known_is_empty() -> None:
    one = examples.score("x", DINO, 5, ppv_90=None, calibration=None, auc=Estimate(math.nan, 0.0, -math.inf, 1.0))
    (row,) = read(scores_csv(replace(examples.linear(), scores=(one,), means=(), tested=())))
    empty = ("auc", "auc_low", "ppv_90", "brier", "brier_naive", "test_films_with")
    assert [row[name] for name in empty] == [""] * 6
    assert float(row["auc_high"]) == 1.0


def test_cases_are_lines_with_the_projection_in_words() -> None:
    result = examples.cases()
    rows = read(cases_csv(result))
    assert [row["initialisation"] for row in rows] == [RANDOM, IMAGENET, DINO]
    assert [row["more_cases"] for row in rows] == ["", "210", "31"]
    assert [row["more_cases_high"] for row in rows] == ["", "", "90"]
    assert rows[2]["in_words"] == result.cases[2].projection.text
    (plain,) = read(cases_csv(replace(result, cases=(examples.case("x", DINO, projection=None, note="too few"),))))
    assert (plain["target"], plain["in_words"]) == ("", "too few")


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_no_cell_begins_like_a_formula_however_cells_are_separated(delimiter: str) -> None:
    result = examples.hostile()
    more = tuple(examples.score(name, DINO, 5) for name in ("x;=HYPERLINK(0)", "x\t=1", "x;@y;-z", "\n=1", " +1"))
    result = replace(result, scores=(*result.scores, *more))
    for text in (scores_csv(result), cases_csv(result)):
        for row in csv.reader(io.StringIO(text), delimiter=delimiter):
            for cell in row:
                number = cell.replace("-", "", 1).replace(".", "", 1).replace("e-", "", 1).isdigit()
                assert number or not cell.lstrip().startswith(("=", "+", "-", "@"))


def test_names_come_back_but_for_the_mark() -> None:
    found = {
        row["finding"].replace("'+", "+").replace("'=", "=").replace("'@", "@")
        for row in read(scores_csv(examples.hostile()))
    }
    assert {harmless(name) for name in HOSTILE} <= found  # nothing that a terminal would obey

"""What is printed: all findings, nothing cut, 80 columns, nothing that a terminal would obey."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from scarce_cli.commands import console, inputs
from scarce_cli.commands.probe_report import print_result
from scarce_cli.commands.probe_report.words import digits
from scarce_cli.evaluation.fewshot.episodes import Skipped
from scarce_cli.evaluation.fewshot.result import Result
from tests.evaluation.fewshot import examples
from tests.evaluation.fewshot.examples import DINO, HOSTILE, RANDOM


@pytest.fixture
def printed(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]):
    """The lines of a result in 80 columns."""
    monkeypatch.setattr(console, "stdout", lambda: Console(width=80))
    monkeypatch.setattr(inputs, "stdout", console.stdout)

    def lines(result: Result, *written: Path) -> list[str]:
        capfd.readouterr()
        print_result(result, written)
        return capfd.readouterr().out.splitlines()

    return lines


def tables(lines: list[str]) -> list[str]:
    """Lines of tables: those around a rule, up to an empty line or text that begins left of the numbers."""
    ruled = [n for n, line in enumerate(lines) if line.startswith("───")]
    return [line for n in ruled for line in lines[n - 2 : n + 4]]


def test_every_number_of_every_finding_is_there(printed) -> None:
    result = examples.linear()
    lines = printed(result, Path("out/probe.json"))
    text = "\n".join(lines)
    for score in result.scores:
        row = next(n for n, line in enumerate(lines) if line.startswith(f"{score.finding} against"))
        part = "\n".join(lines[row : row + 40])
        assert digits(score.auc.mean) in part
        for difference in score.differences:
            assert digits(difference.auc.mean, sign=True) in part
    for mean in result.means:
        assert digits(mean.auc.mean) in text
    assert all(len(line.rstrip()) <= 80 for line in tables(lines))
    assert "only 4 test patients have it: not in the mean" in text
    assert "left out: Nodule against the rest: 3 films have it; 6 are needed" in text
    assert "left out: Hernia against the rest, 50 shots" in text
    assert f"Note: {result.caveats[0]}" in text
    assert lines[-2:] == ["Written: out/probe.json", "For research; not for diagnosis."]


def test_a_star_where_the_interval_excludes_nought(printed) -> None:
    result = examples.linear(("Pneumonia",), (50,))
    lines = printed(result)
    shown = [line.split()[-1] for line in lines if line.startswith(" over")]
    gains = [d.auc for s in result.scores for d in s.differences]
    assert shown[: len(gains)] == [digits(g.mean, sign=True) + "*" * (g.low > 0) for g in gains]


def test_many_findings_have_one_line_each(printed) -> None:
    names = [f"finding {n}" for n in range(7)]
    result = examples.linear(names)
    lines = printed(result)
    ours = lines[lines.index(f"{DINO}, each finding") :]
    for name in names:
        (score,) = (s for s in result.scores if (s.finding, s.initialisation, s.shots) == (name, DINO, 50))
        (line,) = (line for line in ours if line.startswith(name))
        assert f"{score.auc.mean:.3f}".lstrip("0") in line
        assert all(f"{d.auc.mean:+.3f}".replace("0.", ".") in line for d in score.differences)
    assert all(len(line.rstrip()) <= 80 for line in tables(lines))
    assert any(line.startswith("Mean over 7 findings") for line in lines)
    assert any("report.html" in line for line in lines)


def test_more_shots_than_fit_stand_below(printed) -> None:
    shots = (1, 2, 3, 5, 10, 20, 50, 100)
    text = "\n".join(printed(examples.linear(("Pneumonia",), shots)))
    assert [f"{n} shots" in text for n in shots[1:]] == [True] * 7
    assert text.count("Pneumonia against the rest: ") == 2


def test_cases_have_a_table_of_their_own(printed) -> None:
    result = examples.cases()
    lines = printed(result)
    text = "\n".join(lines)
    assert "Callus rib fracture against the rest: 23 cases, 40 controls, 71 films" in text
    (row,) = (line.split() for line in lines if line.startswith(f"{DINO}  "))
    assert row[3:6] == [digits(result.cases[2].auc.mean), "0.004", "0.470"]
    assert sum("more cases until" in line for line in lines if line.split(":")[0] in (RANDOM, "imagenet", DINO)) == 3
    assert "Mean over" not in text


def test_nothing_tested_is_said(printed) -> None:
    rows = tuple(Skipped(f"finding {n}", "the rest", None, "no films") for n in range(20))
    text = "\n".join(printed(replace(examples.linear(), scores=(), means=(), tested=(), skipped=rows)))
    assert "Nothing could be tested" in text
    assert text.count("left out: finding") == 12
    assert "left out: 8 more" in text


def test_hostile_names_are_shown_not_obeyed(printed) -> None:
    lines = printed(examples.hostile())
    text = "\n".join(lines)
    assert all(line.isprintable() for line in lines)
    assert "\\u202e" in text
    assert "\\x1b[31m" in text
    assert "[red]x[/red]" in text
    assert HOSTILE[0] in text

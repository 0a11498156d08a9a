"""The answer in words follows from the numbers, whoever wins."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from scarce_cli.commands.probe_report.words import (
    RESEARCH,
    answer,
    digits,
    in_brackets,
    is_better,
    is_worse,
    left_out_of_mean,
    p_value,
)
from scarce_cli.evaluation.fewshot.result import Difference, Estimate, Result
from tests.evaluation.fewshot import examples
from tests.evaluation.fewshot.examples import DINO, IMAGENET, RANDOM


def outcome(low: float, mean: float, high: float, p: float, shots: tuple[int, ...] = (5, 50)) -> Result:
    """A probe in which all differences of the largest number of shots are alike."""

    def changed(d: Difference, n: int) -> Difference:
        return replace(d, auc=Estimate(mean, 0.01, low, high), p=p) if n == shots[-1] else d

    made = examples.linear(shots=shots)
    means = [replace(m, differences=tuple(changed(d, m.shots) for d in m.differences)) for m in made.means]
    return replace(made, means=tuple(means))


@pytest.mark.parametrize(
    ("low", "mean", "high", "p", "said"),
    [
        (0.02, 0.04, 0.06, 0.001, "better than"),
        (-0.06, -0.04, -0.02, 0.001, "worse than"),
        (-0.01, 0.02, 0.05, 0.2, "is not shown"),
        (0.001, 0.02, 0.05, 0.2, "is not shown"),  # the interval and p do not agree
        (-0.01, 0.02, 0.05, 0.01, "is not shown"),
        (math.nan, 0.02, math.nan, math.nan, "is not shown"),
    ],
)
def test_the_verdict_needs_interval_and_p(low: float, mean: float, high: float, p: float, said: str) -> None:
    sentences = answer(outcome(low, mean, high, p))
    about = next(s for s in sentences if DINO in s)
    assert about.count(said) == 2  # random and ImageNet
    assert f"{mean:+.3f}" in about
    assert ("no advantage is shown with 50" in " ".join(sentences)) == (said != "better than")
    assert not any(RANDOM in s.split(" reaches")[0] or IMAGENET in s.split(" reaches")[0] for s in sentences)


def test_the_findings_that_say_the_same_are_counted() -> None:
    made = outcome(0.02, 0.04, 0.06, 0.001)
    ends = iter([0.01, -0.05])  # of the two findings in the mean
    scores = [
        replace(s, differences=tuple(
            replace(d, auc=Estimate(0, 0, low, low + 0.02)) if d.baseline == RANDOM else d for d in s.differences
        )) if s.initialisation == DINO and s.shots == 50 and s.enough and (low := next(ends)) else s
        for s in made.scores
    ]  # fmt: skip
    (about,) = (s for s in answer(replace(made, scores=tuple(scores))) if DINO in s)
    assert "above zero in 1 of 2 findings, below it in 1" in about
    assert "mean AUC of 0.719 over 2 findings (95 % interval 0.700 to 0.737)" in about


def test_fewer_films_that_say_more_are_told() -> None:
    about = answer(outcome(-0.01, 0.0, 0.01, 0.9, (5, 10, 50)))[0]
    assert about.count("With fewer films it is better at 5, 10.") >= 1
    assert "With fewer" not in answer(outcome(0.01, 0.02, 0.03, 0.001, (5, 10, 50)))[0]


def test_without_a_mean_none_is_claimed() -> None:
    alone = answer(examples.linear(("Hernia",)))
    assert "No finding has enough test patients" in alone[0]
    assert answer(replace(examples.linear(), scores=(), means=()))[0].startswith("Nothing could be tested")
    assert "an AUC of" in answer(examples.linear(("Pneumonia",)))[0]


def test_cases_say_how_many_more() -> None:
    (about,) = answer(examples.cases())[:1]
    assert "With 23 cases and 40 controls of Callus rib fracture, dino epoch 20" in about
    assert "p 0.004 against chance" in about
    assert "About 31 more cases until the interval is above 0.8" in about


def test_shortcuts_are_in_the_answer() -> None:
    assert "in 1 of 3 findings (Pneumonia)" in answer(examples.linear())[-1]
    clean = [replace(t, shortcuts=()) for t in examples.linear().tested]
    assert not any("shortcut" in s for s in answer(replace(examples.linear(), tested=tuple(clean))))


def test_numbers_are_short_and_honest() -> None:
    assert [digits(x) for x in (0.8125, -0.00001, math.nan, 1.0)] == ["0.812", "0.000", "-", "1.000"]
    assert [digits(x, sign=True) for x in (0.05, -0.05, 0.0, math.inf)] == ["+0.050", "-0.050", "0.000", "-"]
    assert [p_value(p) for p in (0.00099, 0.001, 1.0, None, math.nan)] == ["<0.001", "0.001", "1.000", "-", "-"]
    assert in_brackets(Estimate(0, 0, -0.126, 1.0), sign=True) == "[-.13,+1.00]"
    assert RESEARCH == "For research; not for diagnosis."


def test_better_and_worse_exclude_each_other_and_use_the_corrected_p() -> None:
    gain = Difference("b", Estimate(0.1, 0, 0.05, 0.15), 0.01, 0.2)
    assert not is_better(gain)
    assert is_better(replace(gain, p_holm=0.04))
    loss = replace(gain, auc=Estimate(-0.1, 0, -0.15, -0.05), p_holm=None)
    assert is_worse(loss)
    assert not is_better(loss)


def test_why_a_finding_is_left_out() -> None:
    few = examples.tested("Hernia")
    assert left_out_of_mean(few) == "only 4 test patients have it: not in the mean"
    assert "1 test patient does not have it" in left_out_of_mean(replace(few, negative_patients=1))

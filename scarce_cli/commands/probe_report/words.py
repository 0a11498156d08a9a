"""What a probe found, in words and numbers: shared by the screen and the report."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from scarce_cli.evaluation.fewshot.result import Cases, Difference, Estimate, MeanScore, Result, Score, Tested

RESEARCH = "For research; not for diagnosis."
SIGNIFICANT = 0.05
UNKNOWN = "-"

Task = tuple[str, str]  # a finding and what it is held against


def tasks(result: Result) -> list[Task]:
    """All findings with scores, in their order."""
    return list(dict.fromkeys((s.finding, s.against) for s in result.scores))


def scores_of(result: Result, task: Task) -> list[Score]:
    """Of one finding."""
    return [s for s in result.scores if (s.finding, s.against) == task]


def largest(scores: Sequence[Score]) -> list[Score]:
    """Those at the largest number of shots."""
    most = max(s.shots for s in scores)
    return [s for s in scores if s.shots == most]


def tested_on(result: Result, task: Task) -> Tested | None:
    """What the finding was tested on, where that is known."""
    return next((t for t in result.tested if (t.finding, t.against) == task), None)


def one_line(text: str) -> str:
    """Without line breaks."""
    return " ".join(text.split())


def digits(value: float, places: int = 3, sign: bool = False) -> str:
    """Rounded; never "-0.000"; a dash for what is not a number."""
    if not math.isfinite(value):
        return UNKNOWN
    value = round(value, places) + 0.0
    return f"{value:{'+' if sign and value else ''}.{places}f}"


def interval(estimate: Estimate, sign: bool = False) -> str:
    """ "0.780 to 0.840"."""
    return f"{digits(estimate.low, sign=sign)} to {digits(estimate.high, sign=sign)}"


def in_brackets(estimate: Estimate, sign: bool = False) -> str:
    """ "[.78,.84]": short, for a table on screen."""
    return f"[{','.join(short(digits(value, 2, sign)) for value in (estimate.low, estimate.high))}]"


def short(number: str) -> str:
    """Without the nought before the point."""
    return number.replace("0.", ".", 1)


def p_value(p: float | None) -> str:
    """ "0.012" or "<0.001"."""
    if p is None or not math.isfinite(p):
        return UNKNOWN
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def excludes_nought(estimate: Estimate) -> bool:
    """All of the interval is on one side of 0; False where it is not known."""
    return estimate.low > 0 or estimate.high < 0


def count(number: int, one: str) -> str:
    """ "1 film", "2 films", "3,000 films"."""
    return f"{number:,} {one}{'' if number == 1 else 's'}"


def left_out_of_mean(tested: Tested | None) -> str:
    """Why a finding is not in the mean."""
    if tested is None:
        return "too few test patients: not in the mean"
    few = min(tested.positive_patients, tested.negative_patients)
    has = "has it" if few == 1 else "have it"
    if tested.negative_patients < tested.positive_patients:
        has = "does not have it" if few == 1 else "do not have it"
    return f"only {count(few, 'test patient')} {has}: not in the mean"


def shortcuts(result: Result) -> str:
    """How many findings are told by the table or the files alone; "" where none is."""
    told = [t for t in result.tested if t.shortcuts]
    if not told:
        return ""
    names = ", ".join(one_line(t.finding) for t in told[:3]) + (", ..." if len(told) > 3 else "")
    return (
        "Beware of shortcuts: what the table or the files alone tell, without a look at the film, may be behind "
        f"the AUC in {len(told)} of {count(len(result.tested), 'finding')} ({names})."
    )


def answer(result: Result) -> list[str]:
    """Sentences that answer what the probe was asked, one or two for each initialisation that is compared."""
    cases = [case for case in result.cases if _is_asked(result, case.initialisation)]
    said = list(map(_of_cases, cases))
    compared = [difference for case in cases for difference in case.differences]
    if result.means:
        means = _asked_means(result)
        said += [_of_mean(result, mean) for mean in means]
        compared += [difference for mean in means for difference in mean.differences]
    elif result.scores:
        said.append(
            "No finding has enough test patients for a mean: what the tables say of single findings is uncertain."
        )
    if compared and not any(map(is_better, compared)):
        said.append(f"So no advantage is shown{_with_most(result)}.")
    if not said:
        return ["Nothing could be tested: see what was left out, and why."]
    return [*said, beware] if (beware := shortcuts(result)) else said


def _is_asked(result: Result, name: str) -> bool:
    """The user asks of checkpoints; without any, of everything."""
    checkpoints = {i.name for i in result.initialisations if i.kind == "checkpoint"}
    return name in checkpoints or not checkpoints


def _with_most(result: Result) -> str:
    shots = max((m.shots for m in result.means), default=0)
    return f" with {count(shots, 'labelled film')} of each class" if shots else ""


def _asked_means(result: Result) -> list[MeanScore]:
    shots = max(m.shots for m in result.means)
    return [m for m in result.means if m.shots == shots and _is_asked(result, m.initialisation)]


def _of_mean(result: Result, mean: MeanScore) -> str:
    where = f"a mean AUC of {digits(mean.auc.mean)} over {len(mean.findings)} findings"
    if len(mean.findings) == 1:
        where = f"an AUC of {digits(mean.auc.mean)} on {one_line(mean.findings[0])}"
    begin = f"With {count(mean.shots, 'labelled film')} of each class, {one_line(mean.initialisation)} reaches"
    said = f"{begin} {where} (95 % interval {interval(mean.auc)})."
    return " ".join([said, *(_compared(result, mean, difference) for difference in mean.differences)])


def is_better(difference: Difference) -> bool:
    """Interval and p agree that the initialisation is better than the baseline."""
    return difference.auc.low > 0 and _agrees(difference)


def is_worse(difference: Difference) -> bool:
    """Interval and p agree that the initialisation is worse than the baseline."""
    return difference.auc.high < 0 and _agrees(difference)


def best_p(difference: Difference) -> float | None:
    """The corrected p where there is one."""
    return difference.p if difference.p_holm is None else difference.p_holm


def _agrees(difference: Difference) -> bool:
    """p does, or there is none."""
    p = best_p(difference)
    return p is None or p < SIGNIFICANT


def _compared(result: Result, mean: MeanScore, difference: Difference) -> str:
    said = _comparison(difference)
    if len(mean.findings) == 1:
        return said
    better, worse = _sides(result, mean, difference.baseline)
    below = f", below it in {worse}" if worse else ""
    said = f"{said[:-1]}; the interval is above zero in {better} of {len(mean.findings)} findings{below}."
    return said + _with_fewer(result, mean, difference)


def _with_fewer(result: Result, mean: MeanScore, most: Difference) -> str:
    """Where smaller numbers of films say what the largest does not."""
    fewer = [m for m in result.means if m.initialisation == mean.initialisation and m.shots < mean.shots]
    known = [(m.shots, d) for m in fewer for d in m.differences if d.baseline == most.baseline]
    said = ""
    for what, is_so in (("better", is_better), ("worse", is_worse)):
        shots = [str(n) for n, difference in known if is_so(difference) and not is_so(most)]
        said += f" With fewer films it is {what} at {', '.join(shots)}." if shots else ""
    return said


def _sides(result: Result, mean: MeanScore, baseline: str) -> tuple[int, int]:
    """In how many findings of the mean the interval of the difference is above 0, and below."""
    ends = [
        d.auc
        for s in result.scores
        if s.enough and (s.initialisation, s.shots) == (mean.initialisation, mean.shots)
        for d in s.differences
        if d.baseline == baseline
    ]
    return sum(e.low > 0 for e in ends), sum(e.high < 0 for e in ends)


def _of_cases(case: Cases) -> str:
    """What all labelled cases say."""
    who = f"{count(case.cases, 'case')} and {count(case.controls, 'control')} of {one_line(case.finding)}"
    said = f"With {who}, {one_line(case.initialisation)} reaches an AUC of {digits(case.auc.mean)} on patients it "
    said += f"did not learn from (95 % interval {interval(case.auc)}; p {p_value(case.p_holm)} against chance)."
    for difference in case.differences:
        said += f" {_comparison(difference)}"
    return f"{said} {projection(case)}".strip()


def _comparison(difference: Difference) -> str:
    gain, baseline = difference.auc, one_line(difference.baseline)
    p = "" if difference.p is None else f", p {p_value(difference.p)}"
    numbers = f"{digits(gain.mean, sign=True)} ({interval(gain, sign=True)}{p})"
    if is_better(difference):
        return f"It is better than {baseline}: {numbers}."
    if is_worse(difference):
        return f"It is worse than {baseline}: {numbers}."
    return f"A difference from {baseline} is not shown: {numbers}."


def projection(case: Cases) -> str:
    """Where more cases would lead, as a sentence; "" where nothing is known."""
    said = [case.projection.text if case.projection else "", case.note]
    return " ".join(f"{text[:1].upper()}{text[1:].rstrip('.')}." for text in map(one_line, said) if text)

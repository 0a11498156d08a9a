"""What ``scarce probe`` prints."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from scarce_cli.commands.probe_report import words
from scarce_cli.commands.probe_report.words import Task, best_p, digits, in_brackets, one_line, p_value, short

if TYPE_CHECKING:
    from scarce_cli.evaluation.fewshot.result import Calibration, Cases, Difference, Estimate, MeanScore, Result, Score

_MANY = 6  # findings: of more, one line each
_LISTED = 12  # of what could not be tested
_NAME, _CELL = 19, 12  # characters of a table's first column, and of each further one with its gap
_FIXED, _GAIN, _NAMED = 32, 14, 30  # where each finding has one line: its numbers, a gain, its name at the most
_FULL = "report.html"
_MEASURED = "sensitivity and PPV at a specificity of 90 and 95 %\n(naive: always says the prevalence"
_LEGEND = (
    "AUC on test patients, below it its 95 % interval; then what is gained over each\n"
    "baseline on the same films, with interval and p. * the interval excludes zero."
)


def print_result(result: Result, written: Sequence[Path] = ()) -> None:
    """Tables, what was left out, caveats, the answer in words, and the files that were written.

    Of more than six findings, each has one line. In 80 columns nothing is broken unless a name is long.
    """
    from scarce_cli.commands.console import say

    if result.scores:
        say(f"\n{_LEGEND}")
    _print_findings(result)
    if result.means:
        _print_means(result)
    _print_cases(result)
    _print_skipped(result)
    for caveat in result.caveats:
        say(f"Note: {one_line(caveat)}")
    say("\n" + "\n".join(words.answer(result)))
    if written:
        say(f"Written: {', '.join(one_line(str(path)) for path in written)}")
    say(words.RESEARCH)


def _print_findings(result: Result) -> None:
    tasks = words.tasks(result)
    if len(tasks) > _MANY:
        _print_lines(result, tasks)
        return
    for task in tasks:
        scores = words.scores_of(result, task)
        _print_shots(_title(result, task, scores[0].enough), scores)
        _print_measures(scores, result.prevalence)


def _title(result: Result, task: Task, enough: bool) -> str:
    tested = words.tested_on(result, task)
    title = f"{one_line(task[0])} against {one_line(task[1])}"
    if tested is not None:
        patients = tested.positive_patients, tested.negative_patients
        title += f": {tested.positives} + {tested.negatives} test films of {patients[0]} + {patients[1]} patients"
    if not enough:
        title += f"\n({words.left_out_of_mean(tested)}; p is not corrected)"
    told = tested.shortcuts if tested else ()
    more = f" ({len(told) - 1} more: {_FULL})" if len(told) > 1 else ""
    return f"{title}\nShortcut: {one_line(told[0])}{more}" if told else title


def _print_means(result: Result) -> None:
    counts = sorted({len(m.findings) for m in result.means})
    of = words.count(counts[-1], "finding")
    if len(counts) > 1:
        of = f"{counts[0]} to {of}, not the same in each column"
    by_shots = {m.shots: len(m.findings) for m in result.means}
    extra = [["findings", by_shots]] if len(counts) > 1 else []
    _print_shots(f"Mean over {of}; p is not corrected", result.means, extra)


def _print_shots(title: str, scores: Sequence[Score | MeanScore], extra: Sequence[Sequence[object]] = ()) -> None:
    """Five numbers of shots stand side by side in 80 columns, more below."""
    from scarce_cli.commands.console import stdout
    from scarce_cli.commands.inputs import table

    fits = max(1, (stdout().width - _NAME) // _CELL)
    shots = sorted({s.shots for s in scores})
    for start in range(0, len(shots), fits):
        part = shots[start : start + fits]
        rows = [[str(name), *(str(values[n]) for n in part)] for name, values in extra]  # type: ignore[index]
        table(title, ["", *(words.count(n, "shot") for n in part)], [*_shot_rows(scores, part), *rows])


def _shot_rows(scores: Sequence[Score | MeanScore], shots: Sequence[int]) -> list[list[str]]:
    by_place = {(s.initialisation, s.shots): s for s in scores}
    rows = []
    for name in dict.fromkeys(s.initialisation for s in scores):
        line = [by_place.get((name, n)) for n in shots]
        rows.append([one_line(name), *(_cell(s.auc) if s else words.UNKNOWN for s in line)])
        for baseline in dict.fromkeys(d.baseline for s in line if s for d in s.differences):
            rows.append([f" over {one_line(baseline)}", *(_gain(_over(s, baseline)) for s in line)])
    return rows


def _over(score: Score | MeanScore | Cases | None, baseline: str) -> Difference | None:
    return next((d for d in score.differences if d.baseline == baseline), None) if score else None


def _cell(estimate: Estimate | None) -> str:
    return words.UNKNOWN if estimate is None else f"{digits(estimate.mean)}\n{in_brackets(estimate)}"


def _gain(difference: Difference | None) -> str:
    if difference is None:
        return words.UNKNOWN
    mark = "*" if words.excludes_nought(difference.auc) else ""
    gain = f"{digits(difference.auc.mean, sign=True)}{mark}\n{in_brackets(difference.auc, sign=True)}"
    return gain if difference.p is None else f"{gain}\np {_p(difference)}"


def _p(difference: Difference) -> str:
    return p_value(best_p(difference))


def _print_measures(scores: Sequence[Score], prevalence: float | None) -> None:
    """All other measures at the largest number of shots; those that nobody has are left out."""
    from scarce_cli.commands.inputs import table

    last = words.largest(scores)
    columns = [(title, value) for title, value in _MEASURES if any(value(s) != words.UNKNOWN for s in last)]
    rows = [[one_line(s.initialisation), *(value(s) for _, value in columns)] for s in last]
    title = f"{one_line(last[0].finding)}, {words.count(last[0].shots, 'shot')}; {_MEASURED}"
    title += f"; PPV at a prevalence of {prevalence:.3g})" if prevalence is not None else ")"
    table(title, ["", *(title for title, _ in columns)], rows)


def _brier(calibration: Calibration | None) -> str:
    if calibration is None:
        return words.UNKNOWN
    return f"{digits(calibration.brier)}\n({digits(calibration.brier_prevalence)})"


_MEASURES: tuple[tuple[str, Callable[[Score], str]], ...] = (
    ("average\nprecision", lambda s: _cell(s.average_precision)),
    ("sens.\nat 90 %", lambda s: _cell(s.sensitivity_90)),
    ("sens.\nat 95 %", lambda s: _cell(s.sensitivity_95)),
    ("PPV\nat 90 %", lambda s: _cell(s.ppv_90)),
    ("PPV\nat 95 %", lambda s: _cell(s.ppv_95)),
    ("Brier\n(naive)", lambda s: _brier(s.calibration)),
)


def _print_lines(result: Result, tasks: Sequence[Task]) -> None:
    """One line for each finding at its largest number of shots, in a table for each that is compared."""
    from scarce_cli.commands.console import say, stdout
    from scarce_cli.commands.inputs import table

    lines = [s for task in tasks for s in words.largest(words.scores_of(result, task))]
    compared = list(dict.fromkeys(s.initialisation for s in lines if s.differences))
    for name in compared or list(dict.fromkeys(s.initialisation for s in lines)):
        those = [s for s in lines if s.initialisation == name]
        baselines = list(dict.fromkeys(d.baseline for s in those for d in s.differences))
        room = stdout().width - _FIXED - min(_NAMED, max(len(one_line(s.finding)) for s in those))
        fits = max(1, room // _GAIN)
        for start in range(0, max(1, len(baselines)), fits):
            part = baselines[start : start + fits]
            columns = ["finding", "with it", "shots", "AUC", *(f"over\n{one_line(b)}" for b in part)]
            table(f"{one_line(name)}, each finding", columns, [_line(result, s, part) for s in those])
    say(f"with it: test patients with the finding; few: not in the mean. All measures: {_FULL} and probe.csv")


def _line(result: Result, score: Score, baselines: Sequence[str]) -> list[str]:
    tested = words.tested_on(result, (score.finding, score.against))
    patients = f"{tested.positive_patients}{'' if score.enough else ' (few)'}" if tested else words.UNKNOWN
    auc = f"{short(digits(score.auc.mean))} {in_brackets(score.auc)}"
    gains = [_short_gain(_over(score, baseline)) for baseline in baselines]
    return [one_line(score.finding), patients, str(score.shots), auc, *gains]


def _short_gain(difference: Difference | None) -> str:
    if difference is None:
        return words.UNKNOWN
    mark = "*" if words.excludes_nought(difference.auc) else ""
    p = short(_p(difference))[:4] if _p(difference)[0] == "1" else short(_p(difference))
    return f"{short(digits(difference.auc.mean, sign=True))}{mark} p {p}".replace("p <", "p<")


def _print_cases(result: Result) -> None:
    from scarce_cli.commands.console import say
    from scarce_cli.commands.inputs import table

    for task in dict.fromkeys((c.finding, c.against) for c in result.cases):
        rows = [c for c in result.cases if (c.finding, c.against) == task]
        baselines = list(dict.fromkeys(d.baseline for c in rows for d in c.differences))
        title = f"{one_line(task[0])} against {one_line(task[1])}: {words.count(rows[0].cases, 'case')}, "
        title += f"{words.count(rows[0].controls, 'control')}, {words.count(rows[0].films, 'film')}"
        columns = ["", "AUC", "p", "shuffled\nlabels", *(f"over\n{one_line(b)}" for b in baselines)]
        table(title, columns, [_case_row(c, baselines) for c in rows])
        for case in rows:
            if said := words.projection(case):
                say(f"{one_line(case.initialisation)}: {said}")


def _case_row(case: Cases, baselines: Sequence[str]) -> list[str]:
    gains = [_gain(_over(case, baseline)) for baseline in baselines]
    return [one_line(case.initialisation), _cell(case.auc), p_value(case.p_holm), digits(case.shuffled), *gains]


def _print_skipped(result: Result) -> None:
    from scarce_cli.commands.console import say

    for row in result.skipped[:_LISTED]:
        shots = "" if row.shots is None else f", {words.count(row.shots, 'shot')}"
        say(f"left out: {one_line(row.finding)} against {one_line(row.against)}{shots}: {one_line(row.reason)}")
    if len(result.skipped) > _LISTED:
        say(f"left out: {len(result.skipped) - _LISTED} more, listed in {_FULL}")

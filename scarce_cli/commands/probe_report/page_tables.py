"""The tables of report.html."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from scarce_cli.commands.probe_report import words
from scarce_cli.commands.probe_report.markup import Html, element, join, table, two_lines
from scarce_cli.commands.probe_report.words import Task, count, digits, interval, p_value

if TYPE_CHECKING:
    from scarce_cli.evaluation.fewshot.result import Cases, Difference, Estimate, MeanScore, Result, Score, Tested

_SHOTS = "labelled films of each class"
_BELOW = "below it its 95 % interval; over: what is gained over a baseline on the same films, with its interval and p"
_BOLD = "Bold: the interval of the difference excludes zero. p of a mean is not corrected."


def means(result: Result) -> Html:
    """The mean over findings."""
    if not result.means:
        return element("p", "No finding has enough test patients, so there is no mean over findings.")
    names = list(dict.fromkeys(name for m in result.means for name in m.findings))
    counts = {m.shots: len(m.findings) for m in result.means}
    rows = list(_shot_rows(result.means))
    if len(set(counts.values())) > 1:
        rows.append(["findings in the mean", *(str(counts[n]) for n in sorted(counts))])
    caption = f"Mean over {count(max(counts.values()), 'finding')}: AUC by number of {_SHOTS}, {_BELOW}"
    told = element("p", f"In the mean: {'; '.join(map(words.one_line, names))}. {_BOLD}", class_="note")
    return join([table(caption, _shot_columns(result.means), rows), told])


def overview(result: Result) -> list[Html]:
    """Of several findings one line each, at its largest number of shots."""
    lines = [words.largest(words.scores_of(result, task)) for task in words.tasks(result)]
    if len(lines) < 2:
        return []
    names = [i.name for i in result.initialisations]
    pairs = list(dict.fromkeys((s.initialisation, d.baseline) for line in lines for s in line for d in s.differences))
    columns = [
        "finding",
        "test patients with it",
        "films of each class",
        *(f"AUC of {words.one_line(n)}" for n in names),
    ]
    columns += [f"{words.one_line(name)} over {words.one_line(baseline)}" for name, baseline in pairs]
    rows = [_line(result, {s.initialisation: s for s in line}, names, pairs) for line in lines]
    return [table("Each finding, with the largest number of labelled films", columns, rows)]


def _line(
    result: Result, scores: Mapping[str, Score], names: Sequence[str], pairs: Sequence[tuple[str, str]]
) -> list[str]:
    one = next(iter(scores.values()))
    tested = words.tested_on(result, (one.finding, one.against))
    few = "" if one.enough else " (too few)"
    patients = f"{tested.positive_patients:,}{few}" if tested else words.UNKNOWN
    aucs = [_cell(scores[name].auc if name in scores else None) for name in names]
    gains = [_gain(_over(scores.get(name), baseline)) for name, baseline in pairs]
    return [words.one_line(one.finding), patients, str(one.shots), *aucs, *gains]


def finding(result: Result, task: Task) -> Html:
    """All that was found of one finding."""
    scores, tested = words.scores_of(result, task), words.tested_on(result, task)
    heading = element("h3", f"{words.one_line(task[0])} against {words.one_line(task[1])}")
    few = "" if scores[0].enough else f"{words.left_out_of_mean(tested).capitalize()}; p is not corrected."
    notes = [element("p", few, class_="warning")] if few else []
    notes += [_shortcuts(tested)] if tested and tested.shortcuts else []
    curve = table(f"AUC by number of {_SHOTS}", _shot_columns(scores), _shot_rows(scores))
    return element("section", heading, *notes, curve, _measures(result, scores), class_="finding")


def _shortcuts(tested: Tested) -> Html:
    """Folded away: some tables tell much."""
    found = count(len(tested.shortcuts), "shortcut")
    title = element("summary", f"{found}: what the table or the files alone tell of it", class_="warning")
    return element("details", title, element("ul", *(element("li", words.one_line(s)) for s in tested.shortcuts)))


def _shot_columns(scores: Sequence[Score | MeanScore]) -> list[str]:
    return ["", *(count(n, "film") for n in sorted({s.shots for s in scores}))]


def _shot_rows(scores: Sequence[Score | MeanScore]) -> Iterable[Sequence[str]]:
    by_place = {(s.initialisation, s.shots): s for s in scores}
    shots = sorted({s.shots for s in scores})
    for name in dict.fromkeys(s.initialisation for s in scores):
        line = [by_place.get((name, n)) for n in shots]
        yield [words.one_line(name), *(_cell(s.auc) if s else words.UNKNOWN for s in line)]
        for baseline in dict.fromkeys(d.baseline for s in line if s for d in s.differences):
            over = element("span", f"over {words.one_line(baseline)}", class_="over")
            yield [over, *(_gain(_over(s, baseline)) for s in line)]


def _over(score: Score | MeanScore | Cases | None, baseline: str) -> Difference | None:
    return next((d for d in score.differences if d.baseline == baseline), None) if score else None


def _cell(estimate: Estimate | None) -> str:
    return words.UNKNOWN if estimate is None else two_lines(digits(estimate.mean), interval(estimate))


def _gain(difference: Difference | None) -> str:
    """Bold where the interval excludes zero."""
    if difference is None:
        return words.UNKNOWN
    gain = digits(difference.auc.mean, sign=True)
    shown = element("strong", gain) if words.excludes_nought(difference.auc) else gain
    parts = [shown, element("small", interval(difference.auc, sign=True))]
    if difference.p is not None:
        holm = " (Holm)" if difference.p_holm is not None else ""
        parts.append(element("small", f"p {p_value(words.best_p(difference))}{holm}"))
    return join(parts)


def _measures(result: Result, scores: Sequence[Score]) -> Html:
    """At the largest number of shots; columns that nobody has are left out."""
    last = words.largest(scores)
    columns = [(title, value) for title, value in _MEASURES if any(value(s) != words.UNKNOWN for s in last)]
    caption = f"Other measures with {count(last[0].shots, 'film')} of each class"
    if result.prevalence is not None:
        caption += f"; predictive values at a prevalence of {result.prevalence:.3g}"
    rows = [[words.one_line(s.initialisation), *(value(s) for _, value in columns)] for s in last]
    return table(caption, ["", *(title for title, _ in columns)], rows)


def _brier(score: Score) -> str:
    if score.calibration is None:
        return words.UNKNOWN
    return two_lines(digits(score.calibration.brier), f"naive {digits(score.calibration.brier_prevalence)}")


def _c(score: Score) -> str:
    return ", ".join(f"{c}: {times}" for c, times in score.c.items()) if score.c else words.UNKNOWN


_MEASURES: tuple[tuple[str, Callable[[Score], str]], ...] = (
    ("average precision", lambda s: _cell(s.average_precision)),
    ("sensitivity at 90 % specificity", lambda s: _cell(s.sensitivity_90)),
    ("sensitivity at 95 % specificity", lambda s: _cell(s.sensitivity_95)),
    ("PPV at 90 % specificity", lambda s: _cell(s.ppv_90)),
    ("PPV at 95 % specificity", lambda s: _cell(s.ppv_95)),
    ("Brier score", _brier),
    ("C, how often chosen", _c),
)


def tested(result: Result) -> Html:
    """What each finding was tested on."""
    seen = list(dict.fromkeys(name for t in result.tested for name in t.seen))
    columns = ["finding", "against", "films with", "films without", "patients with", "patients without", "in the mean"]
    columns += [f"test films of patients in the pretraining set of {words.one_line(name)}" for name in seen]
    rows = [
        [
            *(words.one_line(text) for text in (t.finding, t.against)),
            *(f"{n:,}" for n in (t.positives, t.negatives, t.positive_patients, t.negative_patients)),
            "yes" if t.enough else "no",
            *(f"{t.seen[name]:,}" if name in t.seen else "not known" for name in seen),
        ]
        for t in result.tested
    ]
    return table("Test films and patients", columns, rows)


def initialisations(result: Result) -> Html:
    """What is compared."""
    rows = [
        [
            words.one_line(i.name),
            words.one_line(f"{i.backbone}, {i.size} px"),
            words.one_line(i.method) or "none",
            words.UNKNOWN if i.epoch is None else f"{i.epoch}",
            element("code", words.one_line(i.path)) if i.path else count(i.weights, "random network"),
            element("code", i.sha256, class_="hash") if i.sha256 else words.UNKNOWN,
        ]
        for i in result.initialisations
    ]
    return table("What is compared", ["", "encoder", "pretraining", "epoch", "from", "SHA-256"], rows)


def cases(result: Result, task: Task) -> Html:
    """One finding with every labelled case used."""
    rows = [c for c in result.cases if (c.finding, c.against) == task]
    baselines = list(dict.fromkeys(d.baseline for c in rows for d in c.differences))
    size = f"{count(rows[0].cases, 'case')}, {count(rows[0].controls, 'control')}, {count(rows[0].films, 'film')}"
    columns = ["", "AUC", "p against chance", "AUC with shuffled labels"]
    columns += [f"over {words.one_line(baseline)}" for baseline in baselines]
    made = table(f"Every case learned from and tested on in turn: {size}", columns, [_case(c, baselines) for c in rows])
    said = [f"{words.one_line(c.initialisation)}: {text}" for c in rows if (text := words.projection(c))]
    heading = element("h3", f"{words.one_line(task[0])} against {words.one_line(task[1])}")
    told = element("ul", *(element("li", text) for text in said)) if said else ""
    return element("section", heading, made, told, class_="finding")


def _case(case: Cases, baselines: Sequence[str]) -> list[str]:
    first = [words.one_line(case.initialisation), _cell(case.auc), p_value(case.p_holm), digits(case.shuffled)]
    return [*first, *(_gain(_over(case, baseline)) for baseline in baselines)]

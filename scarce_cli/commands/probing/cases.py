"""``scarce probe --cases 23``: every labelled case learned from and tested on in turn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from scarce_cli.commands.probing.caveats import tested_on
from scarce_cli.commands.probing.inputs import keep
from scarce_cli.commands.probing.options import MOST_CASES
from scarce_cli.commands.probing.run import Call
from scarce_cli.commands.probing.select import patients_seen
from scarce_cli.data.labels import NORMAL
from scarce_cli.errors import UsageError
from scarce_cli.evaluation.collapse import l2_normalize
from scarce_cli.evaluation.fewshot.cases import FEWEST, CasesFound, CasesSettings, Chosen, choose_cases, run_cases
from scarce_cli.evaluation.fewshot.confidence import Part, difference_interval
from scarce_cli.evaluation.fewshot.contenders import encode
from scarce_cli.evaluation.fewshot.doubts import doubts
from scarce_cli.evaluation.fewshot.drawing import unlabelled
from scarce_cli.evaluation.fewshot.episodes import Episodes, EpisodeSettings, Skipped, Support, Task
from scarce_cli.evaluation.fewshot.exchange import holm
from scarce_cli.evaluation.fewshot.films import REST, Films
from scarce_cli.evaluation.fewshot.guard import find_leaks, require_clean
from scarce_cli.evaluation.fewshot.linear import CS
from scarce_cli.evaluation.fewshot.result import Cases, Difference, Estimate, Tested
from scarce_cli.evaluation.fewshot.store import Store

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from scarce_cli.evaluation.fewshot.scoring import Progress


@dataclass(frozen=True)
class _Question:
    """A finding with the films that answer it."""

    finding: str
    chosen: Chosen


@dataclass(frozen=True)
class FoundCases:
    """All findings and initialisations, what cannot be answered, and what a reader must know."""

    cases: tuple[Cases, ...]
    tested: tuple[Tested, ...]
    skipped: tuple[Skipped, ...]
    caveats: tuple[str, ...]


def find_cases(call: Call, progress: Progress) -> FoundCases:
    """Answer for every finding.

    Raises:
        UsageError: no film has a finding that was asked for, the same picture stands under two patients, or (with
            ``--seen refuse``) a case was seen in pretraining.
    """
    from scarce_cli.evaluation.fewshot.cases import CasesSettings
    from scarce_cli.evaluation.fewshot.episodes import Episodes, EpisodeSettings, Skipped

    options = call.options
    assert options.cases is not None
    require_clean(find_leaks(call.labelled.films, Episodes(EpisodeSettings(), (), ())))
    call, caveats = _without_seen(call)
    films, questions, skipped = call.labelled.films, [], []
    for finding in call.findings or _with_cases(films, call.against):
        chosen = choose_cases(films, finding, call.against, options.cases, options.seed)
        if isinstance(chosen, Skipped):
            skipped.append(chosen)
        else:
            questions.append(_Question(finding, chosen))
    silent = unlabelled(films)
    if silent and call.against is None:
        caveats.append(f"{silent} films of which the table says nothing count neither as with nor as without.")
    caveats.append("Each checkpoint is held against one random initialisation, not a mean of several.")
    settings = CasesSettings(cs=CS if options.c is None else (options.c,), seed=options.seed)
    tasks = [_as_task(call, question) for question in questions]
    return FoundCases(
        cases=tuple(_answer(call, questions, settings, progress) if questions else ()),
        tested=tuple(tested_on(call, task) for task in tasks),
        skipped=tuple(skipped),
        caveats=(*caveats, *_counted(call, tasks), *_doubted(call, tasks)),
    )


def _without_seen(call: Call) -> tuple[Call, list[str]]:
    """Films of patients who were in a pretraining set left out or refused, as was asked for."""
    import numpy as np

    if call.options.pick.seen == "flag":
        return call, []
    seen, films = patients_seen(call), call.labelled.films
    stay = np.array([patient not in seen for patient in films.patients], bool)
    left = int((~stay).sum())
    if not left:
        return call, []
    message = f"{left} of {len(films)} films are of patients that a checkpoint was pretrained on"
    if call.options.pick.seen == "refuse" or not stay.any():
        raise UsageError(message, "--seen flag uses them all" if not stay.any() else "--seen leave-out uses the others")
    return replace(call, labelled=keep(call.labelled, np.flatnonzero(stay))), [f"{message}: left out."]


def _as_task(call: Call, question: _Question) -> Task:
    """All films are learned from and tested on in turn."""
    chosen = question.chosen
    support = Support(chosen.films, chosen.labels)
    return Task(question.finding, call.against or REST, chosen.films, chosen.labels, {1: (support,)})


def _counted(call: Call, tasks: Sequence[Task]) -> list[str]:
    """Where there are other cases than were asked for."""
    import numpy as np

    wanted, films = call.options.cases or 0, call.labelled.films
    numbers, caveats = films.patient_numbers(), []
    for task in tasks:
        used = len(np.unique(numbers[task.test[task.labels]]))
        there = len(np.unique(numbers[films.showing(task.finding)]))
        if used < wanted:
            caveats.append(f"{task.finding}: {wanted} cases were asked for, {used} patients can be used.")
        elif there > used:
            more = min(there, MOST_CASES)
            further = f"; --cases {more} uses {'all' if more == there else 'more'}" if more > wanted else ""
            caveats.append(f"{task.finding}: {used} of {there} patients with it are used{further}.")
    return caveats


def _doubted(call: Call, tasks: Sequence[Task]) -> list[str]:
    episodes = Episodes(EpisodeSettings(), tuple(tasks), ())
    return [f"{one[0].upper()}{one[1:]}." for one in doubts(call.labelled.films, episodes, call.labelled.near)]


def _with_cases(films: Films, against: str | None) -> list[str]:
    """All findings that enough patients have, normal ones apart, in the order of their names. UsageError for none."""
    patients: dict[str, set[str]] = {}
    for patient, names in zip(films.patients, films.findings, strict=True):
        for name in names:
            patients.setdefault(name, set()).add(patient)
    found = [name for name in sorted(patients) if name.casefold() not in NORMAL and name != against]
    found = [name for name in found if len(patients[name]) >= FEWEST]
    if not found:
        raise UsageError(f"no finding has {FEWEST} patients with it", "name one with --finding, or label more films")
    return found


def _answer(call: Call, questions: Sequence[_Question], settings: CasesSettings, progress: Progress) -> list[Cases]:
    import numpy as np

    used = np.unique(np.concatenate([question.chosen.films for question in questions]))
    units = _units(call, used, progress)
    steps = len(questions) * len(call.compared) * settings.permutations
    found: list[dict[str, CasesFound]] = []
    for question in questions:
        chosen, place = question.chosen, np.searchsorted(used, question.chosen.films)
        found.append(
            {
                name: run_cases(
                    x[place], chosen.labels, chosen.patients, settings, lambda: progress("shuffled labels", steps, 1)
                )
                for name, x in units.items()
            }
        )
    corrected = {name: holm([one[name].p for one in found]) for name in units}
    answers = []
    for number, (question, here) in enumerate(zip(questions, found, strict=True)):
        for one in call.compared:
            gains = tuple(_difference(here[one.name], here[other], other) for other in one.baselines)
            p = corrected[one.name][number]
            answers.append(here[one.name].result(question.finding, call.against or REST, one.name, gains, p))
    return answers


def _units(call: Call, used: NDArray[np.int64], progress: Progress) -> dict[str, NDArray[np.float64]]:
    """Unit features of the films used, by initialisation."""
    import numpy as np

    store, found = Store(call.options.folder / "cache"), {}
    for one in call.compared:
        features = encode(
            one,
            call.cache,
            call.labelled.rows[used],
            call.device,
            stage=call.options.stage,
            store=store,
            on_films=lambda n, name=one.name: progress(f"features, {name}", len(used), n),  # type: ignore[misc]
        )
        found[one.name] = l2_normalize(features[0].astype(np.float64))
    return found


def _difference(ours: CasesFound, theirs: CasesFound, name: str) -> Difference:
    """Paired: the same patients left out together, the same resamples of patients. No p: scores of patients who learn
    from each other are not exchangeable one by one."""
    gain, patients = ours.auc.mean - theirs.auc.mean, min(ours.cases, ours.controls)
    variance = float((ours.resampled - theirs.resampled).var(ddof=1)) * patients / (patients - 1)
    low, high = difference_interval(gain, [Part(variance, patients)], patients)
    return Difference(name, Estimate(gain, 0.0, low, high), None, None)

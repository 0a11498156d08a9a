"""``scarce probe --cases 23``: every labelled case learned from and tested on in turn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from scarce_cli.commands.probe_run import Call

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from scarce_cli.evaluation.fewshot.cases import CasesFound, CasesSettings, Chosen
    from scarce_cli.evaluation.fewshot.episodes import Skipped
    from scarce_cli.evaluation.fewshot.films import Films
    from scarce_cli.evaluation.fewshot.result import Cases, Difference
    from scarce_cli.evaluation.fewshot.scoring import Progress


@dataclass(frozen=True)
class _Question:
    """A finding with the films that answer it."""

    finding: str
    chosen: Chosen


def find_cases(call: Call, progress: Progress) -> tuple[list[Cases], list[Skipped], list[str]]:
    """All findings and initialisations, what cannot be answered, and what a reader must know.

    Raises:
        UsageError: no film has a finding that was asked for, or the same picture stands under two patients.
    """
    from scarce_cli.evaluation.fewshot.cases import CasesSettings, choose_cases
    from scarce_cli.evaluation.fewshot.drawing import unlabelled
    from scarce_cli.evaluation.fewshot.episodes import Episodes, EpisodeSettings, Skipped
    from scarce_cli.evaluation.fewshot.guard import find_leaks, require_clean
    from scarce_cli.evaluation.fewshot.linear import CS

    options, films = call.options, call.labelled.films
    assert options.cases is not None
    require_clean(find_leaks(films, Episodes(EpisodeSettings(), (), ())))
    questions, skipped, caveats = [], [], []
    for finding in call.findings or _with_cases(films, call.against):
        chosen = choose_cases(films, finding, call.against, options.cases, options.seed)
        if isinstance(chosen, Skipped):
            skipped.append(chosen)
        else:
            questions.append(_Question(finding, chosen))
    silent = unlabelled(films)
    if silent and call.against is None:
        caveats.append(f"{silent} films of which the table says nothing count neither as with nor as without.")
    settings = CasesSettings(cs=CS if options.c is None else (options.c,), seed=options.seed)
    found = _answer(call, questions, settings, progress) if questions else []
    return found, skipped, caveats


def _with_cases(films: Films, against: str | None) -> list[str]:
    """All findings that enough patients have, normal ones apart, in the order of their names. UsageError for none."""
    from scarce_cli.data.labels import NORMAL
    from scarce_cli.errors import UsageError
    from scarce_cli.evaluation.fewshot.cases import FEWEST

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

    from scarce_cli.evaluation.fewshot.cases import run_cases
    from scarce_cli.evaluation.fewshot.films import REST

    used = np.unique(np.concatenate([question.chosen.films for question in questions]))
    units = _units(call, used, progress)
    steps = len(questions) * len(call.compared) * settings.permutations
    answers = []
    for question in questions:
        chosen, place = question.chosen, np.searchsorted(used, question.chosen.films)
        found = {
            name: run_cases(
                x[place], chosen.labels, chosen.patients, settings, lambda: progress("shuffled labels", steps, 1)
            )
            for name, x in units.items()
        }
        for one in call.compared:
            differences = tuple(_difference(found, one.name, other, chosen, settings) for other in one.baselines)
            against = call.against or REST
            answers.append(found[one.name].result(question.finding, against, one.name, differences))
    return answers


def _units(call: Call, used: NDArray[np.int64], progress: Progress) -> dict[str, NDArray[np.float64]]:
    """Unit features of the films used, by initialisation."""
    import numpy as np

    from scarce_cli.evaluation.collapse import l2_normalize
    from scarce_cli.evaluation.fewshot.contenders import encode
    from scarce_cli.evaluation.fewshot.store import Store

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


def _difference(
    found: Mapping[str, CasesFound], name: str, other: str, chosen: Chosen, settings: CasesSettings
) -> Difference:
    """Paired: the same patients left out together, the same resamples of patients, exchange within patients."""
    import numpy as np

    from scarce_cli.evaluation.fewshot.exchange import p_value, patient_shares
    from scarce_cli.evaluation.fewshot.result import Difference, Estimate

    ours, theirs = found[name], found[other]
    low, high = np.nanpercentile(ours.resampled - theirs.resampled, [2.5, 97.5])
    shares = patient_shares(ours.scores[None, None], theirs.scores[None, None], chosen.labels, chosen.patients)
    gain = Estimate(ours.auc.mean - theirs.auc.mean, 0.0, float(low), float(high))
    return Difference(other, gain, p_value(shares, seed=settings.seed), None)

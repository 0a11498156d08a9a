"""Which films and findings ``scarce probe`` looks at, and the episodes it draws or is given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from scarce_cli.commands.console import stderr, warn
from scarce_cli.commands.probing.inputs import Labelled, keep
from scarce_cli.commands.probing.options import Options, Pick
from scarce_cli.errors import UsageError

if TYPE_CHECKING:
    from scarce_cli.commands.probing.run import Call
    from scarce_cli.data.cache import Cache
    from scarce_cli.evaluation.fewshot.choosing import Kept
    from scarce_cli.evaluation.fewshot.contenders import Contender
    from scarce_cli.evaluation.fewshot.episodes import Episodes
    from scarce_cli.evaluation.fewshot.films import Bools, Films

_WORTH_TRYING = 5  # patients with a finding on either side of the split, before it is tested unasked


@dataclass(frozen=True)
class Selected:
    """What is left of the table after all that was asked for."""

    labelled: Labelled
    findings: tuple[str, ...]  # those asked for; (): all with enough cases
    against: str | None
    caveats: tuple[str, ...]


def select(labelled: Labelled, options: Options) -> Selected:
    """Apply ``--where`` and ``--task``; resolve names of findings.

    Raises:
        UsageError: an unknown column, task or finding, or nothing is left.
    """
    from scarce_cli.evaluation.fewshot.choosing import apply_where, parse_where, resolve_finding

    pick = options.pick
    caveats = list(labelled.caveats)
    conditions = parse_where(pick.where)
    if conditions:
        labelled = _only(labelled, apply_where(labelled.films, conditions), caveats)
    findings, against = pick.findings, pick.against
    if pick.task:
        labelled, published, against = _published(labelled, pick, caveats)
        findings = findings or published
    resolved = tuple(resolve_finding(labelled.films, name) for name in findings)
    against = resolve_finding(labelled.films, against) if against else None
    return Selected(labelled, resolved, against, tuple(caveats))


def _only(labelled: Labelled, kept: Kept, caveats: list[str]) -> Labelled:
    for line in kept.report():
        stderr().print(line, markup=False, highlight=False)
    caveats.append(f"Only films with: {'; '.join(kept.report())}.")
    return keep(labelled, kept.films)


def _published(labelled: Labelled, pick: Pick, caveats: list[str]) -> tuple[Labelled, tuple[str, ...], str | None]:
    from scarce_cli.evaluation.fewshot.choosing import resolve_finding
    from scarce_cli.evaluation.fewshot.tasks import TASKS
    from scarce_cli.presets import nearest

    name, against = pick.task or "", pick.against
    if name not in TASKS:
        raise UsageError(f"no task is named '{name}'{nearest(name, TASKS)}", f"tasks: {', '.join(TASKS)}")
    preset = TASKS[name]
    labelled = _only(labelled, preset.select(labelled.films), caveats)
    present, missing = preset.present(labelled.films)
    for finding in pick.findings:
        if resolve_finding(labelled.films, finding) not in present:
            raise UsageError(
                f"--finding {finding}: not one of the findings of --task {name}", f"they are: {', '.join(present)}"
            )
    if missing:
        caveats.append(f"No film shows {', '.join(missing)}, of the findings of {name}.")
    if against is None:
        caveats.append(preset.about)
        labelled = replace(labelled, films=preset.name_others(labelled.films))
    return labelled, tuple(present), against or preset.against


def joined(labelled: Labelled, same_film: str) -> Labelled:
    """The films, where patients that share a picture count as one if that was asked for (``--same-film join``)."""
    from scarce_cli.evaluation.fewshot.drawing import united_patients
    from scarce_cli.evaluation.fewshot.guard import identical_pairs

    films, caveats = labelled.films, list(labelled.caveats)
    if not all(films.pixels):
        count = sum(not one for one in films.pixels)
        caveats.append(
            f"{count} films have no hash of their pixels in manifest.csv: nobody can tell whether the same picture is "
            "on both sides."
        )
    pairs = identical_pairs(films)
    if pairs and same_film == "join":
        caveats.append(f"{len(pairs)} pictures stand under two patients, who count as one.")
        films = replace(films, patients=united_patients(films, pairs))
    return replace(labelled, films=films, caveats=tuple(caveats))


def make_episodes(call: Call) -> tuple[Episodes, list[str]]:
    """The episodes given or drawn, clean, with what is to be said of them.

    Raises:
        UsageError: something leaks between the sides, a finding is not there, or no finding has enough cases.
        UnsafeInput, DamagedData: the file of episodes is not what scarce wrote.
    """
    from scarce_cli.evaluation.fewshot.doubts import doubts
    from scarce_cli.evaluation.fewshot.drawing import draw_episodes, unlabelled
    from scarce_cli.evaluation.fewshot.episodes import EpisodeSettings
    from scarce_cli.evaluation.fewshot.episodes_file import read_episodes
    from scarce_cli.evaluation.fewshot.guard import find_leaks, require_clean

    options, films = call.options, call.labelled.films
    caveats = []
    if options.episodes:
        episodes = read_episodes(options.episodes, films)
    else:
        settings = EpisodeSettings(options.shots, options.draws, options.test_fraction, options.seed)
        episodes = draw_episodes(films, chosen_findings(call), call.against, settings)
        silent = unlabelled(films)
        if silent and call.against is None:
            caveats.append(f"{silent} films of which the table says nothing count neither as with nor as without.")
    require_clean(find_leaks(films, episodes))
    if options.pick.seen != "flag":
        episodes = _without_seen(call, episodes, caveats)
    for doubt in doubts(films, episodes, call.labelled.near):
        warn(doubt)
        caveats.append(f"{doubt[0].upper()}{doubt[1:]}.")
    return episodes, caveats


def chosen_findings(call: Call) -> list[str]:
    """Those asked for, or all with enough cases. Raises UsageError."""
    from scarce_cli.evaluation.fewshot.choosing import choose_findings
    from scarce_cli.evaluation.fewshot.drawing import in_test_part

    options, films = call.options, call.labelled.films
    sides = in_test_part(films.patients, options.test_fraction, options.seed)
    return choose_findings(films, call.findings, call.against, test_side=sides, minimum=_WORTH_TRYING)


def seen_patients(films: Films, cache: Cache, compared: Sequence[Contender]) -> dict[str, frozenset[str] | None]:
    """For each initialisation from a file, the patients of whom it was trained on some film; None: not known.

    Args:
        films: all of the table, so that a patient is known by a film that is not tested too.
    """
    from scarce_cli.evaluation.fewshot.guard import seen_films

    found: dict[str, frozenset[str] | None] = {}
    for one in compared:
        if one.row.kind == "random":
            continue
        if one.trained_on is not None and (len(one.trained_on) == 0 or all(films.pixels)):
            seen = seen_films(films.pixels, one.trained_on)
            found[one.name] = frozenset(patient for patient, it in zip(films.patients, seen, strict=True) if it)
        else:
            found[one.name] = frozenset(films.patients) if one.trained_data == cache.digest else None
    return found


def patients_seen(call: Call) -> frozenset[str]:
    """Patients of whom some encoder has seen a film, where they are to be left out or refused.

    Raises:
        UsageError: that is not known.
    """
    unknown = [name for name, those in call.seen.items() if those is None]
    if unknown:
        raise UsageError(
            f"which films {' and '.join(unknown)} saw in pretraining is not known: the checkpoint is older, or a data "
            "set has no manifest.csv",
            "pretrain with this version on a data set made by scarce preprocess, or --seen flag",
        )
    return frozenset().union(*(those for those in call.seen.values() if those is not None))


def _without_seen(call: Call, episodes: Episodes, caveats: list[str]) -> Episodes:
    """Test films of patients that some checkpoint was trained on left out; UsageError where they are refused."""
    import numpy as np

    seen = patients_seen(call)
    mask = np.array([patient in seen for patient in call.labelled.films.patients], bool)
    counts = {task.finding: int(mask[task.test].sum()) for task in episodes.tasks if mask[task.test].any()}
    if call.options.pick.seen == "refuse" and counts:
        raise UsageError(
            f"{sum(counts.values())} test films are of patients that a checkpoint was pretrained on",
            "--seen leave-out tests on the others alone, --seen flag on all of them",
        )
    if counts:
        told = ", ".join(f"{finding} {count}" for finding, count in counts.items())
        caveats.append(f"Test films of patients that a checkpoint was pretrained on are left out: {told}.")
    return _leave_out(episodes, mask)


def _leave_out(episodes: Episodes, films: Bools) -> Episodes:
    """Without these test films; a task that loses a class is skipped."""
    from scarce_cli.evaluation.fewshot.episodes import Skipped

    tasks, skipped = [], list(episodes.skipped)
    for task in episodes.tasks:
        stay = ~films[task.test]
        left = replace(task, test=task.test[stay], labels=task.labels[stay])
        if left.labels.any() and not left.labels.all():
            tasks.append(left)
        else:
            reason = "no test film of a patient that no checkpoint was pretrained on is left of one class"
            skipped.append(Skipped(task.finding, task.against, None, reason))
    return replace(episodes, tasks=tuple(tasks), skipped=tuple(skipped))

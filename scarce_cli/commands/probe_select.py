"""Which films and findings ``scarce probe`` looks at, and the episodes it draws or is given."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from scarce_cli.commands.console import stderr, warn
from scarce_cli.commands.probe_inputs import Labelled, keep
from scarce_cli.commands.probe_options import Options

if TYPE_CHECKING:
    from scarce_cli.commands.probe_run import Call
    from scarce_cli.evaluation.fewshot.choosing import Kept
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
    """Apply ``--where``, ``--task`` and ``--same-film join``; resolve names of findings.

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
        labelled, published, against = _published(labelled, pick.task, against, caveats)
        findings = findings or published
    labelled = replace(labelled, films=_joined(labelled.films, pick.same_film, caveats))
    resolved = tuple(resolve_finding(labelled.films, name) for name in findings)
    against = resolve_finding(labelled.films, against) if against else None
    return Selected(labelled, resolved, against, tuple(caveats))


def _only(labelled: Labelled, kept: Kept, caveats: list[str]) -> Labelled:
    for line in kept.report():
        stderr().print(line, markup=False, highlight=False)
    caveats.append(f"Only films with: {'; '.join(kept.report())}.")
    return keep(labelled, kept.films)


def _published(
    labelled: Labelled, name: str, against: str | None, caveats: list[str]
) -> tuple[Labelled, tuple[str, ...], str | None]:
    from scarce_cli.errors import UsageError
    from scarce_cli.evaluation.fewshot.tasks import TASKS
    from scarce_cli.presets import nearest

    if name not in TASKS:
        raise UsageError(f"no task is named '{name}'{nearest(name, TASKS)}", f"tasks: {', '.join(TASKS)}")
    preset = TASKS[name]
    labelled = _only(labelled, preset.select(labelled.films), caveats)
    present, missing = preset.present(labelled.films)
    if missing:
        caveats.append(f"No film shows {', '.join(missing)}, of the findings of {name}.")
    if against is None:
        caveats.append(preset.about)
        labelled = replace(labelled, films=preset.name_others(labelled.films))
    return labelled, tuple(present), against or preset.against


def _joined(films: Films, same_film: str, caveats: list[str]) -> Films:
    """The films, where patients that share a picture count as one if that was asked for."""
    from scarce_cli.evaluation.fewshot.drawing import united_patients
    from scarce_cli.evaluation.fewshot.guard import identical_pairs

    pairs = identical_pairs(films)
    if not pairs or same_film != "join":
        return films
    caveats.append(f"{len(pairs)} pictures stand under two patients, who count as one.")
    return replace(films, patients=united_patients(films, pairs))


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
        episodes = _without_seen(call, episodes)
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


def seen_by(call: Call) -> dict[str, Bools | None]:
    """For each checkpoint and each baseline from a file, which films it was trained on; None: not known."""
    import numpy as np

    from scarce_cli.evaluation.fewshot.guard import seen_films

    films = call.labelled.films
    found: dict[str, Bools | None] = {}
    for one in call.compared:
        if one.trained_on is not None:
            found[one.name] = seen_films(films.pixels, one.trained_on)
        else:
            found[one.name] = np.ones(len(films), bool) if one.trained_data == call.cache.digest else None
    return {one.name: found[one.name] for one in call.compared if one.row.kind != "random"}


def _without_seen(call: Call, episodes: Episodes) -> Episodes:
    """Test films of patients that some checkpoint was trained on left out; UsageError where they are refused."""
    import numpy as np

    from scarce_cli.errors import UsageError
    from scarce_cli.evaluation.fewshot.guard import of_same_patients

    films, seen = call.labelled.films, seen_by(call)
    unknown = [name for name, those in seen.items() if those is None]
    if unknown:
        raise UsageError(
            f"which films {', '.join(unknown)} was pretrained on is not known: the checkpoint is older",
            "pretrain with this version, or --seen flag",
        )
    both = np.any([those for those in seen.values() if those is not None] or [np.zeros(len(films), bool)], axis=0)
    patients = of_same_patients(films, both)
    if call.options.pick.seen == "refuse":
        count = sum(int(patients[task.test].sum()) for task in episodes.tasks)
        if count:
            raise UsageError(
                f"{count} test films are of patients that a checkpoint was pretrained on",
                "--seen leave-out tests on the others alone, --seen flag on all of them",
            )
        return episodes
    return _leave_out(episodes, patients)


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

"""What a reader of a probe must know beside its numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from scarce_cli.commands.probing.run import Call
    from scarce_cli.evaluation.fewshot.episodes import Episodes, Task
    from scarce_cli.evaluation.fewshot.result import Tested
    from scarce_cli.evaluation.fewshot.run import Found

_FEW_DRAWS = 5
_LACKING = 0.01  # share of resamples that may lack a class before it is told


def tested_on(call: Call, task: Task) -> Tested:
    """What a task is tested on, whom of it encoders have seen, and what tells the finding without a look."""
    from scarce_cli.evaluation.fewshot.result import Tested
    from scarce_cli.evaluation.fewshot.run import patients_of
    from scarce_cli.evaluation.fewshot.shortcuts import find_shortcuts

    films = call.labelled.films
    with_it, without = patients_of(task, films.patient_numbers())
    patients = [films.patients[film] for film in task.test]
    return Tested(
        finding=task.finding,
        against=task.against,
        positives=int(task.labels.sum()),
        negatives=int((~task.labels).sum()),
        positive_patients=with_it,
        negative_patients=without,
        enough=min(with_it, without) >= call.options.min_patients,
        seen={name: sum(one in those for one in patients) for name, those in call.seen.items() if those is not None},
        shortcuts=tuple(one.text for one in find_shortcuts(films, task, call.labelled.facts)),
    )


def about_seen(call: Call, tested: Sequence[Tested]) -> list[str]:
    """Test patients who were in a pretraining set, or may have been."""
    caveats = []
    unknown = [name for name, those in call.seen.items() if those is None]
    if unknown:
        caveats.append(
            f"Which films {' and '.join(unknown)} saw in pretraining is not known: the checkpoint is older, or a data "
            "set has no manifest.csv. Test films may be among them."
        )
    seen = {name: count for one in tested for name, count in one.seen.items() if count}
    if seen:
        caveats.append(
            f"Test patients were in the pretraining set of {' and '.join(seen)}, without their labels. That is how "
            "such an encoder is used on one's own films, but it is no test on another hospital: --seen leave-out tests "
            "on other patients alone."
        )
    return caveats


def about_tuning(first: Mapping[str, int]) -> list[str]:
    """Where rows are not fine-tuned alike.

    Args:
        first: by name of the initialisation, the first part of the encoder that is trained.
    """
    if len(set(first.values())) < 2:
        return []
    told = ", ".join(f"{name} from stage {stage}" for name, stage in first.items())
    return [f"Not all are fine-tuned alike ({told}): a baseline is tuned like the first checkpoint held against it."]


def about_episodes(episodes: Episodes) -> list[str]:
    """Too few draws, and findings that are tested on the same films with the same or opposite labels."""
    caveats = []
    draws = episodes.settings.draws
    if draws < _FEW_DRAWS:
        caveats.append(f"{draws} draws say little of other labelled films, so intervals are wide: use 10 or more.")
    tasks = episodes.tasks
    for number, one in enumerate(tasks):
        for other in tasks[:number]:
            if one.test.tolist() == other.test.tolist() and len({*(one.labels ^ other.labels).tolist()}) == 1:
                caveats.append(
                    f"{other.finding} and {one.finding} are one question: the same test films, labelled alike or the "
                    "other way round. Both stand in means and corrections: leave one out with --finding."
                )
    return caveats


def about_resamples(found: Found) -> list[str]:
    """Findings with so few test patients that some resamples lack a class."""
    return [
        f"{share:.0%} of the resamples behind the intervals of {finding} lack one class and are left out: "
        "the intervals are too narrow, if anything."
        for finding, share in found.left_out.items()
        if share > _LACKING
    ]

"""``scarce probe`` from its options to its report."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from scarce_cli.commands.console import progress_bar
from scarce_cli.commands.probe_inputs import Labelled, read_films
from scarce_cli.commands.probe_options import PUBLISHED, Options

if TYPE_CHECKING:
    import torch

    from scarce_cli.checkpoint import SavedEncoder
    from scarce_cli.data.cache import Cache
    from scarce_cli.evaluation.fewshot.contenders import Contender
    from scarce_cli.evaluation.fewshot.episodes import Episodes
    from scarce_cli.evaluation.fewshot.result import Result, Tested
    from scarce_cli.evaluation.fewshot.run import Found
    from scarce_cli.evaluation.fewshot.scoring import Material, Progress, Scorer

_LACKING = 0.01  # share of resamples that may lack a class before it is told
_FINETUNE_DEFAULT = 2  # first stage trained where the method of a checkpoint is not known any more


@dataclass(frozen=True)
class Call:
    """What a probe works with."""

    options: Options
    saved: tuple[SavedEncoder, ...]
    compared: tuple[Contender, ...]
    cache: Cache
    labelled: Labelled
    findings: tuple[str, ...]  # as the table spells them
    against: str | None
    device: torch.device
    labels_sha256: str
    caveats: tuple[str, ...]


def run(options: Options) -> None:
    """Read, learn, test, write, print. Raises as its parts do; nothing is written before all input was read."""
    from scarce_cli.commands.probe_output import print_result, write_result
    from scarce_cli.files import make_folder

    call = prepare(options)
    make_folder(options.folder)
    result = _cases(call) if options.cases else _episodes(call)
    written = write_result(result, options.folder)
    print_result(result, written)


def prepare(options: Options) -> Call:
    """Everything read and checked."""
    from scarce_cli.checkpoint import load_encoder
    from scarce_cli.commands.inputs import compute_device, open_data
    from scarce_cli.commands.probe_select import select
    from scarce_cli.data.labels import read_labels
    from scarce_cli.evaluation.fewshot.contenders import contenders
    from scarce_cli.files import sha256

    table = read_labels(options.labels)
    saved = [load_encoder(path) for path in options.checkpoints]
    weights = 1 if options.cases else options.random
    compared = contenders(saved, random_weights=weights, imagenet=options.imagenet)
    cache = open_data(saved[0].data, options.data)
    selected = select(read_films(table, cache, options.max_bad), options)
    return Call(
        options=options,
        saved=tuple(saved),
        compared=tuple(compared),
        cache=cache,
        labelled=selected.labelled,
        findings=selected.findings,
        against=selected.against,
        device=compute_device(options.device),
        labels_sha256=sha256(options.labels),
        caveats=selected.caveats,
    )


@contextlib.contextmanager
def _told() -> Iterator[Progress]:
    """A bar for each thing that is done, made when it begins."""
    with progress_bar("") as bar:
        tasks: dict[str, Any] = {}

        def progress(what: str, total: int, done: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=total, note="")
            bar.advance(tasks[what], done)

        yield progress


def _material(call: Call, episodes: Episodes, progress: Progress) -> Material:
    from scarce_cli.evaluation.fewshot.scoring import Material
    from scarce_cli.evaluation.fewshot.store import Store

    return Material(
        films=call.labelled.films,
        rows=call.labelled.rows,
        cache=call.cache,
        episodes=episodes,
        device=call.device,
        store=Store(call.options.folder / "cache"),
        stage=call.options.stage,
        progress=progress,
    )


def _episodes(call: Call) -> Result:
    from scarce_cli.commands.probe_select import make_episodes
    from scarce_cli.evaluation.fewshot.episodes_file import write_episodes
    from scarce_cli.evaluation.fewshot.run import Found, Statistics, run_probe

    options, films = call.options, call.labelled.films
    episodes, caveats = make_episodes(call)
    digest = write_episodes(options.folder / "episodes.json", films, episodes)
    tested = _tested(call, episodes)
    found = Found((), (), {})
    if episodes.tasks:
        settings = Statistics(options.min_patients, prevalence=options.prevalence, seed=options.seed)
        with _told() as progress:
            scorers = _scorers(call, _material(call, episodes, progress))
            found = run_probe(
                films,
                episodes,
                scorers,
                call.compared,
                settings,
                log_odds=options.mode in ("linear", "finetune"),
                progress=progress,
            )
    plain = _result(call, options.mode, (*call.caveats, *caveats, *_few(call, tested), *_uncertain(found)))
    return replace(
        plain,
        episodes="episodes.json",
        episodes_sha256=digest,
        tested=tuple(tested),
        scores=found.scores,
        means=found.means,
        skipped=episodes.skipped,
    )


def _scorers(call: Call, material: Material) -> dict[str, Scorer]:
    from scarce_cli.evaluation.fewshot import scoring

    if call.options.mode == "finetune":
        return {one.name: _fine_tuned(call, one, material) for one in call.compared}
    if call.options.mode == "linear":
        return {one.name: scoring.linear(one, material, call.options.c) for one in call.compared}
    nearest = scoring.knn if call.options.mode == "knn" else scoring.prototype
    return {one.name: nearest(one, material) for one in call.compared}


def _fine_tuned(call: Call, one: Contender, material: Material) -> Scorer:
    from scarce_cli.evaluation.fewshot.finetune import FinetuneSettings
    from scarce_cli.evaluation.fewshot.scoring import FineTuned

    first = call.options.unfreeze
    if first == PUBLISHED:
        first = _published(one.row.method or _compared_with(call, one))
    return FineTuned(one, material, FinetuneSettings(unfreeze_from=int(first)))


def _published(method: str) -> int:
    """The first stage that few-shot fine-tuning trains after this method."""
    from scarce_cli.methods import TABLE, method_class

    return method_class(method).unfreeze_from if method in TABLE else _FINETUNE_DEFAULT


def _compared_with(call: Call, baseline: Contender) -> str:
    """The method of the first checkpoint that is held against a baseline, which is fine-tuned like it."""
    return next((one.row.method for one in call.compared if baseline.name in one.baselines and one.row.method), "")


def _tested(call: Call, episodes: Episodes) -> list[Tested]:
    from scarce_cli.commands.probe_select import seen_by
    from scarce_cli.evaluation.fewshot.result import Tested
    from scarce_cli.evaluation.fewshot.run import patients_of
    from scarce_cli.evaluation.fewshot.shortcuts import find_shortcuts

    films = call.labelled.films
    numbers, seen = films.patient_numbers(), seen_by(call)
    found = []
    for task in episodes.tasks:
        with_it, without = patients_of(task, numbers)
        found.append(
            Tested(
                finding=task.finding,
                against=task.against,
                positives=int(task.labels.sum()),
                negatives=int((~task.labels).sum()),
                positive_patients=with_it,
                negative_patients=without,
                enough=min(with_it, without) >= call.options.min_patients,
                seen={name: int(those[task.test].sum()) for name, those in seen.items() if those is not None},
                shortcuts=tuple(one.text for one in find_shortcuts(films, task, call.labelled.facts)),
            )
        )
    return found


def _few(call: Call, tested: Sequence[Tested]) -> list[str]:
    from scarce_cli.commands.probe_select import seen_by

    caveats = []
    unknown = [name for name, those in seen_by(call).items() if those is None]
    if unknown:
        caveats.append(
            f"Which films {', '.join(unknown)} was pretrained on is not known: its checkpoint is older. Test films may "
            "be among them."
        )
    seen = {name: count for one in tested for name, count in one.seen.items() if count}
    if seen:
        caveats.append(
            f"Test films were in the pretraining set of {', '.join(seen)}, without their labels. That is how such an "
            "encoder is used on one's own films, but it is no test on another hospital: --seen leave-out tests on "
            "films of other patients alone."
        )
    return caveats


def _uncertain(found: Found) -> list[str]:
    """Findings with so few test patients that some resamples lack a class."""
    return [
        f"{share:.0%} of the resamples behind the intervals of {finding} lack one class and are left out: "
        "the intervals are too narrow, if anything."
        for finding, share in found.left_out.items()
        if share > _LACKING
    ]


def _cases(call: Call) -> Result:
    from scarce_cli.commands.probe_cases import find_cases

    with _told() as progress:
        found, skipped, caveats = find_cases(call, progress)
    return replace(_result(call, "cases", (*call.caveats, *caveats)), cases=tuple(found), skipped=tuple(skipped))


def _result(call: Call, mode: str, caveats: Sequence[str]) -> Result:
    from scarce_cli import __version__
    from scarce_cli.evaluation.fewshot.result import Result

    cache, options = call.cache, call.options
    data = {"folder": str(cache.folder), "digest": cache.digest, "films": len(cache.names)}
    return Result(
        mode=mode,
        settings=options.as_plain(),
        labels=str(options.labels),
        labels_sha256=call.labels_sha256,
        data={**data, "labelled": len(call.labelled.films)},
        episodes="",
        episodes_sha256="",
        initialisations=tuple(one.row for one in call.compared),
        tested=(),
        scores=(),
        means=(),
        cases=(),
        skipped=(),
        caveats=tuple(caveats),
        prevalence=options.prevalence,
        version=__version__,
    )

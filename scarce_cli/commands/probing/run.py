"""``scarce probe`` from its options to its report."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from scarce_cli.commands.console import progress_bar
from scarce_cli.commands.probing.caveats import about_episodes, about_resamples, about_seen, about_tuning, tested_on
from scarce_cli.commands.probing.inputs import Labelled, read_films
from scarce_cli.commands.probing.options import PUBLISHED, Options, same_file

if TYPE_CHECKING:
    import torch

    from scarce_cli.data.cache import Cache
    from scarce_cli.evaluation.fewshot.contenders import Contender
    from scarce_cli.evaluation.fewshot.episodes import Episodes
    from scarce_cli.evaluation.fewshot.result import Result
    from scarce_cli.evaluation.fewshot.scoring import Material, Progress, Scorer

_NOT_OF_CASES = ("shots", "draws", "test_fraction", "episodes", "min_patients", "prevalence", "unfreeze")
_MAPS = 1 << 30  # bytes of frozen maps kept, of all initialisations
EPISODES = "episodes.json"
_FINETUNE_DEFAULT = 2  # first stage trained where the method of a checkpoint is not known any more


@dataclass(frozen=True)
class Call:
    """What a probe works with."""

    options: Options
    compared: tuple[Contender, ...]
    cache: Cache
    labelled: Labelled
    findings: tuple[str, ...]  # as the table spells them
    against: str | None
    device: torch.device
    labels_sha256: str
    caveats: tuple[str, ...]
    seen: Mapping[str, frozenset[str] | None]  # checkpoint -> patients it was pretrained on; None: not known


def run(options: Options) -> None:
    """Read, learn, test, write, print. Raises as its parts do; nothing is written before all input was read."""
    from scarce_cli.commands.probe_report import print_result, write_result
    from scarce_cli.commands.probing.select import make_episodes
    from scarce_cli.files import folder_lock, make_folder

    call = prepare(options)
    made = None if options.cases else make_episodes(call)
    make_folder(options.folder)
    with folder_lock(options.folder, "another probe writes there"):
        result = _cases(call) if made is None else _episodes(call, *made)
        written = write_result(result, options.folder)
    print_result(result, written)


def prepare(options: Options) -> Call:
    """Everything read and checked."""
    from scarce_cli.checkpoint import load_encoder
    from scarce_cli.commands.inputs import compute_device, open_data
    from scarce_cli.commands.probing.select import joined, seen_patients, select
    from scarce_cli.data.labels import read_labels
    from scarce_cli.evaluation.fewshot.contenders import contenders
    from scarce_cli.files import sha256

    table = read_labels(options.labels)
    saved = [load_encoder(path) for path in options.checkpoints]
    weights = 1 if options.cases else options.random
    compared = contenders(saved, random_weights=weights, imagenet=options.imagenet)
    cache = open_data(saved[0].data, options.data)
    labelled = joined(read_films(table, cache, options.max_bad), options.pick.same_film)
    selected = select(labelled, options)
    return Call(
        options=options,
        compared=tuple(compared),
        cache=cache,
        labelled=selected.labelled,
        findings=selected.findings,
        against=selected.against,
        device=compute_device(options.device),
        labels_sha256=sha256(options.labels),
        caveats=selected.caveats,
        seen=seen_patients(labelled.films, cache, compared),
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


def _episodes(call: Call, episodes: Episodes, caveats: Sequence[str]) -> Result:
    from scarce_cli.evaluation.fewshot.episodes_file import write_episodes
    from scarce_cli.evaluation.fewshot.run import Found, Statistics, run_probe

    options, films = call.options, call.labelled.films
    tested = [tested_on(call, task) for task in episodes.tasks]
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
    about = [*about_seen(call, tested), *about_tuning(first_trained(call)), *about_episodes(episodes)]
    plain = _result(call, options.mode, (*call.caveats, *caveats, *about, *about_resamples(found)))
    name = _episodes_name(options)
    digest = write_episodes(options.folder / name, films, episodes)
    drawn = asdict(episodes.settings)
    return replace(
        plain,
        settings={**plain.settings, **drawn, "shots": list(episodes.settings.shots)},
        episodes=name,
        episodes_sha256=digest,
        tested=tuple(tested),
        scores=found.scores,
        means=found.means,
        skipped=episodes.skipped,
    )


def _episodes_name(options: Options) -> str:
    """Episodes that were given are never replaced by what ``--seen leave-out`` left of them."""
    given = options.episodes
    taken = given is not None and options.pick.seen == "leave-out" and same_file(given, options.folder / EPISODES)
    return "episodes-unseen.json" if taken else EPISODES


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

    settings = FinetuneSettings(unfreeze_from=_first_trained(call, one))
    return FineTuned(one, material, settings, budget=_MAPS // len(call.compared))


def _first_trained(call: Call, one: Contender) -> int:
    """The first part of the encoder that fine-tuning trains: 0 the stem, 1 to 4 a stage."""
    first = call.options.unfreeze
    return _published(one.row.method or _compared_with(call, one)) if first == PUBLISHED else int(first)


def first_trained(call: Call) -> dict[str, int]:
    """For each initialisation, the first part that is fine-tuned; {} in other modes."""
    return {one.name: _first_trained(call, one) for one in call.compared} if call.options.mode == "finetune" else {}


def _published(method: str) -> int:
    """The first stage that few-shot fine-tuning trains after this method."""
    from scarce_cli.methods import TABLE, method_class

    return method_class(method).unfreeze_from if method in TABLE else _FINETUNE_DEFAULT


def _compared_with(call: Call, baseline: Contender) -> str:
    """The method of the first checkpoint that is held against a baseline, which is fine-tuned like it."""
    return next((one.row.method for one in call.compared if baseline.name in one.baselines and one.row.method), "")


def _cases(call: Call) -> Result:
    from scarce_cli.commands.probing.cases import find_cases

    with _told() as progress:
        found = find_cases(call, progress)
    caveats = (*call.caveats, *found.caveats, *about_seen(call, found.tested))
    plain = _result(call, "cases", caveats)
    settings = {name: value for name, value in plain.settings.items() if name not in _NOT_OF_CASES}
    return replace(
        plain,
        settings={**settings, "random": 1},
        tested=found.tested,
        cases=found.cases,
        skipped=found.skipped,
    )


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

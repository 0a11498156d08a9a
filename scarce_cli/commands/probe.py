"""``scarce probe``: what the features are worth with a handful of labels, and beside which baselines."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from scarce_cli.commands.pretrain import Device
from scarce_cli.commands.probing.options import MOST_CASES


class Mode(StrEnum):
    """How a support set is learned from."""

    linear = "linear"
    finetune = "finetune"
    knn = "knn"
    prototype = "prototype"


class SameFilm(StrEnum):
    """What to do when two patients have the same picture."""

    refuse = "refuse"
    as_one = "join"


class Seen(StrEnum):
    """What to do with test films that were in the pretraining set."""

    flag = "flag"
    leave_out = "leave-out"
    refuse = "refuse"


def probe(
    checkpoints: Annotated[list[Path], typer.Argument(help="One checkpoint, or several to compare.")],
    labels: Annotated[
        Path,
        typer.Option(help="Table with image, patient and findings (CSV; NIH's and PadChest's as they are)."),
    ],
    mode: Annotated[Mode, typer.Option(help="How a few labelled films are learned from.")] = Mode.linear,
    finding: Annotated[
        list[str] | None,
        typer.Option(help="A finding to test; may be repeated. Default: all with enough cases."),
    ] = None,
    task: Annotated[str | None, typer.Option(help="A published choice of films and findings: padchest-rare.")] = None,
    against: Annotated[
        str | None, typer.Option(help="Compare with this finding, such as 'No Finding', instead of with the rest.")
    ] = None,
    where: Annotated[
        list[str] | None,
        typer.Option(help="Only films whose column says so: COLUMN=VALUE or COLUMN!=VALUE, with * and ?; repeatable."),
    ] = None,
    cases: Annotated[
        int | None,
        typer.Option(
            min=5, max=MOST_CASES, help="Learn from and test on this many patients with the finding, in turn."
        ),
    ] = None,
    shots: Annotated[str, typer.Option(help="Labelled films per class, separated by commas.")] = "1,5,10,20,50",
    draws: Annotated[int, typer.Option(min=2, help="Support sets drawn for each number of shots.")] = 10,
    test_fraction: Annotated[
        float, typer.Option(min=0.05, max=0.95, help="Share of the patients that is only tested on.")
    ] = 0.2,
    episodes: Annotated[
        Path | None, typer.Option(help="Test on these episodes, made by an earlier probe, instead of drawing some.")
    ] = None,
    min_patients: Annotated[
        int, typer.Option(min=1, help="Test patients with a finding below which it is left out of the mean.")
    ] = 10,
    imagenet: Annotated[
        Path | None, typer.Option(help="Local weights of torchvision's ResNet, as a further baseline.")
    ] = None,
    random: Annotated[int, typer.Option(min=1, help="Random initialisations that the baseline is a mean of.")] = 3,
    prevalence: Annotated[
        float | None, typer.Option(help="Share of films with the finding in the clinic: gives predictive values.")
    ] = None,
    c: Annotated[
        float | None,
        typer.Option(help="Weight of the data in the logistic regression. Default: chosen on each support set."),
    ] = None,
    unfreeze: Annotated[
        str,
        typer.Option(help="With --mode finetune: published (as each method was), all, or the first stage trained."),
    ] = "published",
    stage: Annotated[
        int,
        typer.Option(
            min=1, max=4, help="Stage of the ResNet to take features from, random ones too; published: the last."
        ),
    ] = 4,
    seen: Annotated[
        Seen, typer.Option(help="What to do with test films of patients that a checkpoint was pretrained on.")
    ] = Seen.flag,
    same_film: Annotated[
        SameFilm, typer.Option(help="The same picture under two patients: refuse, or count them as one patient.")
    ] = SameFilm.refuse,
    seed: Annotated[int, typer.Option(min=0, help="Fixes the split, the draws and the resamples.")] = 0,
    data: Annotated[
        Path | None, typer.Option(help="Prepared data set. Default: the one the checkpoint was trained on.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for the report, tables, figures and episodes. Default: probe beside the checkpoint."),
    ] = None,
    max_bad: Annotated[
        float,
        typer.Option(min=0, max=1, help="Share of the labels that may have no film, before exit code 3."),
    ] = 0.001,
    device: Annotated[Device | None, typer.Option(help="Where to compute. Default: the GPU if there is one.")] = None,
) -> None:
    """Few-shot evidence: AUC with 1 to 50 labelled films, split by patient, beside baselines, with intervals.

    Every initialisation gets the same episodes, which are written to episodes.json and can be given back.
    """
    from scarce_cli.commands.probing.options import Options, Pick, known_range, parse_shots, parse_unfreeze
    from scarce_cli.commands.probing.run import run

    run(
        Options(
            checkpoints=tuple(checkpoints),
            labels=labels,
            mode=mode.value,
            pick=Pick(tuple(finding or ()), task, against, tuple(where or ()), same_film.value, seen.value),
            cases=cases,
            shots=parse_shots(shots),
            draws=draws,
            test_fraction=test_fraction,
            episodes=episodes,
            min_patients=min_patients,
            imagenet=imagenet,
            random=random,
            prevalence=known_range("--prevalence", prevalence, most=1.0),
            c=known_range("--c", c),
            unfreeze=parse_unfreeze(unfreeze),
            stage=stage,
            seed=seed,
            data=data,
            out=out,
            max_bad=max_bad,
            device=device,
        )
    )

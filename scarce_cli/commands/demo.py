"""``scarce demo``: the whole path on films that the program draws itself."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

_SIZE = 128  # px, of the films drawn
_PREPARED = 64  # px, of the films prepared
_LOOKED_AT = 512  # films, for the collapse report: enough, and some seconds
_STAGE = 3  # of the ResNet: at 64 px the last one sees 2 x 2 places, and SparK's decoder hardly needs it
_TEST_FRACTION = 0.4  # of the patients: few films, so a larger part is tested on than the probe's usual fifth


def demo(
    out: Annotated[Path, typer.Option(help="Folder to make.")] = Path("scarce-demo"),
    films: Annotated[int, typer.Option(min=64, help="Films to draw; fewer are faster and prove less.")] = 1200,
    epochs: Annotated[int | None, typer.Option(min=1, help="Epochs to train. Default: the recipe's.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Fixes the films and the training.")] = 0,
) -> None:
    """Do it all in two to three minutes: draw films, prepare, cache, pretrain SparK, monitor, probe, visualize.

    The films are phantoms: chest-like drawings with four findings, 16 bits, several films of each patient. They
    show that the path works on this machine, and that with 50 films pretrained features find an effusion better
    than random ones. The README says what was chosen for it, and what is not found.
    """
    from scarce_cli.commands.console import say
    from scarce_cli.errors import Interrupted, UsageError

    again = f"remove {out} and run the demo again"
    if out.exists():
        raise UsageError(f"{out} exists already", f"remove it, or name another folder: scarce demo --out {out}-2")
    started = time.monotonic()
    try:
        _draw(out, films, seed)
        run = _walk(out, epochs, seed)
    except KeyboardInterrupt as signal:
        raise Interrupted.by(signal, f"the demo was stopped; what it had made is in {out}", again) from None
    except Interrupted as stopped:
        raise Interrupted(stopped.message, again, exit_code=stopped.exit_code) from None
    places = {
        "films and labels": out / "phantoms",
        "data set": out / f"phantoms-{_PREPARED}",
        "cache": out / f"phantoms-{_PREPARED}" / "cache.npy",
        "run": run,
        "collapse report": run / "collapse.png",
        "few-shot report": run / "probe" / "report.html",
        "few-shot table": run / "probe" / "probe.csv",
        "learning curves": run / "probe" / "probe.png",
        "reconstructions": run / "reconstructions.png",
    }
    say(f"\nDone in {time.monotonic() - started:.0f} s. What there is:")
    for what, path in places.items():
        say(f"  {what:17} {path}")


def _draw(out: Path, films: int, seed: int) -> None:
    from scarce_cli.commands.console import progress_bar
    from scarce_cli.data.phantom import BEDSIDE, write_phantoms

    _say(1, "drawing films")
    with progress_bar("films") as bar:
        task = bar.add_task("drawing", total=films, note="")
        write_phantoms(
            out / "phantoms",
            count=films,
            seed=seed,
            size=_SIZE,
            style=BEDSIDE,
            on_film=lambda done: bar.update(task, completed=done),
        )


def _walk(out: Path, epochs: int | None, seed: int) -> Path:
    """The six commands, as a user would give them; returns the run's folder."""
    from scarce_cli.commands.cache import cache
    from scarce_cli.commands.monitor_collapse import FailOn, monitor_collapse
    from scarce_cli.commands.preprocess import preprocess
    from scarce_cli.commands.pretrain import pretrain
    from scarce_cli.commands.probe import probe
    from scarce_cli.commands.visualize import visualize

    data, run = out / f"phantoms-{_PREPARED}", out / "runs" / "spark-demo"
    _say(2, f"scarce preprocess --src {out}/phantoms/films --size {_PREPARED} --out {data}")
    preprocess(src=out / "phantoms" / "films", size=_PREPARED, out=data)
    _say(3, f"scarce cache {data}")
    cache(dataset=data)
    changed = [] if epochs is None else [f"run.epochs={epochs}"]
    options = "".join(f" --set {change}" for change in changed)
    _say(4, f"scarce pretrain spark --preset demo --seed {seed}{options} --data {data} --out {run}")
    pretrain("spark", preset="demo", data=data, out=run, settings=changed, seed=seed)
    _say(5, f"scarce monitor-collapse {run} --images {_LOOKED_AT} --fail-on never")
    monitor_collapse(checkpoints=[run], images=_LOOKED_AT, fail_on=FailOn.never)
    labels = out / "phantoms" / "labels.csv"
    _say(6, f"scarce probe {run}/last.pt --labels {labels} --stage {_STAGE} --test-fraction {_TEST_FRACTION}")
    probe(checkpoints=[run / "last.pt"], labels=labels, stage=_STAGE, test_fraction=_TEST_FRACTION)
    _say(7, f"scarce visualize spark {run}/last.pt")
    visualize("spark", run / "last.pt")
    return run


def _say(number: int, what: str) -> None:
    from scarce_cli.commands.console import say

    say(f"\n{number}/7 {what}")

"""``scarce pretrain``: train an encoder on unlabelled films."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from scarce_cli.config import ModelSettings, RunConfig, Settings
    from scarce_cli.data.cache import Cache
    from scarce_cli.engine.job import Job
    from scarce_cli.engine.trainer import Trainer
    from scarce_cli.presets import Preset
    from scarce_cli.runs import RunFolder


_LAUNCH = ".torchrun"  # in a run's folder: which torchrun began it


class Device(StrEnum):
    """Where to compute."""

    cpu = "cpu"
    cuda = "cuda"


class OnCollapse(StrEnum):
    """What follows when the encoder has collapsed."""

    stop = "stop"
    warn = "warn"
    ignore = "ignore"


class Wandb(StrEnum):
    """Whether to record with Weights & Biases."""

    online = "online"
    offline = "offline"
    off = "off"


def pretrain(
    method: Annotated[str, typer.Argument(help="moco, barlow, spark or dino.")],
    preset: Annotated[
        str, typer.Option(help="A shipped recipe (l4, l4-published, cpu, smoke, ...) or the path of a YAML file.")
    ] = "l4",
    data: Annotated[Path | None, typer.Option(help="Prepared data set. Default: the one in this folder.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the run. Default: runs/METHOD-PRESET.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Change one setting. May be repeated."),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Fixes the order, the views, the masks and the first weights.")
    ] = None,
    init: Annotated[
        Path | None,
        typer.Option(help="Start from these weights: a local file of torchvision's ResNet, or a checkpoint."),
    ] = None,
    device: Annotated[Device | None, typer.Option(help="Train here, whatever the recipe says.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where the run stopped.")] = False,
    override: Annotated[
        bool, typer.Option("--override", help="With --resume: go on although the settings are others.")
    ] = False,
    plan: Annotated[
        bool, typer.Option("--plan", help="Measure memory, speed, time and price on a few steps; train nothing.")
    ] = False,
    gpu_price: Annotated[
        float | None, typer.Option(min=0.0, help="Dollars an hour for one GPU. Default: the recipe's.")
    ] = None,
    on_collapse: Annotated[
        OnCollapse | None,
        typer.Option(help="When the encoder collapses: stop with exit code 9, warn, or ignore. Default: the recipe's."),
    ] = None,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write event files for TensorBoard too, into the run's folder.")
    ] = False,
    wandb: Annotated[Wandb, typer.Option(help="Record with Weights & Biases. Never asks.")] = Wandb.off,
) -> None:
    """Pretrain an encoder on unlabelled films. Ctrl-C saves and stops; --resume goes on."""
    from scarce_cli.methods import check_name
    from scarce_cli.presets import load_preset

    overrides = list(settings or [])
    overrides += [] if seed is None else [f"run.seed={seed}"]
    overrides += [] if init is None else [f"model.init={json.dumps(str(init), ensure_ascii=False)}"]
    overrides += [] if device is None else [f"run.device={device}"]
    overrides += [] if gpu_price is None else [f"run.gpu_price={gpu_price!r}"]
    overrides += [] if on_collapse is None else [f"monitor.on_collapse={on_collapse}"]
    check_name(method)
    loaded = load_preset(preset, method, overrides)
    name = Path(preset).stem if preset.endswith((".yaml", ".yml")) else preset
    how = Way(resume=resume, override=override, plan=plan, wandb=wandb, tensorboard=tensorboard)
    run_pretraining(loaded, data=data, out=out or Path("runs") / f"{method}-{name}", way=how)


@dataclass(frozen=True)
class Way:
    """How to go about a run, beside what it is."""

    resume: bool = False
    override: bool = False
    plan: bool = False
    wandb: Wandb = Wandb.off
    tensorboard: bool = False


def run_pretraining(preset: Preset, *, data: Path | None, out: Path, way: Way) -> None:
    """Check everything that is cheap to check, then what needs torch, then write and train."""
    from scarce_cli.commands.plan_view import show_plan
    from scarce_cli.config import RunConfig
    from scarce_cli.data.cache import find_dataset, open_cache
    from scarce_cli.data.order import steps_per_epoch
    from scarce_cli.errors import UsageError
    from scarce_cli.methods import settings_class
    from scarce_cli.presets import validate

    if way.plan and _processes() > 1:
        raise UsageError("--plan measures one GPU", "leave out torchrun; several GPUs divide the hours, not the price")
    if _restarted(out):
        way = replace(way, resume=True)
    config = validate(preset, RunConfig)
    method_settings = validate(preset, settings_class(preset.method), ("method",))
    first = _first_weights(config, way.resume)
    config = config.model_copy(update={"method": method_settings.model_dump(mode="json"), "model": first})
    cache = open_cache(find_dataset(Path(), data))
    steps_per_epoch(len(cache.names), config.run.batch_size)
    _check_folder(out, way)
    if config.data.cache == "ram" and not way.plan:
        cache = _held(cache)
    with _job(preset, config, method_settings, cache, out, way) as job:
        if way.plan:
            show_plan(job)
        else:
            _train(job, preset)


def _restarted(out: Path) -> bool:
    """Whether this torchrun began the run, and starts it again after one of its processes failed."""
    if int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) == 0:
        return False
    with contextlib.suppress(OSError):
        return (out / _LAUNCH).read_text("utf-8") == _launch()
    return False


def _launch() -> str:
    """This torchrun, told from others by its name and process."""
    return f"{os.environ.get('TORCHELASTIC_RUN_ID', '')} {os.getppid()}"


def _is_first_process() -> bool:
    """Whether this is the process that writes, of those that torchrun started."""
    return os.environ.get("RANK", "0") == "0"


def _processes() -> int:
    """How many torchrun started, on all machines; 1 without it. Before torch is loaded."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def _check_folder(out: Path, way: Way) -> None:
    from scarce_cli.runs import check_new_run, existing_run

    if way.plan or not _is_first_process():
        return
    if way.resume:
        existing_run(out)
    else:
        check_new_run(out)


def _train(job: Job, preset: Preset) -> None:
    """Build, then write, then train. Of several processes the first writes, and the others wait for its folder."""
    from scarce_cli.commands.training_view import TrainingView
    from scarce_cli.engine.distributed import as_the_writer, is_writer, wait_for_all
    from scarce_cli.engine.job import Observer
    from scarce_cli.engine.reconstruct import Reconstructing
    from scarce_cli.engine.trainer import Trainer
    from scarce_cli.files import write_text
    from scarce_cli.runs import check_empty, existing_run, new_run

    job = replace(job, resume=as_the_writer(job.resume))
    trainer = Trainer(job, TrainingView(job) if is_writer() else Observer())
    if not is_writer():
        wait_for_all()
        trainer.train()
        return
    run = existing_run(job.run.path) if job.resume else new_run(job.run.path)
    with run.lock():
        if not job.resume:
            check_empty(run.path)  # another may have been quicker while torch was loading
            _record(run, preset, trainer)
        if "TORCHELASTIC_RUN_ID" in os.environ:
            write_text(run.path / _LAUNCH, _launch())
        wait_for_all()
        trainer.train()
    _say_what_is_next(run, preset.method, paints=issubclass(job.method_class, Reconstructing))


def _first_weights(config: RunConfig, resume: bool) -> ModelSettings:
    """The model's settings with the whole path of the weights to start from. A run that goes on has its own."""
    from scarce_cli.errors import UsageError

    if not config.model.init:
        return config.model
    path = Path(config.model.init).absolute()
    if not resume and not path.is_file():
        folder = ": that is a folder (--init is empty, or names one)" if path.is_dir() else ""
        raise UsageError(f"no file of weights {path}{folder}", "give the path of a local file: nothing is downloaded")
    return config.model.model_copy(update={"init": str(path)})


def _held(cache: Cache) -> Cache:
    from scarce_cli.commands.console import warn
    from scarce_cli.data.memory import hold_in_memory

    if _processes() > 1:
        warn("data.cache is 'ram': several processes share the pages of the mapped file instead of a copy each")
        return cache
    held, reason = hold_in_memory(cache)
    if reason:
        warn(reason)
    return held


@contextlib.contextmanager
def _job(
    preset: Preset, config: RunConfig, method_settings: Settings, cache: Cache, out: Path, way: Way
) -> Iterator[Job]:
    """The run, on the device that this process has, among the other processes where there are any."""
    from scarce_cli.commands.console import stderr

    with stderr().status("loading torch"):
        from scarce_cli.engine.device import configure, find_device

        # First: a machine without the GPU that the recipe needs should hear of it before the rest is loaded.
        device = find_device(
            config.run.device,
            needs=_needs(preset, config),
            remedy=f"on this machine: scarce pretrain {preset.method} --preset cpu; or insist with --device cpu",
        )
        from scarce_cli.engine.distributed import ranks
        from scarce_cli.engine.job import Job
        from scarce_cli.engine.state import Identity
        from scarce_cli.methods import method_class
        from scarce_cli.runs import RunFolder

        kind = method_class(preset.method)
    with ranks(device) as own:
        configure(config, own)
        yield Job(
            identity=Identity(preset.method, preset.name, config, cache),
            method_class=kind,
            method_settings=method_settings,
            run=RunFolder(out),
            device=own,
            resume=way.resume,
            override=way.override,
            wandb=way.wandb.value,
            tensorboard=way.tensorboard,
        )


def _needs(preset: Preset, config: RunConfig) -> str:
    memory = f" with {config.run.gpu_memory:g} GiB" if config.run.gpu_memory else ""
    return (
        f"the recipe {preset.name} ({config.model.backbone}, {config.data.size} px, batch "
        f"{config.run.batch_size}, {config.run.precision}) needs an NVIDIA GPU{memory}"
    )


def _record(run: RunFolder, preset: Preset, trainer: Trainer) -> None:
    from scarce_cli import __version__
    from scarce_cli.runs import write_settings

    header = (
        f"{preset.method}, preset {preset.name}, resolved by scarce {__version__}.\n"
        f"Repeat it: scarce pretrain {preset.method} --preset {run.settings} --out ANOTHER"
    )
    write_settings(run, trainer.job.config.model_dump(mode="json"), header)


def _say_what_is_next(run: RunFolder, method: str, *, paints: bool) -> None:
    from scarce_cli.commands.console import say

    say(f"Done. Checkpoint: {run.last}")
    commands = ["monitor-collapse {}", "probe {} --labels labels.csv"]
    for command in [*commands, *([f"visualize {method} {{}}"] if paints else [])]:
        say(f"  scarce {command.format(run.last)}")

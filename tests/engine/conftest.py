"""A method of a few thousand weights, jobs that train it on small films, and somebody who listens."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from scarce_cli import checkpoint
from scarce_cli.config import AugmentSettings, RunConfig, Settings
from scarce_cli.data.augment import View
from scarce_cli.data.cache import open_cache
from scarce_cli.engine.estimate import Estimate
from scarce_cli.engine.job import Job, Look, StepReport
from scarce_cli.engine.state import Identity
from scarce_cli.engine.trainer import Trainer
from scarce_cli.errors import Interrupted
from scarce_cli.methods import method_class
from scarce_cli.methods.base import Method, Progress, StepOutput, ViewSpec
from scarce_cli.models.resnet import Encoder
from scarce_cli.presets import load_preset, validate
from scarce_cli.runs import RunFolder, read_metrics


@pytest.fixture(autouse=True)
def _light_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No fsync (its order is tested with the files), no curves (they have tests of their own), no run stays behind."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    monkeypatch.setattr("scarce_cli.engine.seen.draw_training", lambda *arguments, **more: None)
    yield
    shutil.rmtree(tmp_path / "runs", ignore_errors=True)


class ToySettings(Settings):
    """What a method may bring of its own."""

    width: int = 4


class Toy(Method):
    """The mean of an encoder's first stage is pulled to random points: cheap, and with every part of a method.

    ``hook`` hears of each step before it is taken. What it returns spoils the step: "loss" puts NaN into the
    films, "gradient" makes the gradient alone NaN.
    """

    settings_type = ToySettings
    hook: ClassVar[Callable[[int], str | None]]

    def __init__(self, encoder: Encoder, settings: ToySettings) -> None:
        super().__init__(encoder)
        encoder.layer2 = encoder.layer3 = encoder.layer4 = nn.Identity()
        self.head = nn.Linear(64, settings.width)
        self.register_buffer("teacher", torch.zeros(settings.width))

    @classmethod
    def build(cls, encoder: Encoder, settings: Settings, size: int) -> Toy:
        assert isinstance(settings, ToySettings)
        return cls(encoder, settings)

    def view_specs(self, size: int, augment: AugmentSettings) -> Sequence[ViewSpec]:
        return [ViewSpec(size, augment), ViewSpec(size, augment)]

    def forward(self, views: Sequence[View], progress: Progress, generator: torch.Generator) -> StepOutput:
        spoil = type(self).hook(progress.step)
        films = torch.cat([view.image_BCHW for view in views])
        if spoil == "loss":
            films = films * float("nan")
        z = self.head(self.encoder.stages(films)[0].mean(dim=(2, 3))).float()
        points = torch.randn(z.shape, generator=generator, device=generator.device)
        loss = (z - points - self.teacher).square().mean()
        if spoil == "gradient":
            loss = loss + (self.head.bias * 0).sum().sqrt()
        return StepOutput(loss, {"distance": (z - points).detach().abs().mean()}, z.detach())

    @torch.no_grad()
    def after_step(self, progress: Progress, taken: Tensor) -> None:
        self.teacher.copy_(torch.where(taken, self.teacher.lerp(self.head.bias, 0.1), self.teacher))


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> type[Toy]:
    """The class of the method, with a hook that does nothing."""
    monkeypatch.setattr(Toy, "hook", staticmethod(lambda step: None), raising=False)
    return Toy


@dataclass
class Listener:
    """Hears everything a run tells: (kind, values), in order."""

    heard: list[tuple[str, Any]] = field(default_factory=list)

    def started(self, *, total_steps: int, from_step: int, parameters: int) -> None:
        self.heard.append(("started", (total_steps, from_step, parameters)))

    def measured(self, estimate: Estimate) -> None:
        self.heard.append(("measured", estimate))

    def stepped(self, report: StepReport) -> None:
        self.heard.append(("stepped", report))

    def looked(self, look: Look) -> None:
        self.heard.append(("looked", look))

    def epoch_ended(self, epoch: int, values: dict[str, float]) -> None:
        self.heard.append(("epoch", (epoch, values)))

    def warned(self, message: str) -> None:
        self.heard.append(("warned", message))

    def ended(self) -> None:
        self.heard.append(("ended", None))

    def all(self, kind: str) -> list[Any]:
        """The values of one kind."""
        return [values for name, values in self.heard if name == kind]


@pytest.fixture
def make_job(dataset: Path, toy: type[Toy]) -> Callable[..., Job]:
    """Jobs by the smoke preset with overrides: 48 films, 6 steps an epoch, 12 in all, unless changed; not monitored."""

    def make(*overrides: str, method: str = "toy", out: str = "runs/a", **more: Any) -> Job:
        preset = load_preset("smoke", "spark" if method == "toy" else method, ("monitor.films=0", *overrides))
        config = validate(preset, RunConfig)
        kind = toy if method == "toy" else method_class(method)
        settings: Settings = ToySettings()
        if method != "toy":
            settings = validate(preset, kind.settings_type, ("method",))
        config = config.model_copy(update={"method": settings.model_dump(mode="json")})
        (Path(out) / "encoders").mkdir(parents=True, exist_ok=True)
        identity = Identity(method, "smoke", config, open_cache(dataset))
        return Job(identity, kind, settings, RunFolder(Path(out)), torch.device("cpu"), **more)

    return make


_TIMINGS = {"images_per_s", "films/seconds", "seconds"}


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return a.dtype == b.dtype and a.stride() == b.stride() and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a if key not in _TIMINGS)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(_same, a, b))
    return bool(a == b)


@pytest.fixture
def same() -> Callable[[Any, Any], bool]:
    """Whether two states are the same, bit for bit, memory layout included; timings apart."""
    return _same


@pytest.fixture
def saved() -> Callable[..., dict[str, Any]]:
    """What a run's folder (runs/a unless named) holds to go on with."""
    return lambda folder=Path("runs/a"): checkpoint.load(RunFolder(Path(folder)).last)[0]


@pytest.fixture
def lines() -> Callable[..., list[dict[str, Any]]]:
    """The log in a run's folder (runs/a unless named), timings apart."""

    def read(folder: str | Path = "runs/a") -> list[dict[str, Any]]:
        found = read_metrics(RunFolder(Path(folder)).metrics)
        return [{key: value for key, value in line.items() if key not in _TIMINGS} for line in found]

    return read


@dataclass
class Trained:
    """A run that has ended: how it looks, and what was told."""

    trainer: Trainer
    listener: Listener

    @property
    def run(self) -> RunFolder:
        return self.trainer.job.run

    @property
    def weights(self) -> dict[str, Tensor]:
        return {name: value.clone() for name, value in self.trainer.state.method.state_dict().items()}


@pytest.fixture
def train(make_job: Callable[..., Job]) -> Callable[..., Trained]:
    """Make a job (arguments as `make_job`) and train it to its end."""

    def run(*overrides: str, listener: Listener | None = None, **more: Any) -> Trained:
        listener = listener or Listener()
        trained = Trained(Trainer(make_job(*overrides, **more), listener), listener)
        trained.trainer.train()
        return trained

    return run


@pytest.fixture
def listener() -> Listener:
    """Somebody who hears what a run tells, also when it ends with an error."""
    return Listener()


@pytest.fixture
def stop(train: Callable[..., Trained]) -> Callable[..., Interrupted]:
    """Train and send SIGTERM after step ``at``; returns the error that the run ended with."""

    def run(at: int, *overrides: str, **more: Any) -> Interrupted:
        class Stopping(Listener):
            def stepped(self, report: StepReport) -> None:
                super().stepped(report)
                if report.step == at:
                    os.kill(os.getpid(), signal.SIGTERM)

        with pytest.raises(Interrupted) as error:
            train(*overrides, listener=Stopping(), **more)
        return error.value

    return run

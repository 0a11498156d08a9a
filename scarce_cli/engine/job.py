"""What a run is made of, and what is told of it while it goes."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from scarce_cli.config import RunConfig, Settings
from scarce_cli.data.cache import Cache
from scarce_cli.engine.estimate import Estimate
from scarce_cli.engine.state import Identity
from scarce_cli.engine.tracking import Mode
from scarce_cli.evaluation.collapse import CollapseMetrics, Reading, Verdict
from scarce_cli.methods.base import Method
from scarce_cli.models.ranks import world_size
from scarce_cli.runs import RunFolder


@dataclass(frozen=True)
class StepReport:
    """What is known after a step."""

    step: int  # steps done
    total_steps: int
    epoch: float  # epochs done, with fraction
    loss: float
    lr: float
    images_per_s: float  # films, of all ranks
    seconds: float  # of training until here, over all sessions of the run
    weight_decay: float = 0.0
    scalars: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Look:
    """What one look at the encoder found."""

    reading: Reading
    verdict: Verdict
    stops: bool  # the run is to end here
    random: CollapseMetrics | None = None  # the random start, when it was measured now


class Observer:
    """Whoever shows the run to a person. As it is, it shows nothing: for processes that do not speak to the user."""

    def started(self, *, total_steps: int, from_step: int, parameters: int) -> None:
        """Before the first step."""

    def measured(self, estimate: Estimate) -> None:
        """Once a session, after a few steps: what the run needs and what it will cost."""

    def stepped(self, report: StepReport) -> None:
        """After each step."""

    def looked(self, look: Look) -> None:
        """After each look at the encoder."""

    def epoch_ended(self, epoch: int, values: dict[str, float]) -> None:
        """After each epoch, with the means of its metrics."""

    def warned(self, message: str) -> None:
        """Something is not as it should be, and the run goes on."""

    def ended(self) -> None:
        """After the last step or a failure."""


@dataclass(frozen=True)
class Job:
    """All that a run is made of."""

    identity: Identity
    method_class: type[Method]
    method_settings: Settings
    run: RunFolder
    device: torch.device
    resume: bool = False
    override: bool = False  # resume with other settings than the run's
    wandb: Mode = "off"
    tensorboard: bool = False

    @property
    def config(self) -> RunConfig:
        """The resolved settings."""
        return self.identity.config

    @property
    def cache(self) -> Cache:
        """The films."""
        return self.identity.cache

    @property
    def dollars_per_hour(self) -> float:
        """Of all GPUs together; 0 when no price was given."""
        return self.config.run.gpu_price * world_size()

"""What a method is to the engine.

A method owns its networks and its loss. The engine makes the views, runs `Method.forward`, goes backward,
clips, steps, logs and saves; it knows no method by name. Time is given as `Progress`, so that a method's own
schedules need neither epochs nor steps of the recipe.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from scarce_cli.config import AugmentSettings, Settings
from scarce_cli.data.augment import View
from scarce_cli.errors import UsageError
from scarce_cli.models.ranks import world_size
from scarce_cli.models.resnet import Encoder


@dataclass(frozen=True)
class Progress:
    """Where in the run a step is."""

    step: int  # 0 on the first step
    total_steps: int
    steps_per_epoch: int

    @property
    def fraction(self) -> float:
        """0 on the first step, towards 1."""
        return self.step / self.total_steps

    @property
    def epoch(self) -> int:
        """0 in the first epoch."""
        return self.step // self.steps_per_epoch


@dataclass(frozen=True)
class ViewSpec:
    """One view that a method wants of every film."""

    size: int  # px
    augment: AugmentSettings


@dataclass(frozen=True)
class StepOutput:
    """What a method returns for one batch."""

    loss: Tensor  # scalar, with gradient
    scalars: dict[str, Tensor] = field(default_factory=dict)  # name -> 0-d, detached; logged as they are
    embeddings_ND: Tensor | None = None  # detached; what the guard against collapse looks at


class Method(nn.Module, ABC):
    """A self-supervised method around an encoder.

    The encoder that evaluation should use is `evaluation_encoder`; it is saved apart from the rest, so
    nothing downstream needs the method. A method that can paint what it does not see offers ``reconstruct``
    as well: see `scarce_cli.engine.reconstruct.Reconstructing`.
    """

    settings_type: ClassVar[type[Settings]]

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    @classmethod
    @abstractmethod
    def build(cls, encoder: Encoder, settings: Settings, size: int) -> Method:
        """Make the method. ``settings`` is of ``settings_type``; ``size`` the side of a view in px.

        Raises:
            UsageError: the settings do not fit the size.
        """

    @abstractmethod
    def view_specs(self, size: int, augment: AugmentSettings) -> Sequence[ViewSpec]:
        """The views wanted of each film, given the run's size and augmentation."""

    @abstractmethod
    def forward(self, views: Sequence[View], progress: Progress, generator: torch.Generator) -> StepOutput:
        """Loss and scalars for a batch of views, in the order of `view_specs`.

        ``generator`` is on the views' device and seeded by (seed, step): all randomness comes from it.

        With several ranks (`scarce_cli.models.ranks`) the views are this rank's share of the batch and the generator
        is seeded alike on all: draw for the whole batch and keep the own share. The mean over the ranks of loss,
        scalars and gradients is what counts, and is formed by the engine.
        """

    def check_batch(self, films: int) -> None:
        """UsageError when a batch of so many films, of all ranks together, cannot be used. Asked before training.

        Default: every rank needs the same number of films, and no fewer than two, for the sake of its BatchNorms.
        """
        ranks = world_size()
        if ranks > 1 and (films % ranks or films < 2 * ranks):
            raise UsageError(
                f"run.batch_size is {films}: {ranks} processes cannot have equally many films, and two or more each",
                f"--set run.batch_size={max(2 * ranks, films - films % ranks)}, or another number of processes",
            )

    def after_backward(self, progress: Progress) -> None:
        """Change gradients after clipping, before the optimizer's step (default: nothing).

        A parameter whose gradient is set to None is left alone: no decay, no moments, no step counted.
        """

    def after_step(self, progress: Progress, taken: Tensor) -> None:
        """Update what is not learned by gradient, such as a teacher (default: nothing).

        ``taken``: 0-d bool on the method's device, whether the optimizer moved the weights. Where it is False
        nothing may change, and what `forward` kept for here may be NaN: choose with `torch.where`, for 0 times
        NaN is NaN. Weights are finite then, and as before. It is never read on the host, which would make the
        host wait for the device.
        """

    def evaluation_encoder(self) -> Encoder:
        """The encoder to keep (default: the one that is trained)."""
        return self.encoder

    def trained_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Names and parameters the optimizer moves."""
        return ((name, p) for name, p in self.named_parameters() if p.requires_grad)

"""What a method is to the engine.

A method owns its networks and its loss. The engine makes the views, runs `Method.forward`, goes backward,
clips, steps, logs and saves; it knows no method by name. Time is given as `Progress`, so that a method's own
schedules need neither epochs nor steps of the recipe.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from scarce_cli.config import AugmentSettings, Settings
from scarce_cli.data.augment import View
from scarce_cli.errors import UsageError
from scarce_cli.models.ranks import world_size
from scarce_cli.models.resnet import Encoder
from scarce_cli.vitals import Cure, Expectations, Failure

_LEARNED_AT = 1e-3  # AdamW's rate in the recipes of all methods that were seen to learn on real films (presets/cpu)
_CLIP = 3.0  # as the published series clipped
_DECAY = 0.05  # the strongest constant one of the shipped recipes


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
    embeddings_ND: Tensor | None = None  # detached; their spread in training mode is logged once an epoch


@dataclass(frozen=True)
class CureWhere(Cure):
    """A cure for some values of its setting only: ``needed`` is asked of the value that the run has."""

    needed: Callable[[Any], bool]


@dataclass(frozen=True)
class CureBy(Cure):
    """A cure relative to what the run has: ``to`` is the factor. Nothing where that is not known, or 0."""


def at_least(key: str, to: Any, why: str) -> CureWhere:
    """A cure for what is lower; of lists the first number counts."""
    return CureWhere(key, to, why, lambda now: _first(now) < _first(to))


def at_most(key: str, to: Any, why: str) -> CureWhere:
    """A cure for what is higher; of lists the first number counts."""
    return CureWhere(key, to, why, lambda now: _first(now) > _first(to))


def _first(value: Any) -> Any:
    return value[0] if isinstance(value, Sequence) and not isinstance(value, str) else value


def _slower(why: str) -> tuple[Cure, ...]:
    return tuple(CureBy(f"optimizer.{name}", 0.1, why) for name in ("lr", "lr_1d"))


def _is_far_too_slow(settings: Mapping[str, Any]) -> bool:
    rate = settings.get("optimizer", {}).get("lr")
    return isinstance(rate, float) and rate < _LEARNED_AT / 1000


# For any method, after its own.
_CURES: Mapping[Failure, Sequence[Cure]] = {
    Failure.COMPLETE: (
        *_slower("steps that are too large leave units dead"),
        at_most("optimizer.weight_decay", _DECAY, "decay alone draws all features to one point"),
        Cure("optimizer.decay_all", False, "decay pulls norm scales to nought, and the features with them"),
    ),
    Failure.DIMENSIONAL: (
        at_most("optimizer.weight_decay", _DECAY, "decay takes the weakest directions first"),
        Cure("optimizer.decay_all", False, "decay pulls norm scales to nought, and directions with them"),
    ),
    Failure.FADING: (
        at_least("augment.crop_scale", [0.5, 1.0], "in small crops films of one kind look alike"),
        at_most("augment.brightness", 0.1, "strong jitter unlearns what tells films apart"),
        at_most("augment.contrast", 0.1, "strong jitter unlearns what tells films apart"),
    ),
    Failure.SHRINKING: (
        Cure("optimizer.decay_all", False, "decayed norm scales shorten features at every step"),
        at_most("optimizer.weight_decay", _DECAY, "less decay, longer features"),
    ),
    Failure.DIVERGED: (
        *_slower("a tenth of what diverged"),
        CureWhere(
            "run.precision", "bf16", "as large numbers as float32; fp32 on a card without it", lambda now: now == "fp16"
        ),
        CureWhere("optimizer.clip_norm", _CLIP, "one bad batch moves little", lambda now: now == 0 or now > _CLIP),
        Cure("optimizer.clip_each", 0.0, "clip_norm is stricter"),
        at_least("schedule.warmup_epochs", 1.0, "the first steps are the wildest"),
        CureWhere("run.precision", "fp32", "nothing is rounded away", lambda now: now == "bf16"),
    ),
    Failure.NOT_LEARNING: (
        Cure("optimizer.name", "adamw", "needs the least tuning"),
        CureWhere(
            "optimizer.lr",
            _LEARNED_AT,
            "at which the small recipes learned on real films",
            lambda now: not _LEARNED_AT <= now <= 3 * _LEARNED_AT,
        ),
        Cure("optimizer.lr_1d", 0.0, "an option of lars"),
        at_most("schedule.warmup_epochs", 1.0, "the full rate from the second epoch on"),
    ),
}


class Method(nn.Module, ABC):
    """A self-supervised method around an encoder.

    The encoder that evaluation should use is `evaluation_encoder`; it is saved apart from the rest, so
    nothing downstream needs the method. A method that can paint what it does not see offers ``reconstruct``
    as well: see `scarce_cli.engine.reconstruct.Reconstructing`.
    """

    settings_type: ClassVar[type[Settings]]
    cures: ClassVar[Mapping[Failure, Sequence[Cure]]] = {}  # the method's own, most likely first; see `cures_for`
    unfreeze_from: ClassVar[int] = 2  # first stage, 1 to 4, that few-shot fine-tuning trains; 5: none

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

    def expectations(self) -> Expectations:
        """What the scalars read while the network tells no films apart, and whether the loss spreads features out.

        The engine keeps it beside what it measures, also in checkpoints, and a verdict compares the two: that is
        all that either knows of a method. Default: nothing is known of the scalars, and films are to differ.
        """
        return Expectations()

    @classmethod
    def cures_for(cls, failure: Failure, settings: Mapping[str, Any] | None = None) -> list[Cure]:
        """What to change in the recipe of a run that failed so, the most likely first; each key once.

        The method's own ``cures``, then those for any method; first of all a rate far below any that was seen to learn.
        With the run's ``settings`` (plain values by section,
        as in a recipe) only what it does not have yet, and never against the direction that helps. Without them, all
        that do not depend on them; of two for the same key the first.
        """
        known = dict(settings or {})
        if settings is not None:
            known["method"] = {**_defaults(cls.settings_type), **known.get("method", {})}
        first: dict[str, Cure] = {}
        slow = failure is Failure.NOT_LEARNING and _is_far_too_slow(known)
        both = cls.cures.get(failure, ()), _CURES.get(failure, ())
        for cure in itertools.chain(*(reversed(both) if slow else both)):
            if (needed := _needed(cure, known)) is not None:
                first.setdefault(cure.key, needed)
        return list(first.values())

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


def _defaults(settings_type: type[Settings]) -> dict[str, Any]:
    defaults: dict[str, Any] = settings_type.model_construct().model_dump(mode="json")
    return defaults


def _needed(cure: Cure, settings: Mapping[str, Any]) -> Cure | None:
    """The plain cure, unless the run has it already. A setting that is not known may be anything."""
    section, _, key = cure.key.partition(".")
    part = settings.get(section, {})
    now, plain = part.get(key), Cure(cure.key, cure.to, cure.why)
    if isinstance(cure, CureBy):
        return replace(plain, to=float(f"{now * cure.to:.3g}")) if now else None
    if key not in part:
        return plain
    fine = now == cure.to or (isinstance(cure, CureWhere) and not cure.needed(now))
    return None if fine else plain

"""DINO: self-distillation without labels (Caron et al., 2021, arXiv 2104.14294).

A student sees all crops of a film, a teacher (the student's moving average) the global ones; the student's
distribution over K outputs is to match the teacher's for every other crop. The teacher's is centred, or made
balanced over the batch by Sinkhorn-Knopp (DINOv2, arXiv 2304.07193), so that it does not settle on one output.

Shape suffixes: B films, V crops (global ones first), N rows, D features, K outputs. Rows are crop-major: all B
of crop 0, then all B of crop 1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from scarce_cli.config import AugmentSettings, Settings
from scarce_cli.data.augment import View
from scarce_cli.errors import UsageError
from scarce_cli.methods.base import CureWhere, Method, Progress, StepOutput, ViewSpec, at_least, at_most
from scarce_cli.methods.settings import DINOSettings
from scarce_cli.models.dino_head import DINOHead
from scarce_cli.models.ema import frozen_copy, moving_average
from scarce_cli.models.precision import at_least_float32
from scarce_cli.models.ranks import mean_over_ranks, whole_batch, world_size
from scarce_cli.models.resnet import Encoder
from scarce_cli.schedule import cosine, ramp
from scarce_cli.vitals import Cure, Expectations, Failure

_GLOBAL_CROPS = 2
_LEAST_SIZE, _SIZE_STEP = 32, 16  # of a view, px
_KOLEO_FLOOR = 1e-8  # of a distance, as official

# What the small recipe has, which learned on real films, and the published one, which did not, has not.
_BALANCED = Cure("method.centring", "sinkhorn", "balances the outputs over every batch, a centre only on average")
_APART = (
    CureWhere("method.layers", 3, "BatchNorm has no place in a single layer", lambda now: now < 2),
    Cure("method.head_batch_norm", True, "features of films of one kind point the same way; it keeps outputs apart"),
)
_TEMPERATURE = (
    Cure("method.teacher_temperature", [0.05, 0.05], "neither too flat nor too sharp, from the start"),
    Cure("method.teacher_temperature_epochs", 0, "no warm-up"),
)
_FAST_TEACHER = at_most("method.teacher_momentum", [0.96, 1.0], "a teacher that follows within 25 steps")
_FROZEN = at_least("method.freeze_last_layer_epochs", 1.0, "outputs keep their directions in the first epoch")
_MILD = "strong crops and jitter leave a film little of its own"
_KOLEO = at_least("method.koleo_weight", 0.1, "pushes each film away from its nearest neighbour, as DINOv2")


def teacher_temperature(epoch: int, *, start: float, final: float, warmup_epochs: int, late: bool = False) -> float:
    """Linear from ``start`` on epoch 0 to ``final`` on epoch ``warmup_epochs - 1``, then constant.

    With one warm-up epoch that epoch has ``start`` (official, numpy's linspace). ``late``: the published
    series' ramp, which has ``final`` one epoch later.
    """
    if epoch >= warmup_epochs:
        return final
    if warmup_epochs == 1:
        return start
    return ramp(epoch, count=warmup_epochs, start=start, end=final, reaches=not late)


def centred_targets(teacher_NK: Tensor, centre_K: Tensor, temperature: float) -> Tensor:
    """The teacher's distributions: softmax of the centred logits over the temperature (eq. 1 and section 3.1)."""
    return F.softmax((teacher_NK - centre_K) / temperature, dim=-1)


def sinkhorn_targets(teacher_NK: Tensor, temperature: float, iterations: int) -> Tensor:
    """Distributions whose mean over the rows is uniform (Sinkhorn-Knopp; SwAV, arXiv 2006.09882; DINOv2).

    In the log domain, so that no temperature overflows. Every row sums to 1. Balanced are the rows of all ranks.
    """
    log_NK = teacher_NK / temperature
    rows, outputs = len(log_NK) * world_size(), log_NK.shape[1]
    for _ in range(iterations):
        log_1K = whole_batch(log_NK.logsumexp(dim=0, keepdim=True)).logsumexp(dim=0, keepdim=True)
        log_NK = log_NK - log_1K - math.log(outputs)
        log_NK = log_NK - log_NK.logsumexp(dim=1, keepdim=True) - math.log(rows)
    return (log_NK + math.log(rows)).exp()


def dino_loss(student_NK: Tensor, targets_NK: Tensor, student_temperature: float) -> Tensor:
    """Mean cross entropy over all pairs of a global crop (teacher) and another crop (student); scalar.

    Args:
        student_NK: logits of V crops, V * B rows.
        targets_NK: distributions of the two global crops, 2 * B rows, no gradient.
    """
    teacher_VBK = targets_NK.unflatten(0, (_GLOBAL_CROPS, -1))
    films = teacher_VBK.shape[1]
    student_VBK = F.log_softmax(student_NK / student_temperature, dim=-1).unflatten(0, (-1, films))
    every = torch.einsum("gbk,vbk->gv", teacher_VBK, student_VBK)
    same = every.diagonal().sum()
    pairs = every.numel() - _GLOBAL_CROPS
    return (same - every.sum()) / (films * pairs)


def koleo(features_ND: Tensor) -> Tensor:
    """Minus the mean log distance to the nearest neighbour of L2-normalised rows (scalar; DINOv2, arXiv 2304.07193).

    Finite also for equal rows (distances have a floor of 1e-8); 0 for a single row.
    """
    if len(features_ND) < 2:
        return features_ND.sum() * 0.0
    unit = F.normalize(features_ND, dim=-1)
    with torch.no_grad():
        nearest = (unit @ unit.T).fill_diagonal_(-2.0).argmax(dim=1)
    distance = ((unit - unit[nearest]).square().sum(dim=1) + _KOLEO_FLOOR**2).sqrt()
    return -distance.log().mean()


def teacher_signals(targets_NK: Tensor) -> dict[str, Tensor]:
    """How much the teacher tells films apart, in nats.

    ``teacher_entropy``: mean entropy of a film's distribution (ln K: uniform, 0: one output).
    ``mean_teacher_entropy``: entropy of the mean distribution (ln K: all outputs are used).
    ``teacher_information``: their difference, the mean divergence of a film's distribution from the mean one:
    0 means that every film gets the same. Of the rows of all ranks; no gradient.
    """
    each = mean_over_ranks(torch.special.entr(targets_NK).sum(dim=-1).mean())
    mean = torch.special.entr(mean_over_ranks(targets_NK.mean(dim=0))).sum()
    return {"teacher_entropy": each, "mean_teacher_entropy": mean, "teacher_information": mean - each}


class DINO(Method):
    """A student, and a teacher that follows it."""

    settings_type = DINOSettings
    cures: ClassVar[Mapping[Failure, Sequence[Cure]]] = {
        Failure.UNIFORM_TEACHER: (
            _BALANCED,
            *_APART,
            *_TEMPERATURE,
            _FAST_TEACHER,
            _FROZEN,
            at_least("augment.crop_scale", [0.5, 1.0], _MILD),
            at_most("augment.brightness", 0.1, _MILD),
            at_most("augment.contrast", 0.1, _MILD),
        ),
        Failure.ONE_HOT_TEACHER: (
            at_most("method.centre_momentum", 0.9, "a centre that does not follow holds no output back"),
            _BALANCED,
            *_TEMPERATURE,
            _FROZEN,
        ),
        Failure.COMPLETE: (_BALANCED, *_APART, _KOLEO),
        Failure.DIMENSIONAL: (_KOLEO, *_APART, _BALANCED),
        Failure.FADING: (_KOLEO, *_APART, _BALANCED),
        Failure.SHRINKING: (_KOLEO,),
        Failure.DIVERGED: (_FROZEN,),
        Failure.NOT_LEARNING: (_FAST_TEACHER, *_APART, _BALANCED, *_TEMPERATURE),
    }
    centre_K: Tensor

    def __init__(self, encoder: Encoder, settings: DINOSettings) -> None:
        super().__init__(encoder)
        self.settings = settings
        self.head = DINOHead(
            encoder.features,
            settings.outputs,
            hidden=settings.hidden,
            bottleneck=settings.bottleneck,
            layers=settings.layers,
            batch_norm=settings.head_batch_norm,
            normalize_last_layer=settings.normalize_last_layer,
        )
        self.teacher, self.teacher_head = frozen_copy(encoder), frozen_copy(self.head)
        self.register_buffer("centre_K", torch.zeros(1, settings.outputs))
        self._new_centre: Tensor | None = None

    @classmethod
    def build(cls, encoder: Encoder, settings: Settings, size: int) -> DINO:
        """Raises UsageError when local crops would be larger than global ones."""
        assert isinstance(settings, DINOSettings)
        if settings.local_crops and settings.local_size > size:
            usual = round(3 / 7 * size / _SIZE_STEP) * _SIZE_STEP  # 96 px of 224, as official
            raise UsageError(
                f"method.local_size is {settings.local_size}, larger than data.size {size}",
                f"--set method.local_size={max(_LEAST_SIZE, usual)}, or another multiple of {_SIZE_STEP} "
                f"from {_LEAST_SIZE} to {size}",
            )
        return cls(encoder, settings)

    def view_specs(self, size: int, augment: AugmentSettings) -> Sequence[ViewSpec]:
        """Two global crops, then the local ones.

        Raises:
            UsageError: the blur's kernel is too large for a local crop.
        """
        local_size = self.settings.local_size
        if self.settings.local_crops and augment.blur_probability and augment.blur_kernel[1] // 2 >= local_size:
            raise UsageError(
                f"augment.blur_kernel is too large for method.local_size {local_size}", "lower augment.blur_kernel"
            )
        local = augment.model_copy(update={"crop_scale": self.settings.local_scale})
        return [ViewSpec(size, augment)] * _GLOBAL_CROPS + [ViewSpec(local_size, local)] * self.settings.local_crops

    def forward(self, views: Sequence[View], progress: Progress, generator: torch.Generator) -> StepOutput:
        """The centre is updated in `after_step` with this batch's mean: the loss uses the one before, as official."""
        images = [view.image_BCHW for view in views]
        with torch.no_grad():
            teacher_NK = self._logits(images[:_GLOBAL_CROPS], self.teacher, self.teacher_head)[1]
        features_ND, student_NK = self._logits(images, self.encoder, self.head)
        with torch.autocast(student_NK.device.type, enabled=False):
            teacher_NK, student_NK = at_least_float32(teacher_NK), at_least_float32(student_NK)
            targets_NK = self._targets(teacher_NK, progress)
            loss = dino_loss(student_NK, targets_NK, self.settings.student_temperature)
            scalars = {"distillation": loss.detach(), **teacher_signals(targets_NK)}
            if self.settings.koleo_weight:
                spread = self._koleo(features_ND, len(images[0]))
                loss, scalars["koleo"] = loss + self.settings.koleo_weight * spread, spread.detach()
        self._new_centre = mean_over_ranks(teacher_NK.mean(dim=0, keepdim=True))
        return StepOutput(loss, scalars, features_ND[: len(images[0])].detach().float())

    def after_backward(self, progress: Progress) -> None:
        """While the last layer is frozen it gets no gradient at all: an optimizer leaves it entirely alone."""
        if progress.step < self.settings.freeze_last_layer_epochs * progress.steps_per_epoch:
            for parameter in self.head.last_layer.parameters():
                parameter.grad = None

    @torch.no_grad()
    def after_step(self, progress: Progress, taken: Tensor) -> None:
        """The teacher follows the student's parameters; the centre follows the teacher's outputs.

        A step that is not taken changes neither.
        """
        momentum, buffers = self.teacher_momentum(progress), self.settings.copy_buffers
        moving_average(self.teacher, self.encoder, momentum, taken=taken, buffers=buffers)
        moving_average(self.teacher_head, self.head, momentum, taken=taken, buffers=buffers)
        assert self._new_centre is not None
        centre_K = self.centre_K.lerp(self._new_centre.to(self.centre_K.dtype), 1 - self.settings.centre_momentum)
        self.centre_K.copy_(torch.where(taken, centre_K, self.centre_K))
        self._new_centre = None

    def expectations(self) -> Expectations:
        """The teacher gives every film the same: the centre takes it off, or balancing does, and 1 / K is left.

        Its entropy is then ln K, so is that of the mean, and a student that has followed pays ln K. With KoLeo the
        loss is more by what that comes to, which depends on the features.
        """
        flat, koleo_weight = math.log(self.settings.outputs), self.settings.koleo_weight
        blind = {"distillation": flat, "teacher_entropy": flat, "mean_teacher_entropy": flat}
        blind |= {"teacher_information": 0.0, **({} if koleo_weight else {"loss": flat})}
        return Expectations(blind, rises=frozenset({"teacher_information"}))

    def teacher_momentum(self, progress: Progress) -> float:
        """The moving average's momentum at a step."""
        start, end = self.settings.teacher_momentum
        if self.settings.teacher_momentum_curve == "linear":
            return ramp(progress.step, count=progress.total_steps, start=start, end=end, reaches=True)
        return cosine(progress.step, count=progress.total_steps, start=start, end=end, reaches=False)

    def evaluation_encoder(self) -> Encoder:
        """The teacher's, as official, unless the settings say otherwise."""
        return self.teacher if self.settings.evaluate == "teacher" else self.encoder

    def _logits(self, images: Sequence[Tensor], encoder: Encoder, head: DINOHead) -> tuple[Tensor, Tensor]:
        """Features (N, D) and logits (N, K) of all crops; crops of one size share their batch statistics."""
        if not self.settings.crops_together:
            features = [encoder(image) for image in images]
            return torch.cat(features), torch.cat([head(part) for part in features])
        sizes = groupby(images, key=lambda image: image.shape[-1])
        features_ND = torch.cat([encoder(torch.cat(list(group))) for _, group in sizes])
        return features_ND, head(features_ND)

    def _targets(self, teacher_NK: Tensor, progress: Progress) -> Tensor:
        s = self.settings
        start, final = s.teacher_temperature
        temperature = teacher_temperature(
            progress.epoch,
            start=start,
            final=final,
            warmup_epochs=s.teacher_temperature_epochs,
            late=s.teacher_temperature_late,
        )
        if s.centring == "sinkhorn":
            return sinkhorn_targets(teacher_NK, temperature, s.sinkhorn_iterations)
        return centred_targets(teacher_NK, self.centre_K, temperature)

    def _koleo(self, features_ND: Tensor, films: int) -> Tensor:
        """Over the films of each global crop by itself: two crops of one film should be neighbours."""
        crops = at_least_float32(features_ND[: _GLOBAL_CROPS * films]).split(films)
        return torch.stack([koleo(whole_batch(crop)) for crop in crops]).mean()

"""ResNet with one input channel and torchvision's parameter names (He et al., 2016, arXiv 1512.03385)."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Literal, ParamSpec

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

Backbone = Literal["resnet18", "resnet50"]
P = ParamSpec("P")

_LAYOUT: dict[str, tuple[type[BasicBlock | Bottleneck], list[int]]] = {
    "resnet18": (BasicBlock, [2, 2, 2, 2]),
    "resnet50": (Bottleneck, [3, 4, 6, 3]),
}


def _through(stage: nn.Module, x: Tensor) -> Tensor:
    out: Tensor = stage(x)
    return out


class Encoder(ResNet):  # type: ignore[misc]  # torchvision is not typed
    """A ResNet without classifier. ``conv1`` sees one grey channel; state names are torchvision's.

    The first ``gradient_checkpointing`` of the four stages are recomputed in the backward pass instead of being
    kept (the first ones are the largest); running statistics are still updated once a step. With
    ``zero_init_residual`` the scale of each residual block's last BatchNorm starts at 0, so that a block starts as its
    shortcut (Goyal et al., 2017, arXiv 1706.02677, section 5.1); nothing else starts differently.

    ``compiled`` (False unless set): stem and stages are compiled by torch, each on its first call, so that what lies
    between the convolutions goes through memory once. Names and results stay, rounding apart; copies take it over.
    """

    def __init__(
        self, backbone: Backbone, *, gradient_checkpointing: int = 0, zero_init_residual: bool = False
    ) -> None:
        block, layers = _LAYOUT[backbone]
        super().__init__(block, layers, zero_init_residual=zero_init_residual)
        self.backbone: Backbone = backbone
        self.compiled = False
        self.gradient_checkpointing = gradient_checkpointing
        self.conv1 = nn.Conv2d(1, 64, kernel_size=7, stride=2, padding=3, bias=False)
        nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")
        self.features: int = 512 * block.expansion  # D, length of a film's feature vector
        self.widths: list[int] = [self.features // 8, self.features // 4, self.features // 2, self.features]
        self.fc = nn.Identity()

    @property
    def stage_modules(self) -> tuple[nn.Module, ...]:
        """The four stages, in order."""
        return (self.layer1, self.layer2, self.layer3, self.layer4)

    def stages(self, x_B1HW: Tensor) -> list[Tensor]:
        """Outputs of the four stages, strides 4, 8, 16 and 32."""
        x = self.part(_stem)(self, x_B1HW)
        maps = []
        for stage in self.stage_modules:
            x = self.run_stage(stage, x)
            maps.append(x)
        return maps

    def forward(self, x_B1HW: Tensor, stage: int = 4) -> Tensor:
        """Feature vectors (B, D): the mean over space of a stage's output, of the last one by default."""
        return self.stages(x_B1HW)[stage - 1].mean(dim=(2, 3))

    def part(self, function: Callable[P, Tensor]) -> Callable[P, Tensor]:
        """A function that computes a part of this network, compiled if so set."""
        return _compiled(function) if self.compiled else function

    def run_stage(
        self, stage: nn.Module, x: Tensor, forward: Callable[..., Tensor] = _through, *more: object
    ) -> Tensor:
        """Output of one of the four stages, or of another ``forward(stage, x, *more)``; recomputed if so set."""
        forward = self.part(forward)
        recompute = any(stage is first for first in self.stage_modules[: self.gradient_checkpointing])
        if not (recompute and self.training and torch.is_grad_enabled()):
            return forward(stage, x, *more)
        recomputed: Tensor = checkpoint(
            forward,
            stage,
            x,
            *more,
            use_reentrant=False,
            context_fn=lambda: (contextlib.nullcontext(), _frozen_statistics(stage)),
        )
        return recomputed


def _stem(encoder: Encoder, x_B1HW: Tensor) -> Tensor:
    out: Tensor = encoder.maxpool(encoder.relu(encoder.bn1(encoder.conv1(x_B1HW))))
    return out


@functools.cache
def _compiled(function: Callable[P, Tensor]) -> Callable[P, Tensor]:
    """Shapes are few and fixed, so each gets code of its own."""
    return torch.compile(function, dynamic=False)


@contextlib.contextmanager
def _frozen_statistics(stage: nn.Module) -> Iterator[None]:
    """While a stage is recomputed its BatchNorms must not count the same batch a second time."""
    norms = [m for m in stage.modules() if isinstance(m, nn.BatchNorm2d)]
    saved = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, (momentum, counter) in zip(norms, saved, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, counter


def build_encoder(
    backbone: Backbone, *, seed: int, gradient_checkpointing: int = 0, zero_init_residual: bool = False
) -> Encoder:
    """A randomly initialised encoder, fixed by ``seed`` and independent of torch's global random state.

    What is drawn is the same with and without ``zero_init_residual``.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Encoder(backbone, gradient_checkpointing=gradient_checkpointing, zero_init_residual=zero_init_residual)

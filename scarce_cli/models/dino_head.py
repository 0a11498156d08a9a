"""DINO's projection head (Caron et al., 2021, arXiv 2104.14294; official: vision_transformer.py, DINOHead).

Shape suffixes: N rows, D features of the encoder, K outputs.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_STD = 0.02  # of the layers' first weights
_FLOOR = 1e-12  # of the norm that a row is divided by


class WeightNormLinear(nn.Module):
    """A linear layer without bias whose rows are ``weight_g * weight_v / |weight_v|`` (arXiv 1602.07868).

    ``weight_g`` starts at 1; with ``frozen_length`` it stays there.
    """

    def __init__(self, inputs: int, outputs: int, *, frozen_length: bool) -> None:
        super().__init__()
        self.weight_v = nn.Parameter(nn.Linear(inputs, outputs, bias=False).weight.detach().clone())
        self.weight_g = nn.Parameter(torch.ones(outputs, 1), requires_grad=not frozen_length)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs) to (N, outputs)."""
        return F.linear(x, self.weight_g * self.weight_v / self.weight_v.norm(dim=1, keepdim=True))


class DINOHead(nn.Module):
    """Layers with GELU between them, onto the unit sphere of the bottleneck, then K directions on it.

    Args:
        inputs: D.
        outputs: K.
        layers: linear layers up to the bottleneck, at least one.
        batch_norm: BatchNorm before each GELU. Official default is without. Features of films of one kind point
            nearly the same way; without it so do the bottleneck's, and every film gets the same logits.
        normalize_last_layer: keep the length of the K directions at 1.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        hidden: int,
        bottleneck: int,
        layers: int,
        batch_norm: bool,
        normalize_last_layer: bool,
    ) -> None:
        super().__init__()
        sizes = [inputs, *[hidden] * (layers - 1), bottleneck]
        parts: list[nn.Module] = []
        for position, (before, after) in enumerate(pairwise(sizes), start=1):
            parts.append(_linear(before, after))
            if position < layers:
                parts += [nn.BatchNorm1d(after)] if batch_norm else []
                parts.append(nn.GELU())
        self.mlp: nn.Module = nn.Sequential(*parts) if layers > 1 else parts[0]  # official names
        self.last_layer = WeightNormLinear(bottleneck, outputs, frozen_length=normalize_last_layer)

    def forward(self, features_ND: Tensor) -> Tensor:
        """Logits (N, K), without temperature: cosines when the last layer's rows have length 1."""
        logits: Tensor = self.last_layer(F.normalize(self.mlp(features_ND), dim=-1, eps=_FLOOR))
        return logits


def _linear(inputs: int, outputs: int) -> nn.Linear:
    layer = nn.Linear(inputs, outputs)
    nn.init.trunc_normal_(layer.weight, std=_STD)
    nn.init.zeros_(layer.bias)
    return layer

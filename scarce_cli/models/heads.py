"""Projectors: what a method puts on the encoder while training, and throws away afterwards.

Shape suffixes: N rows, D features of the encoder.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import nn


def two_layer_projector(features: int, dimension: int) -> nn.Sequential:
    """(N, D) to (N, dimension): linear, ReLU, linear; the hidden layer is as wide as the features.

    Both layers have biases and there is no BatchNorm: facebookresearch/moco, moco/builder.py with ``mlp``
    (MoCo v2, arXiv 2003.04297; SimCLR, arXiv 2002.05709).
    """
    return nn.Sequential(nn.Linear(features, features), nn.ReLU(inplace=True), nn.Linear(features, dimension))


def batch_norm_projector(features: int, widths: Sequence[int]) -> nn.Sequential:
    """(N, D) to (N, widths[-1]): linear layers with BatchNorm and ReLU between them, none after the last.

    No layer has a bias, the last included: facebookresearch/barlowtwins, main.py (arXiv 2103.03230).
    """
    *inner, last = pairwise((features, *widths))
    layers: list[nn.Module] = []
    for narrow, wide in inner:
        layers += [nn.Linear(narrow, wide, bias=False), nn.BatchNorm1d(wide), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.Linear(*last, bias=False))

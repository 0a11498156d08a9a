"""DINO's head beyond its official numbers (tests/official/dino.py)."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.nn.utils.parametrizations import weight_norm

from scarce_cli.models.dino_head import DINOHead, WeightNormLinear


def make(**changes: object) -> DINOHead:
    torch.manual_seed(0)
    values = {"hidden": 16, "bottleneck": 8, "layers": 3, "batch_norm": False, "normalize_last_layer": True}
    return DINOHead(12, 20, **{**values, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize("frozen", [True, False])
def test_weight_normalisation_is_torchs(frozen: bool) -> None:
    ours = WeightNormLinear(5, 7, frozen_length=frozen).double()
    theirs = weight_norm(torch.nn.Linear(5, 7, bias=False).double())
    theirs.parametrizations.weight.original0.data.copy_(ours.weight_g)
    theirs.parametrizations.weight.original1.data.copy_(ours.weight_v)
    x = torch.randn(3, 5, dtype=torch.float64)
    torch.testing.assert_close(ours(x), theirs(x))
    for layer in (ours, theirs):
        layer(x).square().sum().backward()
    torch.testing.assert_close(ours.weight_v.grad, theirs.parametrizations.weight.original1.grad)
    assert (ours.weight_g.grad is None) == frozen


def test_logits_are_cosines() -> None:
    head = make()
    x = torch.randn(6, 12)
    directions = F.normalize(head.last_layer.weight_v, dim=1)
    expected = F.cosine_similarity(head.mlp(x)[:, None], directions[None], dim=-1)
    torch.testing.assert_close(head(x), expected)
    assert head(x).abs().max() <= 1 + 1e-6


def test_features_that_point_one_way_get_different_logits_only_with_batch_norm() -> None:
    """Films of one kind: all features nearly equal. This is why the recipe has BatchNorm in the head."""
    torch.manual_seed(1)
    features = 5.0 + 0.01 * torch.randn(64, 12)
    spread = {norm: make(batch_norm=norm)(features).std(dim=0).mean().item() for norm in (False, True)}
    assert spread[True] > 30 * spread[False]


def test_a_row_of_zeros_is_finite() -> None:
    head = make(layers=1)
    x = torch.zeros(2, 12, requires_grad=True)
    head(x).sum().backward()
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()

"""Projectors: their layers, and what they compute, written out."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from scarce_cli.models.heads import batch_norm_projector, two_layer_projector


def test_two_layers_with_biases_and_no_batch_norm() -> None:
    torch.manual_seed(0)
    head = two_layer_projector(6, 3).double()
    assert {name: tuple(p.shape) for name, p in head.named_parameters()} == {
        "0.weight": (6, 6), "0.bias": (6,), "2.weight": (3, 6), "2.bias": (3,),
    }  # fmt: skip
    x, w = torch.randn(5, 6, dtype=torch.float64), head.state_dict()
    hidden = (x @ w["0.weight"].T + w["0.bias"]).clamp(min=0)
    torch.testing.assert_close(head(x).detach(), hidden @ w["2.weight"].T + w["2.bias"])


def test_no_layer_of_the_other_has_a_bias() -> None:
    head = batch_norm_projector(6, [8, 7, 5])
    kinds = [nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Linear]
    assert [type(layer) for layer in head] == kinds
    assert [layer.weight.shape for layer in head if isinstance(layer, nn.Linear)] == [(8, 6), (7, 8), (5, 7)]
    assert all(layer.bias is None for layer in head if isinstance(layer, nn.Linear))


def test_batch_norm_and_relu_stand_between_the_layers() -> None:
    torch.manual_seed(0)
    head = batch_norm_projector(4, [8, 3]).double()
    x, w = torch.randn(9, 4, dtype=torch.float64), head.state_dict()
    hidden = x @ w["0.weight"].T
    hidden = (hidden - hidden.mean(dim=0)) / (hidden.var(dim=0, unbiased=False) + 1e-5).sqrt()
    torch.testing.assert_close(head(x).detach(), hidden.clamp(min=0) @ w["3.weight"].T)


def test_one_width_is_one_layer() -> None:
    head = batch_norm_projector(4, [3])
    assert [type(layer) for layer in head] == [nn.Linear]
    assert head[0].bias is None


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_a_batch_of_two_is_enough(precision: torch.dtype) -> None:
    torch.manual_seed(0)
    head = batch_norm_projector(4, [8, 8, 3])
    x = torch.randn(2, 4, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == torch.bfloat16):
        z = head(x)
    assert z.dtype == precision
    z.float().square().sum().backward()
    assert x.grad is not None
    assert torch.isfinite(z).all()
    assert torch.isfinite(x.grad).all()

"""VICReg's terms, against the formulas in numpy, and what they must not depend on."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from scarce_cli.methods.regularizers import (
    covariance_matrix,
    covariance_penalty,
    dimension_std,
    invariance,
    variance_hinge,
)

SINGLE = [variance_hinge, covariance_penalty]


def draw(rows: int = 9, dimensions: int = 5, seed: int = 0) -> Tensor:
    """Dimensions of different spread, some of them alike, far from nought."""
    z = torch.randn(rows, dimensions, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    z[:, 1] += 0.7 * z[:, 0]
    return z * torch.linspace(0.2, 1.8, dimensions, dtype=torch.float64) + 3


@pytest.mark.parametrize(("rows", "dimensions"), [(2, 1), (2, 7), (9, 5), (40, 3)])
def test_the_formulas(rows: int, dimensions: int) -> None:
    z = draw(rows, max(dimensions, 2))[:, :dimensions]
    values = z.numpy()
    std = np.sqrt(values.var(axis=0, ddof=1) + 1e-4)
    c = np.atleast_2d(np.cov(values, rowvar=False))
    np.testing.assert_allclose(dimension_std(z), std, rtol=1e-12)
    np.testing.assert_allclose(variance_hinge(z), np.maximum(0, 1 - std).mean(), rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(covariance_matrix(z), c, rtol=1e-10, atol=1e-14)
    off = (c**2).sum() - (np.diag(c) ** 2).sum()
    np.testing.assert_allclose(covariance_penalty(z), off / dimensions, rtol=1e-9, atol=1e-14)
    other = draw(rows, max(dimensions, 2), seed=1)[:, :dimensions]
    np.testing.assert_allclose(invariance(z, other), ((values - other.numpy()) ** 2).mean(), rtol=1e-12)


@pytest.mark.parametrize("term", SINGLE)
def test_films_may_come_in_any_order_and_all_be_moved(term: Callable[[Tensor], Tensor]) -> None:
    z = draw()
    torch.testing.assert_close(term(z.flip(0)), term(z))
    torch.testing.assert_close(term(z + torch.arange(5)), term(z))
    torch.testing.assert_close(term(z[:, torch.tensor([3, 0, 4, 1, 2])]), term(z))


def test_the_hinge_lets_go_at_a_std_of_one() -> None:
    z = draw(rows=200)
    wide = z / z.std(dim=0) * 1.1
    assert float(variance_hinge(wide)) == 0
    narrow = (z / z.std(dim=0) * 0.25).requires_grad_()
    variance_hinge(narrow).backward()
    assert narrow.grad is not None
    pushed = (narrow - 0.1 * narrow.grad).detach()
    assert (pushed.std(dim=0) > narrow.detach().std(dim=0)).all()


def test_dimensions_that_share_nothing_have_no_penalty() -> None:
    hadamard = torch.tensor([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]], dtype=torch.float64)
    assert float(covariance_penalty(hadamard)) == 0
    assert float(covariance_penalty(hadamard[:, [0, 0, 1]])) > 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_collapsed_batch_is_finite(dtype: torch.dtype) -> None:
    z = torch.full((6, 4), 2.5, dtype=dtype, requires_grad=True)
    loss = variance_hinge(z) + covariance_penalty(z)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(0.99)
    assert z.grad is not None
    assert torch.equal(z.grad, torch.zeros_like(z))


@pytest.mark.parametrize("term", [*SINGLE, lambda z: invariance(z, z.flip(0))])
def test_full_precision_under_autocast(term: Callable[[Tensor], Tensor]) -> None:
    z = draw().float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(term(z), term(z.clone()))
        found, coarse = term(z), term(z.bfloat16())
    assert found.dtype == coarse.dtype == torch.float32
    assert torch.equal(found, term(z))
    torch.testing.assert_close(coarse, term(z.bfloat16().float()))

"""Barlow Twins: its loss against the formula in numpy, what it must not depend on, and the method around it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from scarce_cli.config import AugmentSettings
from scarce_cli.data.augment import View
from scarce_cli.methods.barlow import (
    BarlowTwins,
    Standardise,
    barlow_loss,
    correlation,
    shared_directions,
    standardise_published,
)
from scarce_cli.methods.base import Progress
from scarce_cli.methods.settings import BarlowSettings
from scarce_cli.models.resnet import build_encoder

LAMBD = 0.0051
NOW = Progress(0, 10, 5)


def draw(rows: int = 12, dimensions: int = 6, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Two views that have much in common."""
    generator = torch.Generator().manual_seed(seed)
    common, one, two = (torch.randn(rows, dimensions, generator=generator, dtype=torch.float64) for _ in range(3))
    return common + 0.5 * one, common + 0.5 * two + 2


def official(z: Tensor) -> Tensor:
    """A fresh standardising layer."""
    return Standardise(z.shape[1]).to(z.dtype)(z)


def loss_of(z1: Tensor, z2: Tensor) -> Tensor:
    return barlow_loss(z1, z2, LAMBD, official).loss


@pytest.mark.parametrize(("rows", "dimensions"), [(2, 1), (2, 5), (4, 12), (30, 7), (9, 1)])
@pytest.mark.parametrize("scale", [1e-4, 1.0, 30.0])
def test_the_formula(rows: int, dimensions: int, scale: float) -> None:
    z1, z2 = (z * scale for z in draw(rows, dimensions))
    u1, u2 = ((z.numpy() - z.numpy().mean(0)) / np.sqrt(z.numpy().var(0) + 1e-5) for z in (z1, z2))
    c = sum(np.outer(a, b) for a, b in zip(u1, u2, strict=True)) / rows
    on = sum((c[d, d] - 1) ** 2 for d in range(dimensions))
    off = sum(c[d, e] ** 2 for d in range(dimensions) for e in range(dimensions) if d != e)
    terms = barlow_loss(z1, z2, LAMBD, official)
    np.testing.assert_allclose(correlation(z1, z2, official), c, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(terms.on_diagonal, on, rtol=1e-9, atol=1e-20)  # 1 - c is exact to 1e-16 only
    np.testing.assert_allclose(terms.off_diagonal, off, rtol=1e-9)
    np.testing.assert_allclose(terms.loss, on + LAMBD * off, rtol=1e-9, atol=1e-20)


def test_the_published_formula() -> None:
    z1, z2 = draw()
    u1, u2 = ((z.numpy() - z.numpy().mean(0)) / (z.numpy().std(0, ddof=1) + 1e-6) for z in (z1, z2))
    c = correlation(z1, z2, standardise_published)
    np.testing.assert_allclose(c, u1.T @ u2 / len(z1), rtol=1e-9, atol=1e-12)
    same = correlation(z1, z1, standardise_published).diagonal()
    np.testing.assert_allclose(same, (len(z1) - 1) / len(z1), rtol=1e-5)  # never 1, even for identical views


def test_only_which_film_goes_with_which_counts() -> None:
    z1, z2 = draw()
    generator = torch.Generator().manual_seed(1)
    order, places = torch.randperm(12, generator=generator), torch.randperm(6, generator=generator)
    torch.testing.assert_close(loss_of(z1[order], z2[order]), loss_of(z1, z2))
    torch.testing.assert_close(loss_of(z1[:, places], z2[:, places]), loss_of(z1, z2))
    torch.testing.assert_close(loss_of(z2, z1), loss_of(z1, z2))
    assert float(loss_of(z1[order], z2)) > 2 * float(loss_of(z1, z2))
    assert float(loss_of(z1[:, places], z2)) > 2 * float(loss_of(z1, z2))


def test_scale_and_offset_of_a_dimension_do_not_count() -> None:
    """But for the 1e-5 inside the root, which is why the scales here are large."""
    z1, z2 = (1e3 * z for z in draw())
    scaled = z2 * torch.tensor([0.5, 3.0, 1.0, 10.0, 2.0, 7.0]) - 5
    torch.testing.assert_close(loss_of(z1, scaled), loss_of(z1, z2), rtol=1e-9, atol=0)
    assert float(loss_of(z1, -z2)) > 2 * float(loss_of(z1, z2))


def test_the_best_there_is() -> None:
    """Identical views whose dimensions share nothing."""
    z = torch.tensor([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]], dtype=torch.float64)
    assert float(loss_of(z, z)) == pytest.approx(3e-10, rel=1e-3)  # 1 - 1 / (1 + 1e-5), squared, three times
    assert float(loss_of(z, z[:, [1, 0, 2]])) > 2


def test_constant_dimensions_leave_finite_gradients() -> None:
    z1, z2 = draw()
    z1[:, 0], z2[:, 0], z2[:, 1] = 4.0, 4.0, 4.0
    for dtype in (torch.float64, torch.float32):
        one, two = (z.to(dtype, copy=True).requires_grad_() for z in (z1, z2))
        terms = barlow_loss(one, two, LAMBD, official)
        terms.loss.backward()
        assert one.grad is not None
        assert two.grad is not None
        assert torch.isfinite(one.grad).all()
        assert torch.isfinite(two.grad).all()
        diagonal = correlation(one, two, official).diagonal()
        torch.testing.assert_close(diagonal[:2].detach(), torch.zeros(2, dtype=dtype), rtol=0, atol=1e-6)


@pytest.mark.parametrize("standardise", [official, standardise_published])
@pytest.mark.parametrize("dimensions", [2, 7, 64])
def test_the_landmarks_of_collapse(dimensions: int, standardise: Callable[[Tensor], Tensor]) -> None:
    """Films all alike: D on the diagonal, no direction. Dimensions all alike: D (D - 1) off it, one direction."""
    point = torch.arange(1.0, dimensions + 1, dtype=torch.float64).expand(8, dimensions)
    terms = barlow_loss(point, point, LAMBD, standardise)
    found = [float(value) for value in (terms.loss, terms.on_diagonal, terms.off_diagonal, terms.directions)]
    assert found == pytest.approx([dimensions, dimensions, 0, 0], rel=1e-6, abs=1e-12)
    copies = 1e3 * draw(400, 1)[0] * torch.arange(1.0, dimensions + 1, dtype=torch.float64)
    terms = barlow_loss(copies, copies, LAMBD, standardise)
    assert float(terms.on_diagonal) == pytest.approx(0, abs=1e-5 * dimensions)
    assert float(terms.off_diagonal) == pytest.approx(dimensions * (dimensions - 1), rel=6e-3)  # published: (N-1)/N
    assert float(terms.directions) == pytest.approx(1, rel=1e-6)


@pytest.mark.parametrize("rank", [1, 3, 10])
def test_directions_are_those_of_the_correlation(rank: int) -> None:
    """Of two equal views: the participation ratio of the eigenvalues of numpy's correlation, whatever their scale."""
    z = draw(500, rank)[0] @ draw(rank, 12, seed=3)[0] * torch.logspace(0, 2, 12, dtype=torch.float64)
    eigenvalues = np.linalg.eigvalsh(np.corrcoef(z.numpy().T))
    wanted = eigenvalues.sum() ** 2 / (eigenvalues**2).sum()
    assert float(barlow_loss(1e3 * z, 1e3 * z, LAMBD, official).directions) == pytest.approx(wanted, rel=1e-4)
    assert 1 <= wanted <= rank + 1e-9
    assert float(shared_directions(torch.eye(12))) == 12
    assert float(shared_directions(-torch.eye(12))) == 0


def test_full_precision_under_autocast() -> None:
    z1, z2 = (z.float() for z in draw())
    exact = loss_of(z1, z2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, coarse = loss_of(z1, z2), loss_of(z1.bfloat16(), z2.bfloat16())
    assert torch.equal(found, exact)
    assert coarse.dtype == torch.float32
    torch.testing.assert_close(coarse, loss_of(z1.bfloat16().float(), z2.bfloat16().float()))
    torch.testing.assert_close(coarse, exact, rtol=0.02, atol=0)


def test_the_running_statistics_take_view_one_then_view_two() -> None:
    z1, z2 = draw()
    norm = Standardise(6).double()
    barlow_loss(z1, z2, LAMBD, norm)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    torch.testing.assert_close(norm.running_mean, 0.09 * z1.mean(0) + 0.1 * z2.mean(0))
    torch.testing.assert_close(norm.running_var, 0.81 + 0.09 * z1.var(0) + 0.1 * z2.var(0))
    assert list(norm.parameters()) == []


def test_in_evaluation_the_loss_is_still_the_batch_s() -> None:
    z1, z2 = draw()
    norm = Standardise(6).double()
    wanted = barlow_loss(z1, z2, LAMBD, norm).loss
    before = copy.deepcopy(norm.state_dict())
    assert torch.equal(barlow_loss(z1, z2, LAMBD, norm.eval()).loss, wanted)
    assert all(torch.equal(before[name], tensor) for name, tensor in norm.state_dict().items())


def twins(**settings: Any) -> BarlowTwins:
    torch.manual_seed(0)
    encoder = build_encoder("resnet18", seed=0)
    method = BarlowTwins.build(encoder, BarlowSettings(projector=(16, 8), **settings), 32)
    return method.double()


def views(films: int = 4, side: int = 64) -> list[View]:
    generator = torch.Generator().manual_seed(3)
    images = [torch.randn(films, 1, side, side, generator=generator, dtype=torch.float64) for _ in range(2)]
    return [View(image, image) for image in images]


@pytest.mark.parametrize("standardise", ["official", "published"])
def test_a_step_is_the_loss_of_the_projected_features(standardise: str) -> None:
    method, pair = twins(standardise=standardise, lambd=0.02), views()
    twin = copy.deepcopy(method)
    output = method(pair, NOW, torch.Generator())
    features = [twin.encoder(view.image_BCHW) for view in pair]
    norm = official if standardise == "official" else standardise_published
    terms = barlow_loss(twin.projector(features[0]), twin.projector(features[1]), 0.02, norm)
    assert torch.equal(output.loss, terms.loss)
    assert torch.equal(output.scalars["on_diagonal"], terms.on_diagonal)
    assert torch.equal(output.scalars["off_diagonal"], terms.off_diagonal)
    assert torch.equal(output.scalars["directions"], terms.directions)
    assert output.embeddings_ND is not None
    assert torch.equal(output.embeddings_ND, features[0].float())


def test_every_batch_norm_sees_the_views_one_by_one() -> None:
    method, pair = twins(), views()
    method(pair, NOW, torch.Generator())
    counters = [buffer for name, buffer in method.named_buffers() if name.endswith("num_batches_tracked")]
    assert [int(counter) for counter in counters] == [2] * (20 + 1 + 1)
    assert method.encoder.bn1.running_mean is not None
    means = [method.encoder.conv1(view.image_BCHW).mean(dim=(0, 2, 3)) for view in pair]
    torch.testing.assert_close(method.encoder.bn1.running_mean, (0.09 * means[0] + 0.1 * means[1]).detach())


def test_both_views_teach_and_everything_is_trained() -> None:
    method, pair = twins(), views()
    for number in (0, 1):
        images = [view.image_BCHW.clone() for view in pair]
        images[number].requires_grad_()
        method([View(image, image) for image in images], NOW, torch.Generator()).loss.backward()
        assert images[number].grad is not None
        assert images[number].grad.abs().sum() > 0
    assert all(p.grad is not None for p in method.parameters())
    assert {name for name, _ in method.trained_parameters()} == {name for name, _ in method.named_parameters()}


def test_a_batch_of_two_is_enough() -> None:
    method = twins().float()
    pair = [View(view.image_BCHW.float(), view.clean_BCHW.float()) for view in views(films=2, side=32)]
    output = method(pair, NOW, torch.Generator())
    output.loss.backward()
    assert torch.isfinite(output.loss)
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in method.parameters())


def test_two_views_drawn_alike() -> None:
    specs = twins().view_specs(96, AugmentSettings())
    assert [spec.size for spec in specs] == [96, 96]
    assert specs[0] == specs[1]


def test_the_encoder_to_keep_is_the_one_that_is_trained() -> None:
    method = twins()
    assert method.evaluation_encoder() is method.encoder

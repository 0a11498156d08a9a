"""SparK's masks and loss against the formulas (the official numbers are in test_reference.py)."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from scarce_cli.methods.spark import (
    draw_visible,
    explained,
    mean_loss,
    patch_statistics,
    reconstruction_loss,
    to_patches,
    visible_count,
)

SIZE, PATCH = 128, 32


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def films(batch: int = 3, size: int = SIZE, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(batch, 1, size, size, generator=generator(seed), dtype=dtype)


def pixels(visible_B1FF: Tensor) -> Tensor:
    return F.interpolate(visible_B1FF.float(), scale_factor=float(PATCH), mode="nearest").bool()


def test_patches_come_in_reading_order() -> None:
    image = films(2, 48)
    unfolded = F.unfold(image, kernel_size=16, stride=16).transpose(1, 2)
    assert torch.equal(to_patches(image, 16), unfolded)


def test_a_patch_s_statistics_are_its_own() -> None:
    image = films(2, 32, dtype=torch.float64)
    mean, std = patch_statistics(image, 16)
    corner = image[1, 0, :16, 16:]
    assert float(mean[1, 1]) == pytest.approx(float(corner.mean()))
    assert float(std[1, 1]) == pytest.approx(float((corner.var(unbiased=True) + 1e-6).sqrt()))


def loss_by_hand(prediction: Tensor, image: Tensor, visible: Tensor, patch: int) -> float:
    """The published formula, patch by patch."""
    errors = []
    for film, _, row, column in visible.logical_not().nonzero().tolist():
        part = (film, 0, slice(row * patch, (row + 1) * patch), slice(column * patch, (column + 1) * patch))
        target = (image[part] - image[part].mean()) / (image[part].var() + 1e-6).sqrt()
        errors.append((prediction[part] - target).square().mean())
    return float(torch.stack(errors).mean())


@pytest.mark.parametrize("seed", range(3))
def test_the_loss_is_the_mean_over_hidden_patches(seed: int) -> None:
    image, prediction = films(seed=seed, dtype=torch.float64), films(seed=seed + 9, dtype=torch.float64)
    visible = torch.rand(3, 1, 4, 4, generator=generator(seed)) < 0.5
    found = reconstruction_loss(prediction, image, visible, PATCH)
    assert float(found) == pytest.approx(loss_by_hand(prediction, image, visible, PATCH), rel=1e-12)


def test_what_is_predicted_for_visible_patches_does_not_count() -> None:
    image, prediction = films(), films(seed=1).requires_grad_()
    visible = draw_visible(3, 4, 0.6, generator())
    loss = reconstruction_loss(prediction, image, visible, PATCH)
    loss.backward()
    assert prediction.grad is not None
    assert (prediction.grad[pixels(visible)] == 0).all()
    assert (prediction.grad[~pixels(visible)] != 0).float().mean() > 0.99
    other = torch.where(pixels(visible), torch.full_like(prediction, 1e6), prediction)
    assert torch.equal(reconstruction_loss(other, image, visible, PATCH), loss)


def test_nothing_hidden_gives_zero_not_nan() -> None:
    prediction = films(seed=1).requires_grad_()
    loss = reconstruction_loss(prediction, films(), torch.ones(3, 1, 4, 4, dtype=torch.bool), PATCH)
    loss.backward()
    assert loss == 0
    assert prediction.grad is not None
    assert (prediction.grad == 0).all()


def test_gain_and_offset_of_a_patch_do_not_matter() -> None:
    image, prediction = films(dtype=torch.float64), films(seed=1, dtype=torch.float64)
    visible = draw_visible(3, 4, 0.6, generator())
    gain = 0.5 + torch.rand(3, 1, 4, 4, generator=generator(2), dtype=torch.float64)
    offset = torch.randn(3, 1, 4, 4, generator=generator(3), dtype=torch.float64)
    exposed = image * F.interpolate(gain, scale_factor=32.0) + F.interpolate(offset, scale_factor=32.0)
    one, other = (float(reconstruction_loss(prediction, x, visible, PATCH)) for x in (image, exposed))
    assert other == pytest.approx(one, rel=1e-5)


def test_a_flat_patch_has_the_target_nought() -> None:
    flat = torch.full((1, 1, 32, 32), 0.7)
    loss = reconstruction_loss(torch.zeros_like(flat), flat, torch.zeros(1, 1, 2, 2, dtype=torch.bool), 16)
    assert float(loss) < 1e-6


@pytest.mark.parametrize("patch", [2, 8, 32])
def test_painting_the_mean_costs_one_pixel_less_than_all_and_explains_nothing(patch: int) -> None:
    image, visible = 1e3 * films(2, 2 * patch, dtype=torch.float64), torch.zeros(2, 1, 2, 2, dtype=torch.bool)
    visible[:, :, 0, 0] = True
    zero = torch.zeros_like(image)
    loss, of_mean = reconstruction_loss(zero, image, visible, patch), mean_loss(image, visible, patch)
    assert float(of_mean) == pytest.approx((patch**2 - 1) / patch**2, rel=1e-6)
    assert float(explained(loss, of_mean)) == 0
    mean, std = patch_statistics(image, patch)
    target = ((to_patches(image, patch) - mean) / std).view(2, 2, 2, patch, patch).transpose(2, 3).reshape(image.shape)
    for share in (0.0, 0.5, 1.0, -1.0):
        painted = reconstruction_loss(share * target, image, visible, patch)
        assert float(explained(painted, of_mean)) == pytest.approx(1 - (1 - share) ** 2, abs=1e-9)


def test_flat_patches_make_the_mean_cheaper_but_explain_nothing_more() -> None:
    image, visible = films(2, 64, dtype=torch.float64), torch.zeros(2, 1, 2, 2, dtype=torch.bool)
    image[:, :, :, 32:] = 0.3
    of_mean = mean_loss(image, visible, 32)
    assert float(of_mean) == pytest.approx(0.5 * 1023 / 1024, rel=1e-4)
    assert float(explained(reconstruction_loss(torch.zeros_like(image), image, visible, 32), of_mean)) == 0
    flat = torch.full_like(image, 0.3)
    nothing = explained(reconstruction_loss(image, flat, visible, 32), mean_loss(flat, visible, 32))
    assert float(nothing) == 0  # not minus infinity


def test_half_precision_predictions_are_compared_in_float32() -> None:
    image, prediction = films(), films(seed=1).bfloat16()
    visible = draw_visible(3, 4, 0.6, generator())
    loss = reconstruction_loss(prediction, image.bfloat16(), visible, PATCH)
    assert loss.dtype == torch.float32


@pytest.mark.parametrize("ratio", [0.0, 0.3, 0.6, 0.75, 0.99])
@pytest.mark.parametrize("side", [1, 3, 4, 7])
def test_every_film_shows_the_same_number_of_patches(side: int, ratio: float) -> None:
    visible = draw_visible(5, side, ratio, generator())
    assert visible.shape == (5, 1, side, side)
    assert visible.dtype == torch.bool
    assert (visible.flatten(1).sum(dim=1) == visible_count(side, ratio)).all()
    assert visible_count(side, ratio) == pytest.approx(side * side * (1 - ratio), abs=0.5)


def test_the_generator_fixes_the_mask_and_every_patch_has_the_same_chance() -> None:
    torch.manual_seed(1)
    one = draw_visible(2000, 4, 0.6, generator(3))
    torch.manual_seed(2)
    assert torch.equal(draw_visible(2000, 4, 0.6, generator(3)), one)
    assert not torch.equal(draw_visible(2000, 4, 0.6, generator(4)), one)
    assert not torch.equal(one[0], one[1])
    share = one.float().mean(dim=0)
    assert (share - 6 / 16).abs().max() < 0.05

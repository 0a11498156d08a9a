"""Brightness and contrast, blur and noise; torchvision, and formulas in whole numbers and in double precision."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor
from torchvision.transforms import ColorJitter
from torchvision.transforms import functional as TF

from scarce_cli.data import augment_pixels
from scarce_cli.data.augment_table import on_device
from tests.data.view_helpers import CPU, blurred, jittered, noise, still


def random_views(count: int, size: int, seed: int = 0) -> Tensor:
    return torch.rand(count, size, size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("contrast_first", [False, True])
def test_jitter_agrees_with_torchvision(contrast_first: bool) -> None:
    brightness, contrast = (v.ravel() for v in np.meshgrid([0.0, 0.2, 0.7, 1.0, 1.3, 2.0], [2.0, 1.3, 1.0, 0.9, 0.0]))
    count = len(brightness)
    views = random_views(count, 32) ** torch.linspace(0.3, 3, count).view(-1, 1, 1)  # bright ones and dark ones
    p = still(count, 32, jitter=np.ones(count, bool), contrast_first=np.full(count, contrast_first),
              brightness=brightness, contrast=contrast)  # fmt: skip
    ours = jittered(views, p)
    steps = [(TF.adjust_brightness, brightness), (TF.adjust_contrast, contrast)]
    for n in range(count):
        view = views[n : n + 1]
        for step, factor in steps[::-1] if contrast_first else steps:
            view = step(view, float(factor[n]))
        torch.testing.assert_close(ours[n], view[0], rtol=0, atol=2e-6)
    assert ColorJitter(brightness=0.8).brightness == (pytest.approx(0.2), 1.8)


def test_films_not_chosen_are_not_jittered() -> None:
    views = random_views(3, 32)
    p = still(3, 32, jitter=np.array([1, 0, 1], bool), brightness=np.full(3, 1.5), contrast=np.full(3, 0.5))
    ours = jittered(views, p)
    torch.testing.assert_close(ours[1], views[1], rtol=0, atol=1e-6)
    assert (ours[0] - views[0]).abs().max() > 0.1


def test_jitter_normalises_as_it_goes() -> None:
    views = random_views(2, 16)
    p = still(2, 16, jitter=np.ones(2, bool), brightness=np.array([1.7, 0.4]), contrast=np.array([0.6, 1.8]))
    torch.testing.assert_close(
        jittered(views, p, 0.518, 0.254), (jittered(views, p) - 0.518) / 0.254, rtol=0, atol=5e-6
    )
    plain = augment_pixels.normalise(views * 255, 0.518, 0.254, torch.empty_like(views))
    torch.testing.assert_close(plain, (views - 0.518) / 0.254, rtol=0, atol=2e-6)


def torchvision_blur(view: Tensor, kernel: int, sigma: float) -> Tensor:
    return TF.gaussian_blur(view[None].double(), [kernel] * 2, [sigma] * 2)[0].float()


def test_blur_agrees_with_torchvision_at_every_kernel_size() -> None:
    views = random_views(6, 64, 1)
    kernel, sigma = np.array([9, 15, 23, 11, 1, 23]), np.array([2.0, 0.5, 1.7, 0.1, 1.0, 0.8])
    chosen = np.array([1, 1, 1, 0, 1, 1], bool)
    ours = blurred(views, still(6, 64, blur=chosen, kernel=kernel, sigma=sigma))
    for n in np.flatnonzero(chosen):
        torch.testing.assert_close(
            ours[n], torchvision_blur(views[n], int(kernel[n]), float(sigma[n])), rtol=0, atol=1e-6
        )
    assert torch.equal(ours[3], views[3])


@pytest.mark.parametrize(("size", "kernel"), [(32, 23), (32, 63), (48, 25), (57, 9), (72, 71), (130, 7)])
def test_blur_agrees_whatever_fits_into_the_view(size: int, kernel: int) -> None:
    """Bands that end within the view, mirror images that reach across it, the largest kernel that is accepted."""
    views = random_views(2, size, 2)
    ours = blurred(views, still(2, size, blur=np.ones(2, bool), kernel=np.full(2, kernel), sigma=np.array([9.0, 3.0])))
    for n, sigma in enumerate((9.0, 3.0)):
        torch.testing.assert_close(ours[n], torchvision_blur(views[n], kernel, sigma), rtol=0, atol=1e-6)


def test_blur_weights_are_never_subnormal() -> None:
    """They would be with a narrow kernel in a wide window, and make a CPU ten times slower."""
    sigma = np.linspace(0.1, 2.0, 191)
    rows = on_device(augment_pixels.blur_rows(still(191, 48, sigma=sigma, kernel=np.full(191, 23)), 191), CPU)
    weights = augment_pixels.blur_terms(rows, 48, 11)["weights"]
    assert weights[weights > 0].min() > 1e-10
    sums = augment_pixels.blur_matrices(weights, 48, 11).sum(-1)
    torch.testing.assert_close(sums, torch.ones(191, 48), rtol=0, atol=1e-6)


def mixed(low: int, high: int, count: int) -> np.ndarray:
    """The generator's 32 bits from its formula, in whole numbers of any size: (count,)."""
    mask, out = 2**32 - 1, []
    for counter in range(count):
        x = ((counter * 0x9E3779B9 + low) & mask) ^ high
        x = ((x ^ (x >> 16)) * 0x7FEB352D) & mask
        x = ((x ^ (x >> 15)) * 0x846CA68B) & mask
        out.append(x ^ (x >> 16))
    return np.array(out)


def test_noise_is_what_the_formula_says() -> None:
    seeds = np.array([0, 1, 2**63 + 12345, 2**64 - 1], np.uint64)
    ours = noise(4, 7, seeds, std=0.1)  # 49 pixels: the last pair is cut
    for n, seed in enumerate(seeds):
        low, high = int(seed) % 2**32, int(seed) >> 32
        bits = mixed(low, high, 25)
        signed = (bits >> 16).astype(np.uint16).view(np.int16).astype(np.float64)
        radius = 0.1 * np.sqrt(-2 * np.log((signed + 32768.5) / 65536))
        angle = 2 * np.pi * (bits & 0xFFFF) / 65536
        wanted = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[:49].reshape(7, 7)
        np.testing.assert_allclose(ours[n].numpy(), wanted, rtol=0, atol=1e-6)


def test_noise_is_normal() -> None:
    values = noise(40, 224, np.random.default_rng(0).integers(0, 2**63, 40).astype(np.uint64)).double().numpy()
    count = values.size
    assert abs(values.mean()) < 4 / count**0.5
    assert abs(values.std() - 1) < 4 / (2 * count) ** 0.5
    assert abs(stats.skew(values.ravel())) < 4 * (6 / count) ** 0.5
    assert abs(stats.kurtosis(values.ravel())) < 4 * (24 / count) ** 0.5
    assert stats.kstest(values.ravel(), "norm").pvalue > 0.001
    assert np.abs(values).max() == pytest.approx(4.86, abs=0.2)


@pytest.mark.parametrize(
    "seeds",
    [
        np.arange(200, dtype=np.uint64),
        np.arange(200, dtype=np.uint64) << np.uint64(32),
        (np.arange(200, dtype=np.uint64) << np.uint64(32)) | (np.arange(200, dtype=np.uint64) * 0x9E3779B9 % 2**32),
    ],
    ids=["next low words", "next high words", "counts that overlap"],
)
def test_noise_of_films_and_of_pixels_is_independent(seeds: np.ndarray) -> None:
    values = noise(200, 48, seeds.astype(np.uint64)).flatten(1)
    size = values.shape[1]
    between = (values @ values.T / size)[~torch.eye(200, dtype=torch.bool)]
    assert between.std() == pytest.approx(size**-0.5, rel=0.05)
    assert between.abs().max() < 5.5 * size**-0.5
    for lag in (1, 2, 47, 48, 49, size // 2 - 1, size // 2, size // 2 + 1):
        product = values[:, lag:] * values[:, :-lag]
        assert abs(product.mean()) < 4.5 / product.numel() ** 0.5
        squares = (values[:, lag:] ** 2 - 1) * (values[:, :-lag] ** 2 - 1)
        assert abs(squares.mean()) < 4.5 * 2 / squares.numel() ** 0.5
    across = (values[1:, 1:] * values[:-1, :-1]).mean()
    assert abs(across) < 4.5 / (199 * (size - 1)) ** 0.5

"""Views: the published table line by line, torchvision as oracle, a seed that fixes everything."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchvision.transforms import ColorJitter, RandomResizedCrop
from torchvision.transforms import functional as TF

from scarce_cli.config import AugmentSettings
from scarce_cli.data import augment
from scarce_cli.data.augment import ViewParameters, draw_parameters, make_view, warp

PUBLISHED = AugmentSettings(rotation_degrees=10.0)
FILMS = np.arange(2000)


def draw(settings: AugmentSettings = PUBLISHED, films: np.ndarray = FILMS, **changes: int) -> ViewParameters:
    key = {"seed": 1, "epoch": 2, "view": 0, **changes}
    return draw_parameters(settings, 256, films=films, **key)


def still(count: int, stored: int, **changes: np.ndarray) -> ViewParameters:
    """Parameters of the whole film, unchanged, but for ``changes``."""
    zero, one, no = np.zeros(count), np.ones(count), np.zeros(count, bool)
    values = {
        "top": zero, "left": zero, "height": one * stored, "width": one * stored, "flip": no, "angle": zero,
        "jitter": no, "contrast_first": no, "brightness": one, "contrast": one, "blur": no,
        "kernel": np.full(count, 9), "sigma": one, "noise_seed": np.arange(count, dtype=np.uint64),
    }  # fmt: skip
    return ViewParameters(**{**values, **changes})


def smooth_films(count: int, side: int) -> torch.Tensor:
    y, x = np.mgrid[:side, :side] / side
    films = [127 + 120 * np.sin(4 * x + n) * np.cos(3 * y + 0.5 * n) for n in range(count)]
    return torch.from_numpy(np.stack(films).round().astype(np.uint8))


def test_the_published_table_holds_line_by_line() -> None:
    """Part 2: crop 0.08-1, brightness and contrast 0.8, blur kernel 9 to 23 px, noise 0.1, flip."""
    assert (PUBLISHED.crop_scale, PUBLISHED.brightness, PUBLISHED.contrast) == ((0.08, 1.0), 0.8, 0.8)
    assert (PUBLISHED.blur_kernel, PUBLISHED.blur_sigma, PUBLISHED.noise_std) == ((9, 23), (0.1, 2.0), 0.1)
    p = draw()
    area = p.height * p.width / 256**2
    assert area.min() >= 0.075
    assert area.max() <= 1
    assert set(p.kernel) == set(range(9, 24, 2))
    assert p.sigma.min() >= 0.1
    assert p.sigma.max() <= 2.0
    for factor in (p.brightness, p.contrast):
        assert factor.min() >= 0.2 - 1e-9
        assert factor.max() <= 1.8
        assert factor.std() == pytest.approx(1.6 / 12**0.5, rel=0.05)
    for share, wanted in ((p.flip, 0.5), (p.jitter, 0.8), (p.blur, 0.5), (p.contrast_first, 0.5)):
        assert share.mean() == pytest.approx(wanted, abs=0.04)
    assert np.abs(p.angle).max() <= 10
    assert p.angle.std() == pytest.approx(20 / 12**0.5, rel=0.05)


def test_the_steps_come_in_the_order_of_the_listing(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    for name in ("warp", "jitter", "blur", "noise"):
        function = getattr(augment, name)
        monkeypatch.setattr(augment, name, lambda *a, _f=function, _n=name: (seen.append(_n), _f(*a))[1])
    make_view(smooth_films(4, 256), PUBLISHED, draw(films=np.arange(4)), size=64, mean=0.5, std=0.25)
    assert seen == ["warp", "jitter", "blur", "noise"]


def test_crops_have_torchvisions_distribution() -> None:
    torch.manual_seed(0)
    film = torch.zeros(1, 256, 256)
    drawn = np.array([RandomResizedCrop.get_params(film, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(4000)])
    p = draw(films=np.arange(4000))
    ours = np.stack([p.top, p.left, p.height, p.width], axis=1)
    np.testing.assert_allclose(ours.mean(0), drawn.mean(0), atol=5)
    np.testing.assert_allclose(ours.std(0), drawn.std(0), rtol=0.06)
    assert (ours == ours.round()).all()
    assert (p.top + p.height <= 256).all()
    assert (p.left + p.width <= 256).all()


def test_a_view_depends_on_seed_epoch_film_and_view_alone() -> None:
    whole, part = draw(), draw(films=FILMS[700:701])
    assert part.angle[0] == whole.angle[700]
    for change in ({"seed": 2}, {"epoch": 3}, {"view": 1}):
        other = draw(**change)
        assert np.corrcoef(other.angle, whole.angle)[0, 1] == pytest.approx(0, abs=0.08)


def test_views_are_the_same_bits_in_any_batch_and_with_any_number_of_threads() -> None:
    films, size = smooth_films(8, 128), 64

    def views(rows: np.ndarray) -> torch.Tensor:
        p = draw_parameters(PUBLISHED, 128, seed=0, epoch=0, films=rows, view=0)
        return make_view(films[rows], PUBLISHED, p, size=size, mean=0.5, std=0.25).image_BCHW

    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = views(np.arange(8))
        torch.set_num_threads(2)
        assert torch.equal(views(np.arange(8)), alone)
    finally:
        torch.set_num_threads(threads)
    torch.testing.assert_close(views(np.array([5, 2])), alone[[5, 2]], rtol=0, atol=2e-6)


def test_the_whole_film_at_its_own_size_stays_exact() -> None:
    films = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 64, 64), dtype=np.uint8))
    torch.testing.assert_close(warp(films, still(3, 64), 64, 1)[:, 0] * 255, films.float(), rtol=0, atol=1e-3)


def test_a_flip_mirrors_and_a_right_angle_turns() -> None:
    films = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (1, 64, 64), dtype=np.uint8))
    flipped = warp(films, still(1, 64, flip=np.array([True])), 64, 1)[0, 0] * 255
    torch.testing.assert_close(flipped, films[0].flip(1).float(), rtol=0, atol=1e-2)
    turned = warp(films, still(1, 64, angle=np.array([90.0])), 64, 1)[0, 0] * 255
    torch.testing.assert_close(turned, films[0].rot90(1).float(), rtol=0, atol=1e-2)


def test_crop_flip_and_rotation_agree_with_torchvision_in_one_resampling() -> None:
    """Against torchvision's three steps, away from the border that rotation brings in."""
    films = smooth_films(4, 256)
    top, left, height, width = np.array([10, 0, 60, 5.0]), np.array([20, 3, 0, 50.0]), 180.0, 200.0
    flip, angle = np.array([True, False, True, False]), np.array([7.0, -4.0, 0.0, 10.0])
    p = still(4, 256, top=top, left=left, height=np.full(4, height), width=np.full(4, width), flip=flip, angle=angle)
    ours = warp(films, p, 96, 2)[:, 0]
    for n in range(4):
        view = TF.resized_crop(films[n : n + 1].float() / 255, int(top[n]), int(left[n]), 180, 200, [96, 96])
        view = TF.hflip(view) if flip[n] else view
        view = TF.rotate(view, float(angle[n]), TF.InterpolationMode.BILINEAR)
        inner = slice(16, -16)
        assert (ours[n, inner, inner] - view[0, inner, inner]).abs().mean() < 1 / 255


def test_shrinking_does_not_alias() -> None:
    """A checkerboard at a third of its size is its mean, as in an antialiased resize."""
    board = torch.from_numpy((np.indices((192, 192)).sum(0) % 2 * 255).astype(np.uint8))[None]
    view = warp(board, still(1, 192), 64, augment.taps_for(PUBLISHED, 192, 64))
    assert view.std() < 0.06
    assert view.mean() == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("contrast_first", [False, True])
def test_jitter_agrees_with_torchvision(contrast_first: bool) -> None:
    views = torch.rand(5, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    brightness, contrast = np.array([0.2, 0.7, 1.0, 1.3, 1.8]), np.array([1.8, 0.3, 1.0, 0.9, 0.2])
    p = still(5, 32, jitter=np.ones(5, bool), contrast_first=np.full(5, contrast_first),
              brightness=brightness, contrast=contrast)  # fmt: skip
    ours = augment.jitter(views.clone(), p)
    steps = [(TF.adjust_brightness, brightness), (TF.adjust_contrast, contrast)]
    for n in range(5):
        view = views[n]
        for step, factor in steps[::-1] if contrast_first else steps:
            view = step(view, float(factor[n]))
        torch.testing.assert_close(ours[n], view, rtol=0, atol=2e-6)
    assert ColorJitter(brightness=0.8).brightness == (pytest.approx(0.2), 1.8)


def test_blur_agrees_with_torchvision_at_every_kernel_size() -> None:
    views = torch.rand(4, 1, 64, 64, generator=torch.Generator().manual_seed(1))
    kernel, sigma = np.array([9, 15, 23, 11]), np.array([2.0, 0.5, 1.7, 0.1])
    ours = augment.blur(views.clone(), still(4, 64, blur=np.array([1, 1, 1, 0], bool), kernel=kernel, sigma=sigma))
    for n in range(3):
        wanted = TF.gaussian_blur(views[n], [int(kernel[n])] * 2, [float(sigma[n])] * 2)
        torch.testing.assert_close(ours[n], wanted, rtol=0, atol=1e-6)
    assert torch.equal(ours[3], views[3])


def test_noise_has_its_spread_and_is_not_in_the_clean_view() -> None:
    settings = AugmentSettings(noise_std=0.1, jitter_probability=0.0, blur_probability=0.0, crop_scale=(1.0, 1.0))
    films = smooth_films(16, 96)
    p = draw_parameters(settings, 96, seed=0, epoch=0, films=np.arange(16), view=0)
    view = make_view(films, settings, p, size=96, mean=0.518, std=0.254)
    noise = (view.image_BCHW - view.clean_BCHW) * 0.254
    assert noise.std() == pytest.approx(0.1, rel=0.02)
    assert noise.mean() == pytest.approx(0, abs=0.002)
    assert not torch.equal(noise[0], noise[1])
    values = view.clean_BCHW * 0.254 + 0.518
    assert values.min() >= -1e-6
    assert values.max() <= 1 + 1e-6

"""What is drawn: the published table line by line, torchvision's crops, a seed that fixes everything."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torchvision.transforms import RandomResizedCrop

from tests.data.view_helpers import PUBLISHED, draw


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


def test_crops_have_torchvisions_distribution() -> None:
    torch.manual_seed(0)
    film = torch.zeros(1, 256, 256)
    drawn = np.array([RandomResizedCrop.get_params(film, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(4000)])
    p = draw(count=4000)
    ours = np.stack([p.top, p.left, p.height, p.width], axis=1)
    np.testing.assert_allclose(ours.mean(0), drawn.mean(0), atol=5)
    np.testing.assert_allclose(ours.std(0), drawn.std(0), rtol=0.06)
    assert (ours == ours.round()).all()
    assert (p.top + p.height <= 256).all()
    assert (p.left + p.width <= 256).all()


def test_a_view_depends_on_seed_epoch_film_and_view_alone() -> None:
    whole, fewer = draw(), draw(count=701)
    for field in dataclasses.fields(whole):
        assert getattr(fewer, field.name)[700] == getattr(whole, field.name)[700]
    for change in ({"seed": 2}, {"epoch": 3}, {"view": 1}):
        other = draw(**change)
        assert np.corrcoef(other.angle, whole.angle)[0, 1] == pytest.approx(0, abs=0.08)


def test_the_geometry_does_not_change_what_is_drawn() -> None:
    """The published way differs in what is done with the numbers, not in the numbers."""
    warp, published = draw(), draw(PUBLISHED.model_copy(update={"geometry": "published"}))
    for field in dataclasses.fields(warp):
        assert (getattr(warp, field.name) == getattr(published, field.name)).all()

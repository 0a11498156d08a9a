"""A map as the stack of its visible patches: there and back, and what lies beside a patch."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from scarce_cli.models.sparse import VisiblePatches


def images(batch: int = 3, size: int = 96, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(batch, 1, size, size, generator=torch.Generator().manual_seed(0), dtype=dtype)


def mask(batch: int = 3) -> Tensor:
    """Uneven counts on 3 x 3 patches."""
    return torch.rand(batch, 1, 3, 3, generator=torch.Generator().manual_seed(0)) < 0.5


def spread(visible: Tensor, side: int) -> Tensor:
    """The mask at a map's resolution, (B, 1, H, W) of noughts and ones."""
    return F.interpolate(visible.double(), size=(side, side), mode="nearest")


def test_patches_go_round_in_reading_order() -> None:
    visible, image = mask(), images(dtype=torch.float32)
    patches = VisiblePatches(visible)
    packed = patches.pack(image)
    by_hand = [image[b, :, 32 * y : 32 * y + 32, 32 * x : 32 * x + 32] for b, _, y, x in visible.nonzero().tolist()]
    assert torch.equal(packed, torch.stack(by_hand))
    pixels = spread(visible, 96).bool()
    assert torch.equal(patches.unpack(packed), torch.where(pixels, image, 0))
    filled = patches.unpack(patches.pack(image.repeat(1, 2, 1, 1)), torch.tensor([0.25, -7.0]))
    assert torch.equal(filled[:, 1:], torch.where(pixels, image, -7.0))
    assert torch.equal(filled[:, :1], torch.where(pixels, image, 0.25))


def test_a_known_count_gives_the_same_patches() -> None:
    visible = torch.zeros(5, 9, dtype=torch.bool)
    for film in range(5):
        visible[film, torch.randperm(9, generator=torch.Generator().manual_seed(film))[:4]] = True
    visible = visible.view(5, 1, 3, 3)
    known, counted = VisiblePatches(visible, per_film=4), VisiblePatches(visible)
    assert torch.equal(known.places_N, counted.places_N)
    assert torch.equal(known.places_N, visible.flatten().nonzero()[:, 0])
    assert torch.equal(known.beside_8N, counted.beside_8N)


@pytest.mark.parametrize(("before", "after"), [(1, 1), (1, 0), (0, 1), (3, 2), (0, 0)])
@pytest.mark.parametrize("patch", [4, 3])
def test_what_is_beside_a_patch_is_copied_with_its_gradient(patch: int, before: int, after: int) -> None:
    visible = mask(2)
    patches = VisiblePatches(visible)
    map_ = images(2, 3 * patch) * spread(visible, 3 * patch)
    padded = F.pad(map_, (before, after, before, after))
    whole = patch + before + after
    by_hand = [
        padded[b, :, patch * y : patch * y + whole, patch * x : patch * x + whole]
        for b, _, y, x in visible.nonzero().tolist()
    ]
    packed = patches.pack(map_).requires_grad_()
    assert torch.equal(patches.widen(packed, before, after), torch.stack(by_hand))
    assert torch.autograd.gradcheck(lambda x: patches.widen(x, before, after), (packed,))


def test_a_single_position_takes_its_neighbours_whole() -> None:
    visible = mask(2)
    patches = VisiblePatches(visible)
    packed = patches.pack(images(2, 3).repeat(1, 2, 1, 1)).requires_grad_()
    assert patches.widen(packed, 1, 1).shape == (int(visible.sum()), 2, 3, 3)
    assert torch.autograd.gradcheck(lambda x: patches.widen(x, 1, 1), (packed,))

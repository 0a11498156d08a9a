"""Dropped residual branches (stochastic depth) of the network that sees visible patches only."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from scarce_cli.data.augment import View
from scarce_cli.methods.base import Progress
from scarce_cli.methods.settings import SparKSettings
from scarce_cli.methods.spark import SparK
from scarce_cli.models.resnet import Backbone, build_encoder
from scarce_cli.models.sparse import VisiblePatches, draw_branches, packed_stages


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_share_dropped_rises_linearly_and_the_mean_stays_one() -> None:
    """In 8 blocks, over 20 000 films of one patch each."""
    visible = VisiblePatches(torch.ones(20_000, 1, 1, 1, dtype=torch.bool))
    branches = draw_branches(build_encoder("resnet18", seed=0), visible, 0.7, generator())
    assert branches.shape == (8, 20_000)
    for number, row in enumerate(branches):
        rate = 0.1 * number
        assert torch.equal(row.unique(), row.new_tensor([1.0])) if number == 0 else len(row.unique()) == 2
        torch.testing.assert_close((row == 0).float().mean(), torch.tensor(rate), rtol=0, atol=0.015)
        torch.testing.assert_close(row.max(), torch.tensor(1 / (1 - rate)))
        torch.testing.assert_close(row.mean(), torch.tensor(1.0), rtol=0, atol=0.05)


@pytest.mark.parametrize("backbone", ["resnet18", "resnet50"])
def test_whole_films_agree_with_an_ordinary_network_whose_branches_are_dropped(backbone: Backbone) -> None:
    """Everything is visible; torchvision's own blocks, their last norm's output multiplied film by film."""
    encoder = build_encoder(backbone, seed=0).double().eval()
    image = torch.randn(3, 1, 64, 64, generator=generator(), dtype=torch.float64)
    visible = VisiblePatches(torch.ones(3, 1, 2, 2, dtype=torch.bool))
    branches = draw_branches(encoder, visible, 0.9, generator(1))
    found = [visible.unpack(x) for x in packed_stages(encoder, image, visible, branches)]
    per_film = branches.view(len(branches), 3, 4)
    assert torch.equal(per_film, per_film[:, :, :1].expand_as(per_film))
    blocks = [b for stage in (encoder.layer1, encoder.layer2, encoder.layer3, encoder.layer4) for b in stage]
    for block, factors in zip(blocks, per_film[:, :, 0].double(), strict=True):
        last = block.bn2 if backbone == "resnet18" else block.bn3
        last.register_forward_hook(lambda _, __, out, f=factors: out * f.view(-1, 1, 1, 1))
    for one, other in zip(found, encoder.stages(image), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def _spark(**settings: Any) -> SparK:
    torch.manual_seed(0)
    return SparK.build(build_encoder("resnet18", seed=0), SparKSettings(decoder_width=32, **settings), 64).train()


def _step(spark: SparK, seed: int = 3) -> Tensor:
    image = torch.randn(4, 1, 64, 64, generator=generator())
    loss: Tensor = spark([View(image, image)], Progress(0, 10, 5), generator(seed)).loss
    loss.backward()
    return loss


def test_recomputed_stages_see_the_same_branches() -> None:
    one, frugal = _spark(drop_path=0.9), _spark(drop_path=0.9)
    frugal.encoder.gradient_checkpointing = 4
    assert torch.equal(_step(one), _step(frugal))
    for (name, p), other in zip(one.named_parameters(), frugal.parameters(), strict=True):
        assert torch.equal(p.grad, other.grad), name  # type: ignore[arg-type]


def test_branches_are_dropped_in_training_only_and_by_the_generator() -> None:
    plain, dropping = _spark(), _spark(drop_path=0.9)
    again = copy.deepcopy(dropping)
    first = _step(dropping)
    assert not torch.equal(first, _step(plain))
    assert torch.equal(first, _step(again))
    again.load_state_dict(plain.state_dict())
    image = torch.randn(2, 1, 64, 64, generator=generator())
    shown = [spark.eval().reconstruct(image, generator()).prediction_BCHW for spark in (plain, again)]
    assert torch.equal(*shown)


def test_without_masking_sparse_it_is_refused() -> None:
    with pytest.raises(ValidationError, match="drop_path is an option of masking sparse"):
        SparKSettings(masking="input", drop_path=0.05)

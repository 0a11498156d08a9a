"""An encoder in two: first stages that stay as they are, and a copy of the others that is trained.

Frozen stages give a film the same maps in every draw, so the maps of test films can be kept from one draw to the next.

Shape suffixes: B films, S side of the stored film, C channels, H and W sides of a map.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from scarce_cli.checkpoint import EncoderInfo
from scarce_cli.data.cache import Cache
from scarce_cli.data.loader import load_films, whole_films
from scarce_cli.evaluation.fewshot.films import Ints
from scarce_cli.models.resnet import Encoder

END_TO_END = 0
"""``unfreeze_from`` that trains every part of an encoder, the stem as well."""
HEAD_ALONE = 5
"""``unfreeze_from`` that trains none."""


def encoder_parts(encoder: Encoder, stage: int) -> list[nn.Module]:
    """Stem and stages 1 to ``stage``, in order; their modules are the encoder's own."""
    stem = nn.Sequential(encoder.conv1, encoder.bn1, encoder.relu, encoder.maxpool)
    return [stem, *encoder.stage_modules[:stage]]


def frozen_part(encoder: Encoder, first: int, stage: int) -> nn.Module:
    """What is before part ``first`` (0: the stem, 1 to 4: a stage): the encoder's own, to be run without gradient."""
    return nn.Sequential(*encoder_parts(encoder, stage)[:first])


def trained_part(encoder: Encoder, first: int, stage: int) -> nn.Module:
    """A copy of part ``first`` and those up to ``stage``, in evaluation mode.

    All but BatchNorms asks for gradients: their statistics would be those of a few films, and their scale and shift
    stay as well, as published.
    """
    part = copy.deepcopy(nn.Sequential(*encoder_parts(encoder, stage)[first:])).eval().requires_grad_(True)
    for module in part.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.requires_grad_(False)
    return part


class FrozenMaps:
    """Maps of whole films after the frozen stages of one encoder.

    They are kept on ``device`` in float32, the first that come, until ``budget`` bytes are full; others are computed
    again. What is kept changes time alone, up to the rounding of convolutions in batches of another size.

    Args:
        encoder: in evaluation mode; it is moved to ``device`` and otherwise left alone. It must not change afterwards.
        first: first part that is not frozen, as in `frozen_part`.
        budget: bytes; 0 keeps nothing.
    """

    def __init__(
        self,
        encoder: Encoder,
        info: EncoderInfo,
        cache: Cache,
        device: torch.device,
        *,
        first: int,
        stage: int = 4,
        budget: int = 1 << 30,
    ) -> None:
        assert not encoder.training, "its BatchNorms would learn from the films"
        self.encoder = encoder.to(device, memory_format=torch.channels_last)
        self.info, self.cache, self.device = info, cache, device
        self.first, self.stage = first, stage
        self._part = frozen_part(encoder, first, stage)
        self._free = budget
        self._kept: dict[int, Tensor] = {}

    @torch.no_grad()
    def of_views(self, views_B1HW: Tensor) -> Tensor:
        """(B, C, H, W) of views that are not kept; the views themselves where nothing is frozen."""
        maps: Tensor = self._part(views_B1HW.to(memory_format=torch.channels_last))
        return maps

    def of_films(self, rows: Ints, *, keep: bool = True) -> Tensor:
        """(B, C, H, W) of the whole films in these rows of the cache, seen as `evaluation.features` sees them."""
        wanted = rows.tolist()
        fresh = self._compute([row for row in wanted if row not in self._kept])
        maps = torch.stack([fresh[row] if row in fresh else self._kept[row] for row in wanted])
        if keep:
            self._keep(fresh)
        return maps.to(memory_format=torch.channels_last)

    def _compute(self, rows: Sequence[int]) -> dict[int, Tensor]:
        if not rows:
            return {}
        films_BSS = load_films(self.cache, np.array(rows, np.int64), self.device)
        views = whole_films(films_BSS, size=self.info.size, mean=self.info.mean, std=self.info.std)
        return dict(zip(rows, self.of_views(views), strict=True))

    def _keep(self, fresh: dict[int, Tensor]) -> None:
        size = sum(maps.numel() * maps.element_size() for maps in fresh.values())
        if fresh and size <= self._free:
            self._kept.update(fresh)
            self._free -= size

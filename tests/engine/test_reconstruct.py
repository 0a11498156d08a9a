"""Whole films through a method that paints."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from scarce_cli.checkpoint import EncoderInfo
from scarce_cli.config import AugmentSettings, Settings
from scarce_cli.data.augment import View
from scarce_cli.data.cache import Cache, open_cache
from scarce_cli.engine.reconstruct import reconstruct_films
from scarce_cli.errors import UsageError
from scarce_cli.figures.reconstruction import Row, composite
from scarce_cli.methods.base import Method, Progress, StepOutput, ViewSpec
from scarce_cli.methods.spark import SparK, SparKSettings
from scarce_cli.models.resnet import Encoder, build_encoder

INFO = EncoderInfo("resnet18", 32, 0.5, 0.25)
CPU = torch.device("cpu")


@pytest.fixture
def cache(dataset: Path) -> Cache:
    return open_cache(dataset)


def rows(cache: Cache, count: int = 5, seed: int = 0) -> list[Row]:
    torch.manual_seed(0)
    spark = SparK.build(
        build_encoder("resnet18", seed=0), SparKSettings(masking="input", patch=8, decoder_width=16), 32
    ).eval()
    return reconstruct_films(spark, INFO, cache, count=count, seed=seed, device=CPU)


def test_each_row_is_a_film_of_the_cache_in_grey_values(cache: Cache) -> None:
    found = rows(cache)
    assert len({row.name for row in found}) == 5
    for row in found:
        stored = np.asarray(cache.images[cache.names.index(row.name)]) / 255
        np.testing.assert_allclose(row.original, stored, atol=1e-6)
        assert row.patch == 8
        assert row.visible.shape == row.prediction.shape == (32, 32)
        assert row.visible.sum() == 6 * 64  # of 16 patches 60 % are hidden
        np.testing.assert_allclose(composite(row)[row.visible], stored[row.visible], atol=1e-6)


def test_the_seed_fixes_films_and_masks(cache: Cache) -> None:
    one, same, other = rows(cache), rows(cache), rows(cache, seed=1)
    for a, b in zip(one, same, strict=True):
        assert a.name == b.name
        assert np.array_equal(a.visible, b.visible)
        assert np.array_equal(a.prediction, b.prediction)
    assert [row.name for row in one] != [row.name for row in other]


def test_no_more_rows_than_films(cache: Cache) -> None:
    assert len(rows(cache, count=100)) == 48


class Blind(Method):
    """Cannot paint."""

    settings_type = Settings

    @classmethod
    def build(cls, encoder: Encoder, settings: Settings, size: int) -> Method:
        return cls(encoder)

    def view_specs(self, size: int, augment: AugmentSettings) -> Sequence[ViewSpec]:
        return []

    def forward(self, views: Sequence[View], progress: Progress, generator: torch.Generator) -> StepOutput:
        raise NotImplementedError


def test_a_method_that_does_not_paint_says_so(cache: Cache) -> None:
    with pytest.raises(UsageError, match="Blind does not reconstruct films"):
        reconstruct_films(Blind(build_encoder("resnet18", seed=0)), INFO, cache, count=1, seed=0, device=CPU)

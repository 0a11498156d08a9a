"""Frozen encoders: restored as they were saved, and features that belong to their films."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from scarce_cli.checkpoint import EncoderInfo, SavedEncoder
from scarce_cli.config import AugmentSettings
from scarce_cli.data.cache import Cache, open_cache
from scarce_cli.data.loader import load_films, whole_films
from scarce_cli.errors import DamagedData, UsageError
from scarce_cli.evaluation.features import extract_features, extract_view_features, random_encoder, restore_encoder
from scarce_cli.models.resnet import Encoder, build_encoder

INFO = EncoderInfo("resnet18", 32, 0.5, 0.25)
CPU = torch.device("cpu")
AUGMENT = AugmentSettings(blur_kernel=(3, 5))
NOTHING = AugmentSettings(
    crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0), flip_probability=0.0, jitter_probability=0.0, blur_probability=0.0,
    blur_kernel=(1, 1), noise_std=0.0,
)  # fmt: skip


@pytest.fixture
def cache(dataset: Path) -> Cache:
    return open_cache(dataset)


def saved(state: Mapping[str, Tensor], **info: Any) -> SavedEncoder:
    return SavedEncoder(
        state=dict(state), info=replace(INFO, **info), path=Path("x.pt"), digest="", method="spark", epoch=1,
        seed=7, data={},
    )  # fmt: skip


def test_an_encoder_comes_back_as_it_was_in_evaluation_mode() -> None:
    encoder = build_encoder("resnet18", seed=3)
    restored = restore_encoder(saved(encoder.state_dict()))
    assert not restored.training
    assert restored.state_dict().keys() == encoder.state_dict().keys()
    for name, tensor in encoder.state_dict().items():
        assert torch.equal(restored.state_dict()[name], tensor), name


def test_the_random_encoder_is_what_training_started_from() -> None:
    start = build_encoder("resnet18", seed=7)
    random = random_encoder(saved({}))
    assert not random.training
    assert all(torch.equal(a, b) for a, b in zip(random.parameters(), start.parameters(), strict=True))


def test_weights_of_another_architecture_are_named() -> None:
    with pytest.raises(UsageError, match=r"x\.pt does not hold a resnet50: \d+ weights differ") as raised:
        restore_encoder(saved(build_encoder("resnet18", seed=0).state_dict(), backbone="resnet50"))
    assert raised.value.message.count(",") == 5  # five keys, then an ellipsis


def test_a_missing_weight_a_foreign_one_and_a_wrong_shape_are_named() -> None:
    state = build_encoder("resnet18", seed=0).state_dict()
    del state["layer1.0.conv1.weight"]
    state["fc.weight"] = torch.zeros(3, 512)
    state["conv1.weight"] = torch.zeros(64, 3, 7, 7)
    with pytest.raises(UsageError, match=r"3 weights differ \(conv1\.weight, layer1\.0\.conv1\.weight, fc\.weight"):
        restore_encoder(saved(state))


def test_an_unknown_backbone_is_refused() -> None:
    with pytest.raises(UsageError, match="unknown backbone 'vit'"):
        restore_encoder(saved({}, backbone="vit"))


def test_features_belong_to_their_films_whatever_the_batch(cache: Cache) -> None:
    encoder, heard = build_encoder("resnet18", seed=0).eval(), []
    rows = np.random.default_rng(0).permutation(len(cache.names))
    features = extract_features(encoder, INFO, cache, rows, CPU, batch_size=7, on_films=heard.append)
    assert features.shape == (48, 512)
    assert features.dtype == np.float32
    assert heard == [7] * 6 + [6]
    alone = extract_features(encoder, INFO, cache, rows[20:21], CPU)
    np.testing.assert_allclose(features[20:21], alone, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        views = whole_films(load_films(cache, rows[:3], CPU), size=32, mean=0.5, std=0.25)
        np.testing.assert_allclose(features[:3], encoder(views).numpy(), rtol=1e-4, atol=1e-5)


def test_looking_changes_nothing(cache: Cache) -> None:
    encoder = build_encoder("resnet18", seed=0).eval()
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    random_state = torch.get_rng_state()
    first = extract_features(encoder, INFO, cache, np.arange(10), CPU)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(torch.equal(tensor, before[name]) for name, tensor in encoder.state_dict().items())
    assert (extract_features(encoder, INFO, cache, np.arange(10), CPU) == first).all()


def test_films_are_seen_at_the_size_and_scale_of_the_checkpoint(cache: Cache) -> None:
    encoder = build_encoder("resnet18", seed=0).eval()
    here = extract_features(encoder, INFO, cache, np.arange(4), CPU)
    for changed in (replace(INFO, size=64), replace(INFO, mean=0.1), replace(INFO, std=1.0)):
        assert not np.allclose(extract_features(encoder, changed, cache, np.arange(4), CPU), here, rtol=0.01)


def test_weights_that_overflow_are_reported(cache: Cache) -> None:
    encoder: Encoder = build_encoder("resnet18", seed=0).eval()
    with torch.no_grad():
        encoder.conv1.weight.fill_(1e38)
    with pytest.raises(DamagedData, match="not finite"):
        extract_features(encoder, INFO, cache, np.arange(2), CPU)


def test_an_earlier_stage_gives_its_own_features(dataset: Path) -> None:
    cache, info = open_cache(dataset), EncoderInfo("resnet18", 32, 0.5, 0.25)
    encoder = build_encoder("resnet18", seed=0).eval()
    rows, device = np.arange(4), torch.device("cpu")
    widths = [extract_features(encoder, info, cache, rows, device, stage=n).shape for n in (1, 2, 3, 4)]
    assert widths == [(4, 64), (4, 128), (4, 256), (4, 512)]
    last = extract_features(encoder, info, cache, rows, device)
    assert np.array_equal(last, extract_features(encoder, info, cache, rows, device, stage=4))


def test_views_that_change_nothing_are_the_whole_films(cache: Cache) -> None:
    encoder, rows = build_encoder("resnet18", seed=0).eval(), np.array([5, 0, 31])
    views = extract_view_features(encoder, INFO, cache, rows, CPU, augment=NOTHING, views=2, seed=0)
    assert views.shape == (2, 3, 512)
    assert views.dtype == np.float32
    whole = extract_features(encoder, INFO, cache, rows, CPU)
    for number in range(2):
        np.testing.assert_allclose(views[number], whole, rtol=1e-3, atol=1e-4)


def test_a_view_belongs_to_seed_film_and_number_whatever_the_batch(cache: Cache) -> None:
    encoder, heard = build_encoder("resnet18", seed=0).eval(), []
    rows = np.random.default_rng(0).permutation(len(cache.names))[:10]

    def look(rows: np.ndarray, **changed: Any) -> np.ndarray:
        asked = {"augment": AUGMENT, "views": 3, "seed": 4} | changed
        return extract_view_features(encoder, INFO, cache, rows, CPU, **asked)

    views = look(rows, batch_size=4, on_films=heard.append)
    assert heard == [4] * 6 + [2] * 3
    np.testing.assert_allclose(views[:, 6:7], look(rows[6:7]), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(views[:2], look(rows, views=2), rtol=1e-4, atol=1e-5)
    for other in (views[[1, 2, 0]], look(rows, seed=5)):
        assert (np.abs(views - other).max(axis=2) > 0.01).all()


def test_looking_at_views_changes_nothing(cache: Cache) -> None:
    encoder = build_encoder("resnet18", seed=0).eval()
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    random_state = torch.get_rng_state()
    extract_view_features(encoder, INFO, cache, np.arange(4), CPU, augment=AUGMENT, views=2, seed=0)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(torch.equal(tensor, before[name]) for name, tensor in encoder.state_dict().items())


def test_weights_that_overflow_on_views_are_reported(cache: Cache) -> None:
    encoder: Encoder = build_encoder("resnet18", seed=0).eval()
    with torch.no_grad():
        encoder.conv1.weight.fill_(1e38)
    with pytest.raises(DamagedData, match="not finite"):
        extract_view_features(encoder, INFO, cache, np.arange(2), CPU, augment=NOTHING, views=1, seed=0)

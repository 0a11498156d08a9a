"""Fine-tuning: it starts as the prototype classifier, moves what it may, leaves the rest bit for bit, and learns."""

from __future__ import annotations

import mmap
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss, roc_auc_score
from torch import Tensor, nn

from scarce_cli.checkpoint import EncoderInfo
from scarce_cli.config import AugmentSettings
from scarce_cli.data.cache import Cache
from scarce_cli.data.loader import whole_films
from scarce_cli.errors import UsageError
from scarce_cli.evaluation.features import NotFinite, extract_features
from scarce_cli.evaluation.fewshot import finetune
from scarce_cli.evaluation.fewshot.episodes import Support
from scarce_cli.evaluation.fewshot.finetune import MILD, FinetuneSettings, finetune_scores
from scarce_cli.evaluation.fewshot.frozen import FrozenMaps
from scarce_cli.evaluation.fewshot.nearest import score_prototype
from scarce_cli.models.resnet import Encoder, build_encoder

CPU = torch.device("cpu")
SIDE = 32
INFO = EncoderInfo("resnet18", SIDE, 0.5, 0.25)
FILMS = 100
SICK = np.arange(FILMS) % 2 == 1
SUPPORT, TEST = np.r_[1:20:2, 0:20:2], np.arange(20, FILMS)
FEW = np.r_[1:6:2, 0:6:2]  # three films of each class
SHORT = FinetuneSettings(steps=3, batch_size=4)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    """Noise with a patch of stripes somewhere: upright ones in films with the finding, lying ones in the others."""
    rng, images = np.random.default_rng(0), np.empty((FILMS, SIDE, SIDE), np.uint8)
    for number in range(FILMS):
        film, (top, left) = rng.normal(128, 30, (SIDE, SIDE)), rng.integers(2, SIDE - 14, 2)
        stripes = np.broadcast_to(40 * np.cos(np.pi / 2 * np.arange(12) + rng.uniform(0, 6)), (12, 12))
        film[top : top + 12, left : left + 12] += stripes if SICK[number] else stripes.T
        images[number] = film.clip(0, 255).astype(np.uint8)
    file = tmp_path_factory.mktemp("films") / "pixels"
    file.write_bytes(images.tobytes())
    with file.open("rb") as handle:
        mapped = mmap.mmap(handle.fileno(), images.nbytes, access=mmap.ACCESS_READ)
    names = tuple(f"f{number}.png" for number in range(FILMS))
    return Cache(file.parent, images, names, SIDE, 0.5, 0.25, "", file, 0, mapped)


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    """A random one whose BatchNorms have seen something."""
    encoder = build_encoder("resnet18", seed=0)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder.train()(torch.randn(8, 1, SIDE, SIDE))
    return encoder.eval()


def tuned(
    encoder: Encoder, cache: Cache, settings: FinetuneSettings, rows: np.ndarray = FEW, **more: Any
) -> np.ndarray:
    asked = {"test_rows": TEST, "seed": 0, "stage": 2} | more
    test_rows, seed = asked.pop("test_rows"), asked.pop("seed")
    return finetune_scores(encoder, INFO, cache, rows, SICK[rows], test_rows, settings, CPU, seed=seed, **asked)


@pytest.mark.parametrize(
    ("first", "stage", "margin"), [(2, 4, 1.0), (0, 4, 3.0), (5, 4, 1.0), (2, 3, 1.0), (3, 2, 1.0)]
)
def test_before_the_first_step_films_stand_as_they_are_near_to_the_class_means(
    encoder: Encoder, cache: Cache, first: int, stage: int, margin: float
) -> None:
    settings = FinetuneSettings(steps=0, unfreeze_from=first, margin=margin)
    scores = tuned(encoder, cache, settings, SUPPORT, stage=stage)
    features = extract_features(encoder, INFO, cache, np.arange(FILMS), CPU, stage=stage).astype(np.float64)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    sick, well = unit[SUPPORT[:10]].mean(axis=0), unit[SUPPORT[10:]].mean(axis=0)
    nearer = np.square(unit[TEST] - well).sum(axis=1) - np.square(unit[TEST] - sick).sum(axis=1)
    np.testing.assert_allclose(scores, margin * nearer / np.square(sick - well).sum(), rtol=1e-3, atol=1e-4)
    (others,) = score_prototype(unit, [Support(SUPPORT, SICK[SUPPORT])], TEST)
    assert np.argsort(scores).tolist() == np.argsort(nearer).tolist() == np.argsort(others).tolist()


@pytest.mark.parametrize(("first", "stage", "moving"), [(0, 2, 10), (2, 4, 15), (3, 3, 5), (5, 4, 0)])
def test_only_convolutions_from_the_first_part_on_move_and_only_in_the_copy(
    encoder: Encoder, cache: Cache, monkeypatch: pytest.MonkeyPatch, first: int, stage: int, moving: int
) -> None:
    copies: list[nn.Module] = []

    def spied(*arguments: Any) -> nn.Module:
        copies.append(finetune_copy(*arguments))
        return copies[-1]

    finetune_copy = finetune.trained_part
    monkeypatch.setattr(finetune, "trained_part", spied)
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    tuned(encoder, cache, replace(SHORT, unfreeze_from=first), stage=stage)
    assert not encoder.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in encoder.parameters())
    for name, tensor in encoder.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    (copy,) = copies
    fresh = finetune_copy(encoder, first, stage)
    moved = {name for name, tensor in copy.state_dict().items() if not torch.equal(tensor, fresh.state_dict()[name])}
    assert moved == {f"{name}.weight" for name, module in copy.named_modules() if isinstance(module, nn.Conv2d)}
    assert len(moved) == moving


def test_it_learns_what_the_frozen_features_do_not_show(encoder: Encoder, cache: Cache) -> None:
    whole = FinetuneSettings(unfreeze_from=0, steps=15, lr=2e-4)
    tried = replace(whole, steps=0), replace(whole, unfreeze_from=5), whole
    start, head, end = (roc_auc_score(SICK[TEST], tuned(encoder, cache, settings, SUPPORT)) for settings in tried)
    assert start < 0.8
    assert start < head < 0.87
    assert end > 0.93


def test_a_seed_repeats_bit_for_bit_and_touches_no_random_state(encoder: Encoder, cache: Cache) -> None:
    state = torch.get_rng_state()
    first, again, other = (tuned(encoder, cache, SHORT, seed=seed) for seed in (3, 3, 4))
    assert first.dtype == np.float64
    assert np.array_equal(first, again)
    assert not np.allclose(first, other, rtol=1e-3)
    assert torch.equal(torch.get_rng_state(), state)


def test_kept_maps_change_nothing_and_are_computed_once(
    encoder: Encoder, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed: list[int] = []
    whole = FrozenMaps._compute
    monkeypatch.setattr(FrozenMaps, "_compute", lambda maps, rows: computed.extend(rows) or whole(maps, rows))
    without = tuned(encoder, cache, SHORT)
    frozen = FrozenMaps(encoder, INFO, cache, CPU, first=2, stage=2)
    computed.clear()
    assert np.array_equal(tuned(encoder, cache, SHORT, frozen=frozen), without)
    assert sorted(computed) == sorted([*FEW, *TEST])
    computed.clear()
    assert np.array_equal(tuned(encoder, cache, SHORT, frozen=frozen), without)
    backwards = tuned(encoder, cache, SHORT, frozen=frozen, test_rows=TEST[::-1])
    np.testing.assert_allclose(backwards[::-1], without, rtol=1e-4, atol=1e-5)
    assert sorted(computed) == sorted([*FEW, *FEW])  # support sets change from draw to draw: theirs are not kept


def test_maps_are_kept_within_their_budget(encoder: Encoder, cache: Cache) -> None:
    one = 64 * (SIDE // 4) ** 2 * 4
    frozen = FrozenMaps(encoder, INFO, cache, CPU, first=2, budget=5 * one)
    rows = np.arange(9)
    maps = torch.cat([frozen.of_films(part) for part in (rows[:4], rows[4:7], rows[7:8], rows[8:])])
    assert set(frozen._kept) == {0, 1, 2, 3, 7}
    with torch.no_grad():
        expected = encoder.stages(whole_films(torch.from_numpy(cache.images[rows]), size=SIDE, mean=0.5, std=0.25))[0]
    torch.testing.assert_close(frozen.of_films(rows), expected)
    torch.testing.assert_close(maps, expected)


def test_maps_of_other_stages_are_refused(encoder: Encoder, cache: Cache) -> None:
    with pytest.raises(AssertionError, match="of another encoder"):
        tuned(encoder, cache, SHORT, frozen=FrozenMaps(encoder, INFO, cache, CPU, first=3, stage=2))


@pytest.mark.parametrize(("shots", "batch", "half"), [(1, 16, 1), (5, 4, 2), (7, 16, 7), (6, 6, 3)])
def test_every_step_has_as_many_of_both_classes_and_every_round_each_film_once(
    shots: int, batch: int, half: int
) -> None:
    settings = FinetuneSettings(steps=13, batch_size=batch)
    labels = np.random.default_rng(0).permutation(np.arange(2 * shots) < shots)
    steps = list(finetune._steps(labels, settings, 5))
    assert np.shape(steps) == (13, 2 * half)
    assert sum(map(len, steps)) == settings.training_films(2 * shots)
    assert (labels[np.array(steps)].sum(axis=1) == half).all()
    in_round = shots // half
    for start in range(0, 13, in_round):
        seen = np.concatenate(steps[start : start + in_round])
        assert len(set(seen)) == len(seen)


def test_who_waits_hears_of_every_film(encoder: Encoder, cache: Cache) -> None:
    heard: list[int] = []
    tuned(encoder, cache, SHORT, on_films=heard.append)
    assert heard == [4, 4, 4, 64, 16]
    assert sum(heard) == SHORT.training_films(len(FEW)) + len(TEST)


def test_brightness_is_changed_before_normalisation(encoder: Encoder, cache: Cache) -> None:
    """The published code jittered normalised films, which its library cuts off below 0."""
    nothing = {
        name: getattr(MILD, name) for name in ("blur_probability", "blur_kernel", "noise_std", "flip_probability")
    }
    still = AugmentSettings(crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0), brightness=0.3, contrast=0.0,
                            jitter_probability=1.0, **nothing)  # fmt: skip
    frozen, settings = FrozenMaps(encoder, INFO, cache, CPU, first=2), FinetuneSettings(augment=still)
    films = torch.from_numpy(cache.images[FEW]).float() / 255

    def seen(step: int) -> Tensor:
        return finetune._views(frozen, FEW, settings, seed=0, step=step)[:, 0] * INFO.std + INFO.mean

    factors = (seen(0).sum(dim=(1, 2)) / films.sum(dim=(1, 2)))[:, None, None]
    assert factors.min() < 0.95
    assert factors.max() > 1.02
    torch.testing.assert_close(seen(0), (films * factors).clamp(0, 1), atol=0.02, rtol=0)
    assert not torch.allclose(seen(1), seen(0), atol=0.02)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_smoothed_labels_ask_for_no_more_than_they_say(smoothing: float) -> None:
    log_odds = torch.linspace(-6, 6, 9, dtype=torch.float64)
    labels = np.arange(9) % 3 == 0
    share = np.where(labels, 1 - smoothing / 2, smoothing / 2)
    expected = log_loss(np.repeat([[0, 1]], 9, axis=0).ravel(), np.repeat(log_odds.sigmoid().numpy(), 2),
                        sample_weight=np.stack([1 - share, share], axis=1).ravel())  # fmt: skip
    assert finetune._loss(log_odds, labels, smoothing).item() == pytest.approx(expected, rel=1e-12)


def test_what_is_not_finite_is_reported(encoder: Encoder, cache: Cache) -> None:
    with pytest.raises(NotFinite, match="loss that is not finite at step 2") as raised:
        tuned(encoder, cache, replace(SHORT, lr=1e30))
    assert "lower learning rate" in raised.value.remedy
    large = build_encoder("resnet18", seed=0).eval()
    with torch.no_grad():
        large.conv1.weight.fill_(1e38)
    with pytest.raises(NotFinite, match="scores that are not finite"):
        tuned(large, cache, replace(SHORT, steps=0))


def test_a_part_that_no_encoder_has_is_refused() -> None:
    with pytest.raises(UsageError, match="part 6"):
        FinetuneSettings(unfreeze_from=6)


def test_films_that_are_all_alike_give_no_opinion(encoder: Encoder, cache: Cache) -> None:
    same = replace(cache, images=np.broadcast_to(cache.images[:1], cache.images.shape))
    scores = tuned(encoder, same, FinetuneSettings(steps=0))
    assert np.abs(scores).max() < 0.01

"""Who is compared: baselines of the same architecture, features computed once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from scarce_cli import checkpoint
from scarce_cli.checkpoint import EncoderInfo, SavedEncoder, load_encoder
from scarce_cli.data.cache import open_cache
from scarce_cli.errors import UsageError
from scarce_cli.evaluation.features import extract_features
from scarce_cli.evaluation.fewshot import contenders as module
from scarce_cli.evaluation.fewshot.contenders import contenders, encode
from scarce_cli.evaluation.fewshot.store import Store
from scarce_cli.models.resnet import build_encoder

INFO = EncoderInfo("resnet18", 32, 0.5, 0.25)


def saved(path: str, info: EncoderInfo = INFO, seed: int = 5, epoch: int = 1) -> SavedEncoder:
    encoder = build_encoder(info.backbone, seed=seed).state_dict()  # type: ignore[arg-type]
    origin = {"method": "spark", "epoch": epoch, "seed": 0, "data": {"digest": "d"}}
    origin["trained_on"] = torch.tensor([3, 1, 3])
    checkpoint.save(Path(path), encoder=encoder, info=info, origin=origin)
    return load_encoder(Path(path))


def test_baselines_come_first_and_are_matched(weights: Path) -> None:
    found = contenders([saved("a.pt"), saved("b.pt", epoch=2)], random_weights=3, imagenet=weights)
    assert [(one.name, one.baselines) for one in found] == [
        ("random", ()),
        ("imagenet", ("random",)),
        ("spark epoch 1", ("random", "imagenet")),
        ("spark epoch 2", ("random", "imagenet", "spark epoch 1")),
    ]
    random, imagenet, first, _ = found
    assert {one.row.backbone for one in found} == {"resnet18"}
    assert (random.row.weights, len(random.encoders), imagenet.info.mean, imagenet.info.std) == (3, 3, 0.449, 0.226)
    assert first.trained_on is not None
    assert (first.trained_on.tolist(), first.trained_data) == ([1, 3], "d")
    for seed, build in enumerate(random.encoders):
        expected = build_encoder("resnet18", seed=seed).state_dict()
        torch.testing.assert_close(build().state_dict(), expected, rtol=0, atol=0)
        assert not build().training


def test_each_architecture_has_its_own_random_one() -> None:
    other = saved("b.pt", EncoderInfo("resnet18", 64, 0.5, 0.25))
    found = contenders([saved("a.pt"), other, saved("c.pt", EncoderInfo("resnet18", 64, 0.4, 0.25))], random_weights=1,
                       imagenet=None)  # fmt: skip
    names = [one.name for one in found]
    assert names[:3] == [
        "random resnet18, 32 px",
        "random resnet18, 64 px, grey 0.500 ± 0.250",
        "random resnet18, 64 px, grey 0.400 ± 0.250",
    ]
    assert [one.baselines[0] for one in found[3:]] == names[:3]


def test_weights_of_another_network_are_no_baseline() -> None:
    torch.save(build_encoder("resnet50", seed=0).state_dict(), "r50.pth")
    with pytest.raises(UsageError, match=r"r50\.pth holds no weights of a resnet18"):
        contenders([saved("a.pt")], random_weights=1, imagenet=Path("r50.pth"))


def test_features_are_computed_once_in_parts(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PART", 4)
    cache, device, store = open_cache(dataset), torch.device("cpu"), Store(Path("kept"))
    random, first = contenders([saved("a.pt")], random_weights=2, imagenet=None)
    heard: list[int] = []
    rows = np.array([7, 1, 30, 4, 5, 6], np.int64)
    found = encode(first, cache, rows, device, stage=3, store=store, on_films=heard.append)
    expected = extract_features(first.encoders[0](), first.info, cache, rows, device, stage=3)
    np.testing.assert_allclose(found[0], expected, rtol=1e-5, atol=1e-6)
    assert sum(heard) == 6

    calls: list[int] = []
    real = module.extract_features

    def count(encoder: object, info: object, cache: object, rows: np.ndarray, *rest: object, **more: object) -> object:
        calls.append(len(rows))
        return real(encoder, info, cache, rows, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "extract_features", count)
    again = encode(first, cache, np.append(rows, 9), device, stage=3, store=store, on_films=heard.append)
    assert calls == [1]
    np.testing.assert_array_equal(again[0][:6], found[0])
    assert sum(heard) == 13
    assert len(encode(random, cache, rows, device, stage=3, store=store, on_films=heard.append)) == 2
    assert encode(first, cache, rows, device, stage=4, store=store, on_films=heard.append)[0].shape == (6, 512)
    assert calls == [1, 4, 2, 4, 2, 4, 2]

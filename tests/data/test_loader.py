"""Films on their way from the cache: which, in what order, and as evaluation sees them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms import functional as TF

from scarce_cli.data.cache import Cache, open_cache
from scarce_cli.data.loader import iterate_films, load_films, whole_films

CPU = torch.device("cpu")


@pytest.fixture
def cache(dataset: Path) -> Cache:
    return open_cache(dataset)


def test_films_come_by_row_as_they_are_stored(cache: Cache) -> None:
    rows = np.array([5, 0, 47, 5])
    films = load_films(cache, rows, CPU)
    assert films.dtype == torch.uint8
    assert (films.numpy() == np.asarray(cache.images)[rows]).all()


def test_a_film_that_is_written_on_does_not_change_the_cache(cache: Cache) -> None:
    before = np.array(cache.images[3])
    load_films(cache, np.array([3]), CPU).zero_()
    assert (cache.images[3] == before).all()


def test_films_reach_a_gpu_through_pinned_memory_without_waiting(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a GPU: pinned memory is ordinary memory here, and the copy is caught."""
    rows, empty, pinned, copies = np.array([7, 3]), torch.empty, [], []

    def staging(*shape: int, pin_memory: bool, **kwargs: Any) -> Tensor:
        pinned.append(pin_memory)
        return empty(*shape, **kwargs)

    monkeypatch.setattr(torch, "empty", staging)
    monkeypatch.setattr(Tensor, "to", lambda films, *to, **how: (copies.append((films, to, how)), films)[1])
    films = load_films(cache, rows, torch.device("cuda"))
    ((staged, to, how),) = copies
    assert films is staged
    assert (to, how, pinned) == ((torch.device("cuda"),), {"non_blocking": True}, [True])
    assert (staged.numpy() == np.asarray(cache.images)[rows]).all()


@pytest.mark.parametrize("batch", [1, 5, 7, 100])
def test_batches_hold_all_rows_in_order(cache: Cache, batch: int) -> None:
    rows = np.random.default_rng(0).permutation(48)[:35]
    batches = list(iterate_films(cache, rows, batch, CPU))
    assert [len(films) for films in batches[:-1]] == [batch] * (len(batches) - 1)
    assert (torch.cat(batches).numpy() == np.asarray(cache.images)[rows]).all()


def test_no_rows_give_no_batch(cache: Cache) -> None:
    assert list(iterate_films(cache, np.array([], np.int64), 4, CPU)) == []


def test_whole_films_are_scaled_and_normalised() -> None:
    films = torch.tensor([[[0, 255], [51, 102]]], dtype=torch.uint8)
    seen = whole_films(films, size=2, mean=0.5, std=0.25)
    assert seen.dtype == torch.float32
    torch.testing.assert_close(seen, torch.tensor([[[[-2.0, 2.0], [-1.2, -0.4]]]]))


@pytest.mark.parametrize("size", [24, 48, 96])
def test_resizing_agrees_with_torchvision_and_does_not_alias(size: int) -> None:
    films = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 64, 64), dtype=np.uint8))
    seen = whole_films(films, size=size, mean=0.0, std=1.0)
    wanted = TF.resize(films[:, None].float() / 255, [size, size], antialias=True)
    torch.testing.assert_close(seen, wanted, rtol=0, atol=1e-6)
    board = torch.from_numpy((np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8))[None]
    assert whole_films(board, size=24, mean=0.0, std=1.0).std() < 0.1

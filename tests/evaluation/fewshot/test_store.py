"""What is kept comes back as it was, in parts; what is damaged, foreign or of another key never does."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from scarce_cli.evaluation.fewshot.store import Store, key_of


def some(rows: list[int], dimensions: int = 3) -> tuple[np.ndarray, np.ndarray]:
    numbers = np.array(rows, np.int64)
    return numbers, (numbers[:, None] * 10 + np.arange(dimensions)).astype(np.float32)


def test_features_come_back_in_the_order_asked_for(tmp_path: Path) -> None:
    store = Store(tmp_path / "cache")
    assert store.features("k", np.array([1, 2]))[1] is None
    assert not (tmp_path / "cache").exists()
    store.add_features("k", *some([5, 2]))
    store.add_features("k", *some([9]))
    known, found = store.features("k", np.array([9, 7, 2]))
    assert known.tolist() == [True, False, True]
    assert found is not None
    np.testing.assert_array_equal(found[known], some([9, 2])[1])
    assert store.features("other", np.array([9]))[1] is None


@pytest.mark.parametrize("harm", ["cut", "flip", "text", "nan", "shape", "pickle"])
def test_a_damaged_part_is_computed_again(tmp_path: Path, harm: str) -> None:
    store = Store(tmp_path)
    store.add_features("k", *some([1, 2]))
    store.add_features("k", *some([3]))
    path = next(iter(sorted((tmp_path / "features-k").glob("00000001*"))))
    data = bytearray(path.read_bytes())
    if harm == "cut":
        path.write_bytes(data[: len(data) // 2])
    elif harm == "flip":
        data[data.index(some([1, 2])[1].tobytes())] ^= 1
        path.write_bytes(data)
    elif harm == "text":
        path.write_text("text")
    elif harm == "nan":
        np.savez(path, rows=some([1, 2])[0], features=np.full((2, 3), np.nan, np.float32))
    elif harm == "shape":
        np.savez(path, rows=some([1, 2])[0], features=np.zeros((3, 3), np.float32))
    else:
        np.savez(path, rows=np.array([print, print]), features=np.zeros((2, 3), np.float32))
    known, found = store.features("k", np.array([1, 2, 3]))
    assert known.tolist() == [False, False, True]
    assert found is not None
    np.testing.assert_array_equal(found[2], some([3])[1][0])


@pytest.mark.parametrize("at", ["pre_fsync", "pre_rename", "post_rename"])
def test_a_kill_leaves_whole_parts(tmp_path: Path, child: Callable[..., int], at: str) -> None:
    store = Store(tmp_path)
    store.add_features("k", *some([1, 2]))
    assert child(lambda: store.add_features("k", *some([3])), f"store.{at}:1:kill") == -signal.SIGKILL
    known, found = store.features("k", np.array([1, 2, 3]))
    assert known.tolist() == [True, True, at == "post_rename"]
    assert found is not None
    np.testing.assert_array_equal(found[known], some([1, 2, 3])[1][known])


def test_scores_come_back(tmp_path: Path) -> None:
    store, scores = Store(tmp_path), np.random.default_rng(0).standard_normal((2, 5))
    assert store.scores("k") is None
    store.add_scores("k", scores)
    np.testing.assert_array_equal(store.scores("k"), scores)
    (tmp_path / "scores-k.npz").write_bytes(b"")
    assert store.scores("k") is None


def test_a_key_is_of_all_values_in_any_order() -> None:
    assert key_of({"a": 1, "b": [2, "x"]}) == key_of({"b": [2, "x"], "a": 1})
    assert len({key_of({"a": 1}), key_of({"a": 2}), key_of({"b": 1}), key_of({"a": "1"})}) == 4

"""Batches: each film once an epoch, fixed by seed and epoch."""

from __future__ import annotations

import numpy as np
import pytest

from scarce_cli.data.order import batch_rows, epoch_order, steps_per_epoch
from scarce_cli.errors import UsageError


def test_an_epoch_is_a_permutation_fixed_by_seed_and_epoch() -> None:
    first = epoch_order(100, seed=3, epoch=0)
    assert sorted(first) == list(range(100))
    assert np.array_equal(first, epoch_order(100, seed=3, epoch=0))
    assert not np.array_equal(first, epoch_order(100, seed=3, epoch=1))
    assert not np.array_equal(first, epoch_order(100, seed=4, epoch=0))


def test_whole_batches_without_overlap() -> None:
    order = epoch_order(103, seed=0, epoch=0)
    batches = [batch_rows(order, 10, n) for n in range(steps_per_epoch(103, 10))]
    assert [len(b) for b in batches] == [10] * 10
    assert len(np.unique(np.concatenate(batches))) == 100


@pytest.mark.parametrize("films", [0, 1, 7])
def test_fewer_films_than_a_batch_names_both_numbers_and_a_size_that_fits(films: int) -> None:
    with pytest.raises(UsageError, match=f"{films} films.*batch of 8") as error:
        steps_per_epoch(films, 8)
    assert "run.batch_size=" in error.value.remedy

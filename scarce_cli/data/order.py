"""Which films make which batch: fixed by (seed, epoch), known before anything heavy is loaded."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from scarce_cli.errors import UsageError


def epoch_order(films: int, *, seed: int, epoch: int) -> NDArray[np.int64]:
    """The order of the films in one epoch: a permutation fixed by (seed, epoch)."""
    return np.random.default_rng((seed, epoch)).permutation(films)


def steps_per_epoch(films: int, batch_size: int) -> int:
    """Whole batches in an epoch; which films are left over changes from epoch to epoch.

    Raises:
        UsageError: not even one batch.
    """
    if films < batch_size:
        smaller = 2 ** max(1, (max(films, 1)).bit_length() - 2)
        raise UsageError(
            f"the data set has {films} films, fewer than one batch of {batch_size}",
            f"add films, or --set run.batch_size={smaller}",
        )
    return films // batch_size


def batch_rows(order: NDArray[np.int64], batch_size: int, index: int) -> NDArray[np.int64]:
    """The films of one batch of an epoch: (B,)."""
    return order[index * batch_size : (index + 1) * batch_size]

"""How fast and how exact the collapse measures are: this program's way beside the usual ones.

    python tests/bench/collapse.py --films 512 2048 --dimensions 512 2048

Ours: effective rank from a Gram matrix and its eigenvalues, and the exact mean cosine, in float64. The usual way:
effective rank from a singular value decomposition, and the mean cosine of 10,000 random pairs, in float32; by torch's
``svdvals``, by torch's ``svd`` and by numpy's ``svd`` as it is, whose vectors nobody uses. All begin with the same
float32 features and take turns in one process; the figure is the ratio of the medians, with the least and the greatest
ratio of neighbours. Time is CPU time with one thread, which other work on the machine disturbs least, and time of day
with more. Then features near collapse are measured, whose effective rank is known.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits
from torch import Tensor

from scarce_cli.evaluation.collapse import effective_rank, entropy_rank, l2_normalize, mean_pairwise_cosine

Features = NDArray[np.float32]
Found = tuple[float, float]  # effective rank, mean cosine
_PAIRS = 10_000
_GRID = 2**22  # of float32 between 0.5 and 1


def main() -> None:
    """Print a line for each size, then the ranks near collapse."""
    options = _options()
    torch.set_num_threads(options.threads)
    with threadpool_limits(options.threads):  # numpy's, which torch does not set
        for films in options.films:
            for dimensions in options.dimensions:
                _compare(films, dimensions, options)
        _near_collapse(max(options.films), max(options.dimensions))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--films", type=int, nargs="+", default=[512, 2048])
    parser.add_argument("--dimensions", type=int, nargs="+", default=[512, 2048])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def ours(x_ND: Features) -> Found:
    """In float64."""
    rank = effective_rank(x_ND)
    return float("nan") if rank is None else rank, mean_pairwise_cosine(l2_normalize(x_ND.astype(np.float64)))


def usual(x_ND: Features, decompose: Callable[[Tensor], Tensor]) -> Found:
    """In float32, of sampled pairs."""
    z = torch.from_numpy(x_ND)
    p = decompose(z - z.mean(dim=0))
    p = p / p.sum()
    rank = torch.exp(-torch.xlogy(p, p).sum())
    unit = torch.nn.functional.normalize(z, dim=1)
    first, second = torch.randint(len(z), (2, _PAIRS))
    return float(rank), float((unit[first] * unit[second]).sum(dim=1)[first != second].mean())


WAYS: dict[str, Callable[[Features], Found]] = {
    "ours, float64": ours,
    "torch svdvals, float32": lambda x: usual(x, torch.linalg.svdvals),
    "torch svd, float32": lambda x: usual(x, lambda z: torch.linalg.svd(z, full_matrices=False).S),
    "numpy svd, float32": lambda x: usual(x, lambda z: torch.from_numpy(np.linalg.svd(z.numpy()).S)),
}


def draw(films: int, dimensions: int) -> Features:
    """Like a network's features: not negative, with a mean, and ever narrower dimensions."""
    noise = np.random.default_rng(0).standard_normal((films, dimensions))
    return np.maximum(np.arange(1.0, dimensions + 1) ** -0.5 * (noise + 1), 0).astype(np.float32)


def _compare(films: int, dimensions: int, options: argparse.Namespace) -> None:
    """All ways take turns; the first round warms up."""
    clock = time.process_time if options.threads == 1 else time.perf_counter
    x = draw(films, dimensions)
    seconds: dict[str, list[float]] = {name: [] for name in WAYS}
    found: dict[str, Found] = {}
    for turn in range(options.rounds + 1):
        for name, way in WAYS.items():
            start = clock()
            found[name] = way(x)
            if turn:
                seconds[name].append(clock() - start)
    print(f"{films} films, {dimensions} dimensions, {options.threads} threads")
    first = next(iter(seconds.values()))
    for name, own in seconds.items():
        ratios, middle = [a / b for a, b in zip(own, first, strict=True)], statistics.median(own)
        times = f"{middle / statistics.median(first):5.2f} times ({min(ratios):.2f} to {max(ratios):.2f})"
        rank, cosine = found[name]
        print(f"  {name:22}  {1e3 * middle:7.1f} ms, {times}, effective rank {rank:.4f}, mean cosine {cosine:.5f}")


def near_collapse(films: int, dimensions: int) -> tuple[Features, float]:
    """Features that differ from each other by 5e-6 of themselves, in two directions, and their true effective rank.

    They are multiples of 2^-22, so that float32 holds them exactly: all error is the arithmetic's.
    """
    rng = np.random.default_rng(0)
    mean = rng.integers(_GRID // 2, _GRID, dimensions)
    two = 16 * rng.integers(-1, 2, (films, 2)) @ rng.integers(-1, 2, (2, dimensions))
    true = entropy_rank(np.linalg.svd(two - two.mean(axis=0), compute_uv=False)[:2])
    assert true is not None
    return ((mean + two) / _GRID).astype(np.float32), true


def _near_collapse(films: int, dimensions: int) -> None:
    x, true = near_collapse(films, dimensions)
    print(f"near collapse, {films} films, {dimensions} dimensions: effective rank {true:.4f} is true")
    for name, way in WAYS.items():
        print(f"  {name:22}  {way(x)[0]:.4f}")


if __name__ == "__main__":
    main()

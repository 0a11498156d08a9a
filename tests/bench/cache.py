"""Opening a cache and gathering batches, beside the plain way: python tests/bench/cache.py [--films 4096]

The plain way is the published one: decode every PNG, stack, move into shared memory with torch, and let a
DataLoader with 2 workers index it. Each opening runs in a process of its own, so that its memory can be told.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from PIL import Image

SIZE, BATCH = 256, 256


def status(name: str) -> int:
    """Bytes of one line of /proc/self/status."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024
    return 0


def own_memory() -> int:
    """Memory of this process that is not the page cache's."""
    return status("RssAnon") + status("RssShmem")


def open_plain(folder: Path) -> dict[str, Any]:
    """Decode, stack, share; seconds and peak memory beyond what the imports had taken."""
    import torch

    paths = sorted((folder / "images").iterdir())
    before, started = own_memory(), time.perf_counter()
    arrays = [np.asarray(Image.open(path)) for path in paths]
    stacked = np.stack(arrays)
    after_stack = own_memory()
    shared = torch.from_numpy(stacked).share_memory_()
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "memory": max(own_memory(), after_stack) - before, "data": shared.numel()}


def open_mapped(folder: Path) -> dict[str, Any]:
    """open_cache and one batch."""
    from scarce_cli.data.cache import gather, open_cache

    before, times = own_memory(), []
    for _ in range(5):
        started = time.perf_counter()
        cache = open_cache(folder)
        times.append(time.perf_counter() - started)
    out = np.empty((BATCH, SIZE, SIZE), np.uint8)
    gather(cache, np.random.default_rng(0).permutation(len(cache.images))[:BATCH], out)
    memory = own_memory() - before - out.nbytes
    return {"seconds": median(times), "memory": memory, "data": cache.images.nbytes}


def measured(way: str, folder: Path) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, __file__, "--way", way, "--folder", str(folder)], capture_output=True, text=True, check=True
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def make_data_set(place: Path, films: int) -> Path:
    """``films`` drawn films, prepared and cached."""
    from scarce_cli.data.build import build_from_images
    from scarce_cli.data.film import Settings
    from scarce_cli.data.preprocess import Request, preprocess

    source = place / f"films{films}"
    source.mkdir()
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 6, (films // 8 + SIZE, SIZE))
    for number in range(films):
        coarse = Image.fromarray(rng.normal(128, 50, (12, 12)).astype(np.float32))
        film = np.asarray(coarse.resize((SIZE, SIZE), Image.Resampling.BICUBIC))
        film = film + noise[number // 8 : number // 8 + SIZE]
        Image.fromarray(film.clip(0, 255).astype(np.uint8)).save(source / f"{number:05d}.png", compress_level=1)
    folder = place / f"films{films}-{SIZE}"
    preprocess(Request(source, folder, Settings(SIZE)))
    build_from_images(folder)
    return folder


def compare_opening(folders: list[Path]) -> None:
    print("\nopening (a process each)")
    for folder in folders:
        plain, mapped = measured("plain", folder), measured("mapped", folder)
        films = plain["data"] // SIZE**2
        for name, found in (("decode, stack, share", plain), ("map", mapped)):
            share = found["memory"] / found["data"]
            print(f"  {films:5d} films  {name:22s} {1e3 * found['seconds']:9.2f} ms   memory {share:7.1%} of the data")
        print(f"  {'':12s} {plain['seconds'] / mapped['seconds']:.0f} times faster")


def compare_batches(folder: Path, rounds: int) -> None:
    """Films per second: shuffled batches by np.take, by a DataLoader over a shared tensor; and a plain copy."""
    import torch
    from torch.utils.data import DataLoader, Dataset

    from scarce_cli.data.cache import gather, open_cache

    cache = open_cache(folder)
    count = len(cache.images) // BATCH * BATCH
    shared = torch.from_numpy(np.array(cache.images)).share_memory_()
    out = np.empty((BATCH, SIZE, SIZE), np.uint8)

    class Films(Dataset[torch.Tensor]):
        def __len__(self) -> int:
            return count

        def __getitem__(self, index: int) -> torch.Tensor:
            return shared[index]

    loader = DataLoader(Films(), BATCH, shuffle=True, num_workers=2, persistent_workers=True)
    list(zip(range(2), loader, strict=False))  # the workers are there before the clock starts

    def taken(turn: int) -> None:
        order = np.random.default_rng(turn).permutation(len(cache.images))[:count]
        for start in range(0, count, BATCH):
            gather(cache, order[start : start + BATCH], out)

    def loaded(turn: int) -> None:
        for _ in loader:
            pass

    def copied(turn: int) -> None:
        for start in range(0, count, BATCH):
            np.copyto(out, cache.images[start : start + BATCH])

    ways = {"sequential copy": copied, "np.take, shuffled": taken, "DataLoader, 2 workers, shuffled": loaded}
    rates: dict[str, list[float]] = {way: [] for way in ways}
    for turn in range(rounds):
        for way, run in ways.items():
            started = time.perf_counter()
            run(turn)
            rates[way].append(count / (time.perf_counter() - started))
    print(f"\nbatches of {BATCH}, {rounds} rounds by turns")
    for way, values in rates.items():
        print(f"  {way:34s} {median(values):10,.0f} films/s")
    for way in ("DataLoader, 2 workers, shuffled", "sequential copy"):
        ratio = median(a / b for a, b in zip(rates["np.take, shuffled"], rates[way], strict=True))
        print(f"  np.take is {ratio:.2f} times the {way}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--films", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--way", choices=["plain", "mapped"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        print(json.dumps((open_plain if options.way == "plain" else open_mapped)(options.folder)))
        return
    with tempfile.TemporaryDirectory() as place:
        folders = [make_data_set(Path(place), films) for films in (options.films // 8, options.films)]
        compare_opening(folders)
        compare_batches(folders[-1], options.rounds)


if __name__ == "__main__":
    main()

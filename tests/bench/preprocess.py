"""How fast and how exact preparing is, beside the plain way: python tests/bench/preprocess.py [--rounds 3]

The plain way is the published one: Pillow opens, numpy makes float32, min-max, uint8, Pillow resizes, PNG at
the default level. Same films, same number of worker processes, the three ways by turns in one run; a rate is
that of the steady state (from the first finished chunk to the last), the ratio the median over the rounds.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from statistics import median

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
from PIL import Image

from scarce_cli.data.build import build_from_films
from scarce_cli.data.decode import decode
from scarce_cli.data.film import Settings, to_square, window_of
from scarce_cli.data.pool import CHUNK
from scarce_cli.data.preprocess import Request, preprocess
from scarce_cli.data.resize import lanczos_matrix
from scarce_cli.data.sources import Source
from scarce_cli.data.worker import WORK, Job, film_worker

SIZE = 256


def draw_film(path: Path, side: int, bits: int, seed: int) -> None:
    """A film of about the size in bytes of a real one: soft anatomy and quantum noise."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.normal(0, 1, (24, 24)).astype(np.float32))
    soft = np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC))
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
    lungs = ((np.abs(x) - 0.42) / 0.3) ** 2 + (y / 0.7) ** 2 < 1
    film = 0.55 + 0.1 * soft - 0.25 * lungs + rng.normal(0, 0.0045, (side, side))
    top, kind = (255, np.uint8) if bits == 8 else (16383, np.uint16)
    Image.fromarray((film.clip(0, 1) * top).astype(kind)).save(path)


def make_films(folder: Path, count: int, unique: int, side: int, bits: int) -> Path:
    """``count`` files, of which ``unique`` differ (the others are copies: decoding does not notice)."""
    folder.mkdir(parents=True)
    for number in range(count):
        path = folder / f"{number:04d}.png"
        if number < unique:
            draw_film(path, side, bits, number)
        else:
            shutil.copy(folder / f"{number % unique:04d}.png", path)
    return folder


def plain(out: Path, paths: list[Path]) -> int:
    """The published code, for one chunk of films."""
    for path in paths:
        array = np.array(Image.open(path), dtype=np.float32)
        low, high = array.min(), array.max()
        array = (array - low) / (high - low) * 255
        image = Image.fromarray(array.astype("uint8"))
        image.resize((SIZE, SIZE), Image.Resampling.LANCZOS).save(out / path.name)
    return len(paths)


class Rate:
    """Films per second between the first and the last report."""

    def __init__(self) -> None:
        self.reports: list[tuple[float, int]] = []

    def __call__(self, done: int, total: int = 0, bad: int = 0) -> None:
        if done:
            self.reports.append((time.perf_counter(), done))

    def value(self) -> float:
        (start, first), (end, last) = self.reports[0], self.reports[-1]
        return (last - first) / (end - start)


def run_plain(films: Path, out: Path, workers: int) -> float:
    out.mkdir()
    paths, rate, done = sorted(films.iterdir()), Rate(), 0
    size = max(1, min(CHUNK, len(paths) // (4 * workers)))
    chunks = [paths[at : at + size] for at in range(0, len(paths), size)]
    with ProcessPoolExecutor(workers) as pool:
        for count in pool.map(partial(plain, out), chunks):
            done += count
            rate(done)
    return rate.value()


def run_png(films: Path, out: Path, workers: int) -> float:
    rate = Rate()
    preprocess(Request(films, out, Settings(SIZE), workers=workers), rate)
    return rate.value()


def run_cache(films: Path, out: Path, workers: int) -> float:
    rate = Rate()
    build_from_films(Request(films, out, Settings(SIZE), workers=workers), progress=rate)
    return rate.value()


def compare_speed(name: str, films: Path, rounds: int, workers: int) -> None:
    """One table: films per second of each way and the median ratio to the plain one."""
    ways: dict[str, Callable[[Path, Path, int], float]] = {
        "plain way": run_plain, "scarce, PNG files": run_png, "scarce, straight to cache": run_cache,
    }  # fmt: skip
    rates: dict[str, list[float]] = {way: [] for way in ways}
    with tempfile.TemporaryDirectory() as place:
        for turn in range(rounds):
            for way, run in ways.items():
                rates[way].append(run(films, Path(place) / f"{turn} {way}", workers))
    size = sum(path.stat().st_size for path in films.iterdir()) / len(list(films.iterdir()))
    print(
        f"\n{name}: {len(list(films.iterdir()))} films, {size / 1024:.0f} KiB each, {workers} workers, {rounds} rounds"
    )
    for way, values in rates.items():
        ratios = [value / base for value, base in zip(values, rates["plain way"], strict=True)]
        spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
        print(f"  {way:26s} {median(values):7.1f} films/s   {median(ratios):5.2f} times ({spread})")


def compare_processor_time(name: str, films: Path, rounds: int) -> None:
    """Milliseconds of processor time per film in one process, by turns: hardly disturbed by other work."""
    with tempfile.TemporaryDirectory() as place:
        out = Path(place)
        (out / "rows").write_bytes(bytes(SIZE**2))
        (out / "images").mkdir()
        (out / WORK).mkdir()
        to_png = film_worker(Job(films, out, Settings(SIZE)))
        to_row = film_worker(Job(films, out, Settings(SIZE), out / "rows"))
        paths = sorted(films.iterdir())[:12]
        times: dict[str, list[float]] = {"plain way": [], "scarce, PNG files": [], "scarce, straight to cache": []}
        for _ in range(rounds):
            for path in paths:
                source = Source(path.name, 0, 0)
                ways = (partial(plain, out, [path]), partial(to_png, (0, source)), partial(to_row, (0, source)))
                for way, run in zip(times, ways, strict=True):
                    started = time.process_time()
                    run()
                    times[way].append(time.process_time() - started)
    print(f"\n{name}: processor time per film")
    for way, values in times.items():
        ratio = median(times["plain way"]) / median(values)
        print(f"  {way:26s} {1e3 * median(values):7.1f} ms        {ratio:5.2f} times")


def compare_error(films: Path) -> None:
    """Grey levels away from a float64 Lanczos of the stretched, unrounded film."""
    print("\nerror against float64 Lanczos, in grey levels (minmax window, squash)")
    print("  film              way                                   largest      bias")
    for path in sorted(films.iterdir()):
        pixels = decode(path.read_bytes()).pixels
        low, high = window_of(pixels, "minmax")
        wide = (pixels.astype(np.float64) - low) / (high - low) * 255
        exact = lanczos_matrix(pixels.shape[0], SIZE) @ wide @ lanczos_matrix(pixels.shape[1], SIZE).T
        exact = exact.clip(0, 255)
        first = Image.fromarray(wide.astype(np.float32).astype(np.uint8))
        published = np.asarray(first.resize((SIZE, SIZE), Image.Resampling.LANCZOS))
        ours = to_square(pixels, low, high, Settings(SIZE, "minmax", "squash"))
        for way, square in (("quantised first, truncated (published)", published), ("quantised once, last", ours)):
            error = square - exact
            print(f"  {path.name:16s}  {way:38s} {np.abs(error).max():6.3f}  {error.mean():+8.4f}")


def compare_windows(films: list[Path]) -> None:
    """Grey levels that occur in the middle of the film, with either window."""
    print("\ngrey levels that occur in the central half of the prepared film")
    print("  film                                        minmax  percentile")
    for path in films:
        pixels = decode(path.read_bytes()).pixels
        counts = []
        for window in ("minmax", "percentile"):
            square = to_square(pixels, *window_of(pixels, window), Settings(SIZE, window, "squash"))
            counts.append(len(np.unique(square[64:192, 64:192])))
        print(f"  {path.name:42s} {counts[0]:7d} {counts[1]:11d}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--films", type=int, default=160)
    parser.add_argument("--odd", type=Path, help="folder of real films for the comparison of windows")
    parser.add_argument("--real", type=Path, nargs="*", default=[], help="real 1024 x 1024 films to time as well")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        large = make_films(Path(place) / "a", options.films, 12, 1024, 8)
        compare_speed("1024 x 1024, 8-bit PNG (drawn)", large, options.rounds, options.workers)
        compare_processor_time("1024 x 1024, 8-bit PNG (drawn)", large, options.rounds)
        if options.real:
            (Path(place) / "r").mkdir()
            for number in range(options.films):
                shutil.copy(options.real[number % len(options.real)], Path(place) / "r" / f"{number:04d}.png")
            compare_speed("1024 x 1024, 8-bit PNG (real)", Path(place) / "r", options.rounds, options.workers)
            compare_processor_time("1024 x 1024, 8-bit PNG (real)", Path(place) / "r", options.rounds)
        huge = make_films(Path(place) / "b", max(options.films // 8, 12), 3, 2500, 16)
        compare_speed("2500 x 2500, 16-bit PNG (drawn)", huge, options.rounds, options.workers)
        compare_processor_time("2500 x 2500, 16-bit PNG (drawn)", huge, options.rounds)
        few = make_films(Path(place) / "c", 1, 1, 1024, 8)
        draw_film(few / "0001 16 bit.png", 1024, 16, 1)
        compare_error(few)
        if options.odd:
            names = [path for path in sorted(options.odd.iterdir()) if path.suffix in (".png", ".dcm", ".tif")]
            compare_windows([path for path in names if not path.name.startswith(("trunc", "empty", "git", "dicom_no"))])


if __name__ == "__main__":
    main()
